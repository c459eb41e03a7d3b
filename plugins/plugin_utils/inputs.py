# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two doors read of a task: a role's arguments and, for the role stack, its declaration. Only this module, rendering.py and roles.py know Ansible."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils import aws, declaration
from ansible_collections.campaign.platform.plugins.plugin_utils.arguments import Arguments, check, misspelled
from ansible_collections.campaign.platform.plugins.plugin_utils.generated import GeneratedSecretsError, generated_secrets
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer, why
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import Rule, did_you_mean

HEADER = "Nothing was changed. Fix these first:"
# Computed by a playbook after the validation, or rendered with names that are not there yet.
LATER = frozenset(["stack_images", "stack_services"])
# What expressions within entries may name, and an expression of all entries cannot, because it is rendered before any of it is known.
_WITHIN_ENTRIES = frozenset(["frontend_origin", "grants", "hot_reload", "image", "jobs", "logins", "names", "secret", "server", "setting", "tls", "variant"])


def told(problems: Collection[str], header: str = HEADER) -> str:
    """Return the message of a failed validation."""
    return "\n- ".join([header, *problems])


def kept_files_problems() -> list[str]:
    """Return what is wrong with Ansible's own configuration before a module is given secrets. Pipelining does not help: keeping files turns it off.

    What a module is given is printed with Ansible's debug output too, whatever its no_log says.
    """
    switches = {
        "keep_remote_files": (constants.DEFAULT_KEEP_REMOTE_FILES, "every secret would stay on the host in clear, in the files of Ansible's modules"),
        "debug": (constants.DEFAULT_DEBUG, "every secret would be printed in clear, and written to Ansible's log where there is one"),
    }
    return [
        f"ANSIBLE_{name.upper()}, or {name} in ansible.cfg, is set: {why_not}. Remove it, or set ANSIBLE_{name.upper()}=0 for this run."
        for name, (is_set, why_not) in switches.items()
        if is_set
    ]


class ToldError(AnsibleActionFail):
    """The message says all of it. The mistake is in none of the collection's tasks, so it is shown once, and without the lines of one."""

    @property
    def omit_exception_key(self) -> bool:
        """Let ansible-core 2.19 and later show the message alone, without the place in the source of the task that failed."""
        return True


class RefusedError(ToldError):
    """An input is wrong."""


@functools.cache
def spec_of(role_path: str) -> dict[str, dict[str, Any]]:
    """Return the options of all entry points of a role's argument spec. Only what main requires is required here."""
    with open(os.path.join(role_path, "meta", "argument_specs.yml"), encoding="utf-8") as file:
        points = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["argument_specs"]
    return {
        name: option if point == "main" else {**option, "required": False}
        for point, spec in sorted(points.items(), key=lambda item: item[0] == "main")
        for name, option in spec.get("options", {}).items()
    }


def arguments_of(role_path: str, variables: Mapping[str, Any], renderer: AnsibleRenderer, rules: Mapping[str, Rule]) -> Arguments:
    """Return a role's arguments, coerced, and what is wrong with each by itself."""
    options = spec_of(role_path)
    prefix = f"{os.path.basename(role_path)}_"
    checked = check(options, variables, lambda name: renderer.render(variables[name], {}), why, rules=rules, later=LATER)
    return Arguments(checked.values, [*misspelled(variables, options, prefix), *checked.problems])


