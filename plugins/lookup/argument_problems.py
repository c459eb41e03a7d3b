# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a role's variables against its argument spec."""

from __future__ import annotations

DOCUMENTATION = r"""
name: argument_problems
short_description: List what is wrong with a role's variables, by name, without showing values
version_added: 0.2.0
description:
  - Reads the argument spec of a role and checks every variable of the run against it, so that a playbook can check the inputs of
    several roles before the first of them touches anything.
  - Other than M(ansible.builtin.validate_argument_spec) it never shows a value, says of an expression that cannot be evaluated which
    variable holds it, knows the variables that bear the role's prefix and are none of its own, and takes text for a boolean for the
    error that it is, because C("false") is true to an expression.
options:
  _terms:
    description: Directory of the role, its C(role_path).
    required: true
    type: list
    elements: path
  later:
    description: Variables that a playbook computes and hands to the role later. They are not looked at.
    type: list
    elements: str
    default: []
  rules:
    description: >-
      Names of variables to rules for their values, as P(campaign.platform.setting_problems#filter) knows them. A list's is the rule of each
      item.
    type: dict
    default: {}
notes:
  - A variable that begins with the role's name belongs to the role. One that neither its argument spec nor any of its files nor a
    playbook of this collection mentions is an error.
"""

EXAMPLES = r"""
- name: Check the role's variables
  ansible.builtin.assert:
    that: query('campaign.platform.argument_problems', role_path) | length == 0
    fail_msg: "{{ query('campaign.platform.argument_problems', role_path) | join(' ') }}"
"""

RETURN = r"""
_list:
  description: One message a problem; empty when all is well.
  type: list
  elements: str
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.campaign.platform.plugins.filter.setting_problems import setting_problem

_EXPECTED = {
    "str": "text",
    "path": "an absolute path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false, without quotes",
    "list": "a list",
    "dict": "a mapping of names to values",
}
_MENTIONS: dict[str, frozenset[str]] = {}


def _kind(value) -> str:
    """What a value is, in the words of YAML."""
    for kinds, word in (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        (Mapping, "a mapping"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return word
    return "empty" if value is None else f"a {type(value).__name__}"


def _has_type(value, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "bool"
    match wanted:
        case "str":
            return isinstance(value, (str, int))
        case "path":
            return isinstance(value, str) and bool(re.fullmatch(r"~?/[^\0\r\n]*", value)) and ".." not in value.split("/")
        case "int":
            return isinstance(value, int) or (isinstance(value, str) and bool(re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII)))
        case "float":
            return isinstance(value, (int, float))
        case "list":
            return isinstance(value, (list, tuple))
        case "dict":
            return isinstance(value, Mapping)
    return wanted not in _EXPECTED


def _remedy(name: str, value, wanted: str) -> str:
    if wanted == "bool" and isinstance(value, str):
        return f" On the command line write it as JSON: -e '{{\"{name}\": false}}'."
    if wanted == "str" and isinstance(value, (bool, float)):
        return " Put it in quotes."
    if wanted == "path" and isinstance(value, str):
        return " Begin it with /, without .. in it."
    return " Remove it or give it a value." if value is None else ""


def did_you_mean(name: str, known) -> str:
    """Return the remedy for a name that is not known."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"Did you mean {close[0]}?" if close else f"Known are {', '.join(sorted(known))}."


def value_problems(name: str, value, option) -> Iterator[str]:
    """Yield a message for everything in ``value`` that is not as ``option`` of an argument spec asks for."""
    wanted = option.get("type", "str")
    if not _has_type(value, wanted):
        found = "another text" if wanted == "path" and isinstance(value, str) else _kind(value)
        yield f"{name} must be {_EXPECTED[wanted]}, but it is {found}.{_remedy(name, value, wanted)}"
        return
    if "choices" in option and value not in option["choices"]:
        yield f"{name} must be one of {', '.join(map(str, option['choices']))}."
    yield from _inner_problems(name, value, option)


def _inner_problems(name: str, value, option) -> Iterator[str]:
    """Yield the problems of a list's items and of a mapping's keys."""
    wanted, inner = option.get("type", "str"), option.get("options")
    if wanted == "list":
        elements = {"type": option["elements"], "options": inner} if inner else {"type": option["elements"]}
        for number, item in enumerate(value):
            yield from value_problems(f"{name}[{number}]", item, elements)
    elif wanted == "dict" and inner:
        for key in value:
            if key not in inner:
                yield f"{name}.{key} is not known. {did_you_mean(str(key), inner)}"
        for key, sub in inner.items():
            if value.get(key) is not None:
                yield from value_problems(f"{name}.{key}", value[key], sub)
            elif sub.get("required"):
                yield f"{name}.{key} is missing. It must be {_EXPECTED.get(sub.get('type', 'str'), 'given')}."


