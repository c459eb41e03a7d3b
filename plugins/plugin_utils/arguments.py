# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a role's arguments against its argument spec, and coerce them as an argument spec does.

Unlike ansible.builtin.validate_argument_spec this never shows a value. It names the variable whose expression cannot be evaluated, and finds names that
are close to an argument's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.plugin_utils.rules import Rule, did_you_mean, value_problem

Option = Mapping[str, Any]

EXPECTED = {
    "str": "text",
    "path": "an absolute path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping of names to values",
}
# What ansible.module_utils.parsing.convert_bool takes.
TRUE, FALSE = frozenset(["y", "yes", "on", "1", "true", "t"]), frozenset(["n", "no", "off", "0", "false", "f"])
# The least likeness of two names, without their prefix, at which one is taken for a misspelling of the other.
LIKENESS = 0.8


@dataclass(frozen=True)
class Arguments:
    """The coerced values of the arguments that are set, and a message for everything that is wrong."""

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def _kind(value: object) -> str:
    """Return what a value is, in the words of YAML."""
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


def _coerce_bool(value: object) -> object:
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).lower().strip()
    if isinstance(value, (str, int, float)) and text in TRUE | FALSE:
        return text in TRUE
    return value


def coerce(value: object, wanted: str) -> Any:
    """Return a boolean, a whole number or a text as the argument spec's type has it; anything else as it is."""
    if wanted == "bool":
        return _coerce_bool(value)
    # An expression that divides gives a fraction, though it may be a whole one.
    if wanted == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if wanted == "int" and isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip(), re.ASCII):
        return int(value)
    if wanted == "str" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _has_type(value: object, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "bool"
    match wanted:
        case "str":
            return isinstance(value, str)
        case "path":
            return isinstance(value, str) and bool(re.fullmatch(r"~?/[^\0\r\n]*", value)) and ".." not in value.split("/")
        case "int":
            return isinstance(value, int)
        case "float":
            return isinstance(value, (int, float))
        case "list":
            return isinstance(value, (list, tuple))
        case "dict":
            return isinstance(value, Mapping)
    return wanted not in EXPECTED


def _remedy(value: object, wanted: str) -> str:
    if wanted == "str" and isinstance(value, (bool, float)):
        return " Put it in quotes."
    if wanted == "path" and isinstance(value, str):
        return " Begin it with /, and leave out every .. in it."
    return " Remove it or give it a value." if value is None else ""


def value_problems(name: str, value: Any, option: Option) -> Iterator[str]:
    """Yield a message for everything in a coerced ``value`` that ``option`` of an argument spec does not allow."""
    wanted = option.get("type", "str")
    if not _has_type(value, wanted):
        found = "other text" if wanted == "path" and isinstance(value, str) else _kind(value)
        yield f"{name} must be {EXPECTED[wanted]}, but it is {found}.{_remedy(value, wanted)}"
        return
    if "choices" in option and value not in option["choices"]:
        yield f"{name} must be one of {', '.join(map(str, option['choices']))}."
    yield from _inner_problems(name, value, option)


def _inner_problems(name: str, value: Any, option: Option) -> Iterator[str]:
    """Yield the problems of a list's items and of a mapping's keys."""
    wanted, inner = option.get("type", "str"), option.get("options")
    if wanted == "list":
        elements = {"type": option["elements"], "options": inner} if inner else {"type": option["elements"]}
        for number, item in enumerate(value):
            yield from value_problems(f"{name}[{number}]", coerce(item, option["elements"]), elements)
    elif wanted == "dict" and inner:
        for key in value:
            if key not in inner:
                yield f"{name}.{key} is not known. {did_you_mean(str(key), inner)}"
        for key, sub in inner.items():
            if value.get(key) is not None:
                yield from value_problems(f"{name}.{key}", coerce(value[key], sub.get("type", "str")), sub)
            elif sub.get("required"):
                yield f"{name}.{key} is missing. It must be {EXPECTED.get(sub.get('type', 'str'), 'given')}."


def _coerced(value: Any, option: Option) -> Any:
    """Return a right value with the values in it coerced too."""
    wanted, inner = option.get("type", "str"), option.get("options")
    if wanted == "list":
        item = {"type": option["elements"], "options": inner}
        return [_coerced(entry, item) for entry in value]
    if wanted == "dict" and inner:
        return {key: _coerced(entry, inner[key]) for key, entry in value.items() if entry is not None}
    return coerce(value, wanted)


def rule_problems(name: str, value: Any, rule: Rule) -> Iterator[str]:
    """Yield the problems of a value, or of each item of a list, with a rule of rules.py."""
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from rule_problems(f"{name}[{number}]", item, rule)
    elif wrong := value_problem(str(value), rule):
        yield f"{name} must be {rule['hint']}, but {wrong}."


def _key_problems(name: str, value: Any, rules: Mapping[str, Rule]) -> Iterator[str]:
    """Yield the problems of the keys of a mapping, or of each mapping of a list, with rules that are named ``name.key``."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        for key, inner in item.items() if isinstance(item, Mapping) else ():
            rule = rules.get(f"{name}.{key}")
            wrong = value_problem(str(inner), rule) if rule and inner is not None else None
            if rule and wrong:
                yield f"{name}: {key} must be {rule['hint']}, but {wrong}."


def misspelled(variables: Collection[str], options: Collection[str], prefix: str, reserved: Sequence[str] = ()) -> Iterator[str]:
    """Yield a message for every variable with the prefix that is not an argument, and whose name is close to one, or ``reserved``.

    What is reserved is a name, or the beginning of names where it ends in an underscore.
    """
    reserved_prefixes = tuple(one for one in reserved if one.endswith("_"))
    known = {name.removeprefix(prefix): name for name in options}
    for name in sorted(variables):
        if name.startswith(prefix) and name not in options:
            close = difflib.get_close_matches(name.removeprefix(prefix), known, n=1, cutoff=LIKENESS)
            if close:
                yield f"{name} is not a variable of the role {prefix[:-1]}. Did you mean {known[close[0]]}?"
            elif name in reserved or name.startswith(reserved_prefixes):
                alike = sorted(option for option in options if option.startswith(reserved_prefixes))
                yield f"{name} is not a variable of the role {prefix[:-1]}. Known are {', '.join(alike)}."


def check(
    options: Mapping[str, Option],
    variables: Collection[str],
    render: Callable[[str], Any],
    explain: Callable[[Exception], str],
    *,
    rules: Mapping[str, Rule],
    later: Collection[str] = (),
) -> Arguments:
    """Return the arguments and what is wrong with them.

    ``options`` are those of the argument spec; ``variables`` the names that are set; ``render`` returns a variable's value by its name or raises, and
    ``explain`` says why in words that hold no value. ``rules`` are by variable, or by variable and key with a dot between them. ``later`` are variables
    that are computed after this, and are not looked at.
    """
    result = Arguments()
    for name, option in options.items():
        if name in later:
            continue
        if name not in variables:
            if option.get("required"):
                choices = f", one of {', '.join(option['choices'])}" if "choices" in option else ""
                result.problems.append(f"{name} is missing. Set it to {EXPECTED[option.get('type', 'str')]}{choices}.")
            continue
        try:
            value = render(name)
        # What a filter of the user's raises comes wrapped in a class of Ansible's own.
        except Exception as error:
            result.problems.append(f"{name} cannot be used: {explain(error)}")
            continue
        value = coerce(value, option.get("type", "str"))
        found = list(value_problems(name, value, option))
        if not found:
            value = _coerced(value, option)
            found = list(rule_problems(name, value, rules[name])) if name in rules else []
            found += _key_problems(name, value, rules)
        result.problems.extend(found)
        if not found:
            result.values[name] = value
    return result