def _reader(templar: Templar, loader: Any, variables: Mapping[str, Any]) -> Callable[[str, str], aws.Answer]:
    """Return a function that reads a secret of AWS through amazon.aws, with limits of time, and says what is wrong instead of failing."""

    def read(secret_id: str, region: str) -> aws.Answer:
        try:
            lookup = lookup_loader.get("amazon.aws.secretsmanager_secret", loader=loader, templar=templar)
            if lookup is None:
                raise ImportError
            from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
            from botocore.config import Config
        except ImportError:
            return aws.Answer(problems=["the collection amazon.aws and the Python package boto3 are needed on this machine. Install both."])
        connect = lookup.client
        # The defaults would try for minutes. The SDK's own attempts are enough, so the collection's are one.
        limits = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": aws.ATTEMPTS})
        lookup.client = lambda service, _retries: connect(service, AWSRetry.jittered_backoff(retries=1), config=limits)
        try:
            found = lookup.run([secret_id], variables, region=region)
        except AnsibleError as error:
            return aws.Answer(problems=[aws.explain(aws.code_of(error))])
        return aws.parse(found[0] if found else None)

    return read


def _added(variables: Mapping[str, Any], renderer: AnsibleRenderer, tables: declaration.Tables) -> tuple[Any, list[str]]:
    """Return the inventory's entries. They are rendered only where the whole of them is one expression."""
    added = variables.get("stack_services", {})
    if not isinstance(added, str):
        return added, []
    try:
        return renderer.render(added, {}), []
    except Exception as error:
        reason = why(error)
        referred = re.match(r"it refers to (\w+)", reason)
        if referred and referred[1] in _WITHIN_ENTRIES | set(tables.common["names"]):
            reason = (
                f"all of it is one expression, which is rendered before {referred[1]} is known. Write a mapping of names to entries. "
                "What stands in it may be an expression: {mailer: {base: {services: {mailer: {image: '{{ image.mailer }}', environment: '{{ mine }}'}}}}}."
            )
        return {}, [f"{declaration.SOURCE} cannot be used: {reason}"]


def _replaced_problems(added: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every entry that is replaced by a variable that the role does not have."""
    for name, entry in added.items():
        variable = (entry or {}).get("replaced_by")
        if variable is not None and variable not in options:
            yield f"{declaration.SOURCE}.{name}.replaced_by: {variable} is not a variable of the role stack. {did_you_mean(str(variable), options)}"


def _setting_problems(added: Mapping[str, Any], tables: declaration.Tables, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every new setting whose variable the role has already, for something else: its value would come from there."""
    own = {setting for entry in tables.services.values() for setting in entry.get("settings") or {}} | set(tables.settings)
    for name, entry in added.items():
        for setting in (entry or {}).get("settings") or {}:
            if setting not in own and f"stack_{setting.lower()}" in options:
                yield f"{declaration.SOURCE}.{name}.settings.{setting}: stack_{setting.lower()} is a variable of the role already. Choose another name."


def declaration_of(
    variables: Mapping[str, Any], templar: Templar, loader: Any, *, check_mode: bool, with_secrets: bool = True
) -> tuple[declaration.Declaration | None, AnsibleRenderer, list[str]]:
    """Return the role stack's declaration, and what is wrong; without a declaration, the arguments are wrong by themselves.

    In check mode a secret that is to be generated gets a value that is not kept.
    """
    role_path = variables["role_path"]
    renderer = AnsibleRenderer(templar, variables, role_path)
    tables = declaration.tables(variables)
    added, problems = _added(variables, renderer, tables)
    catalogue, wrong = declaration.combined(tables, added)
    rules = declaration.argument_rules(tables, variables["__stack_rules"], catalogue, variables)
    checked = arguments_of(role_path, variables, renderer, rules)
    problems += wrong or [*_replaced_problems(added, spec_of(role_path)), *_setting_problems(added, tables, spec_of(role_path))]
    problems += checked.problems
    if problems:
        return None, renderer, problems

    def generate(names: list[str], path: str) -> dict[str, str]:
        return generated_secrets(names, path, persist=not check_mode)

    try:
        declared = declaration.declare(
            checked.values,
            tables,
            renderer,
            added,
            read_aws=_reader(templar, loader, variables),
            generate=generate,
            with_secrets=with_secrets,
        )
    except GeneratedSecretsError as error:
        return None, renderer, [str(error)]
    return declared, renderer, declared.problems