def _rule_problems(name: str, value, rule) -> Iterator[str]:
    """Yield the problems of a value, or of each item of a list, with a rule of P(campaign.platform.setting_problems#filter)."""
    texts = {f"{name}[{number}]": str(item) for number, item in enumerate(value)} if isinstance(value, (list, tuple)) else {name: str(value)}
    for where, text in texts.items():
        if wrong := setting_problem(text, rule):
            yield f"{where} must be {rule['hint']}, but {wrong}."


def _mentioned(role: str, prefix: str) -> frozenset[str]:
    """Names with the prefix in the role's files and the collection's playbooks."""
    if role not in _MENTIONS:
        found: set[str] = set()
        playbooks = os.path.join(role, "..", "..", "playbooks")
        for folder in [*(os.path.join(role, name) for name in ("defaults", "meta", "tasks", "vars", "templates")), playbooks]:
            for directory, _, names in os.walk(folder):
                for name in names:
                    with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                        found.update(re.findall(rf"\b{re.escape(prefix)}[a-z0-9_]+", file.read()))
        _MENTIONS[role] = frozenset(found)
    return _MENTIONS[role]


def _options(role: str) -> dict[str, dict]:
    with open(os.path.join(role, "meta", "argument_specs.yml"), encoding="utf-8") as file:
        entries = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["argument_specs"]
    # What another entry point requires is missing only there.
    return {
        name: option if entry == "main" else {**option, "required": False}
        for entry, spec in sorted(entries.items(), key=lambda item: item[0] == "main")
        for name, option in spec.get("options", {}).items()
    }


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why(error: Exception) -> str:
    """Why an expression cannot be evaluated, in words that hold no value: what a filter or a parser says may quote a secret."""
    for cause in _chain(error):
        text = cause.message if isinstance(cause, AnsibleError) else str(cause)
        # The plugins of this collection show no value, and say themselves what to do; but these two repeat what others say.
        if own := re.search(r"The (?:lookup|filter) plugin 'campaign\.platform\.(?!once'|render')\w+' failed: (.+)", text, re.DOTALL):
            return own[1]
        if undefined := re.search(r"'?([A-Za-z_][\w.]*)'? is undefined|has no attribute '(\w+)'", text):
            return f"it refers to {undefined[1] or undefined[2]}, which is not defined. Define that, or mend the name."
        if "vault" in text.lower() or "decrypt" in text.lower():
            return "it cannot be decrypted. Give the vault password that it was encrypted with: --ask-vault-pass or --vault-password-file."
        if "yntax error" in text:
            return "it is no valid Jinja expression. Where the braces belong to the value, write !unsafe before it."
    return f"its expression fails ({type(error).__name__}). Mend the expression, or give the value itself."


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        later, rules = self.get_option("later"), self.get_option("rules")
        problems: list[str] = []
        for term in terms:
            role = os.path.realpath(str(term))
            prefix = f"{os.path.basename(role)}_"
            options = _options(role)
            strange = [name for name in sorted(variables) if name.startswith(prefix) and name not in options and name not in later]
            # Reading the role's files takes a while, so it is done only where there is a reason to.
            mentioned = _mentioned(role, prefix) if strange else frozenset()
            for name in strange:
                if name not in mentioned:
                    problems.append(f"{name} is no variable of the role {prefix[:-1]}. {did_you_mean(name, options)}")
            for name, option in options.items():
                if name in later:
                    continue
                if name not in variables:
                    if option.get("required"):
                        choices = f", one of {', '.join(option['choices'])}" if "choices" in option else ""
                        problems.append(f"{name} is missing. Set it to {_EXPECTED[option.get('type', 'str')]}{choices}.")
                    continue
                try:
                    value = self._templar.template(variables[name])
                # What a filter of the user's raises comes wrapped as one of Ansible's own.
                except AnsibleError as error:
                    problems.append(f"{name} cannot be used: {_why(error)}")
                    continue
                found = list(value_problems(name, value, option))
                if not found and name in rules:
                    found = list(_rule_problems(name, value, rules[name]))
                problems.extend(found)
        return problems
