# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two doors read of a task: a role's arguments and, for the role stack, its declaration. Only this module, rendering.py and roles.py know Ansible."""

from __future__ import annotations

import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecretsContext, is_encrypted
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils import aws, declaration
from ansible_collections.campaign.platform.plugins.plugin_utils.arguments import Arguments, check, misspelled
from ansible_collections.campaign.platform.plugins.plugin_utils.generated import GeneratedSecretsError, generated_secrets
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer, why
from ansible_collections.campaign.platform.plugins.plugin_utils.rotation import read_yaml
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
    reserved = variables.get(f"__{prefix}reserved") or ()
    return Arguments(checked.values, [*misspelled(variables, options, prefix, reserved), *checked.problems])


class AwsError(Exception):
    """A secret of AWS could not be read or written; the message says why and holds no value."""


class AbsentError(AwsError):
    """There is no such secret, or no such version of it."""


class UnknownError(AwsError):
    """What was to be written may be: no answer came back."""


# A version that was just written is to be had everywhere after some seconds.
VERSION_SECONDS, VERSION_PAUSE = 60.0, 2.0


def _aws(templar: Templar, loader: Any, variables: Mapping[str, Any]) -> Callable[..., tuple[Any, Any]]:
    """Return a function that reads a secret of AWS through amazon.aws, with limits of time: it returns the text and the client, or raises AwsError.

    It is given the secret's id, the region and, for another version than the current one, that version's id.
    """

    def read(secret_id: str, region: str, version: str | None = None) -> tuple[Any, Any]:
        try:
            lookup = lookup_loader.get("amazon.aws.secretsmanager_secret", loader=loader, templar=templar)
            if lookup is None:
                raise ImportError
            from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
            from botocore.config import Config
        except ImportError:
            raise AwsError("the collection amazon.aws and the Python package boto3 are needed on this machine. Install both.") from None
        connect, clients = lookup.client, []
        # The defaults would try for minutes. The SDK's own attempts are enough, so the collection's are one.
        limits = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": aws.ATTEMPTS})

        def client(service: str, _retries: Any) -> Any:
            clients.append(connect(service, AWSRetry.jittered_backoff(retries=1), config=limits))
            return clients[0]

        lookup.client = client
        try:
            found = lookup.run([secret_id], variables, region=region, **({"version_id": version} if version else {}))
        except AnsibleError as error:
            code = aws.code_of(error)
            raise (AbsentError if code == "ResourceNotFoundException" else AwsError)(aws.explain(code)) from None
        return (found[0] if found else None), clients[0]

    return read


def _reader(templar: Templar, loader: Any, variables: Mapping[str, Any]) -> Callable[[str, str], aws.Answer]:
    """Return a function that reads the secrets in a secret of AWS, and says what is wrong instead of failing.

    Where a rotation of this run has written a version, it is that one: which is the current one, AWS may not know everywhere at once
    (https://docs.aws.amazon.com/secretsmanager/latest/userguide/troubleshoot_general.html).
    """
    read = _aws(templar, loader, variables)
    version = (variables.get("__stack_rotated") or {}).get("aws_version")

    def answer(secret_id: str, region: str) -> aws.Answer:
        deadline = time.monotonic() + VERSION_SECONDS
        while True:
            try:
                return aws.parse(read(secret_id, region, version)[0])
            except AwsError as error:
                if not (version and isinstance(error, AbsentError)):
                    return aws.Answer(problems=[str(error)])
            if time.monotonic() >= deadline:
                return aws.Answer(problems=[f"the version {version}, which this run has written, cannot be read yet. Deploy in some minutes."])
            time.sleep(VERSION_PAUSE)

    return answer


def write_aws(variables: Mapping[str, Any], templar: Templar, loader: Any, place: tuple[str, str], values: Mapping[str, str]) -> str:
    """Give secrets in the secret of AWS at ``place``, its id and region, other values; return the id of the secret's new version.

    Raises AwsError where they are not written, and UnknownError where they may be.
    """
    text, client = _aws(templar, loader, variables)(*place)
    changed = aws.changed(text, values)
    if changed is None:
        raise AwsError(aws.parse(text).problems[0])
    try:
        return str(client.put_secret_value(SecretId=place[0], SecretString=changed)["VersionId"])
    except Exception as error:
        # Whatever the SDK raises; its message may hold what was sent.
        refused = aws.is_refusal(getattr(error, "response", None))
        raise (AwsError if refused else UnknownError)(aws.explain_writing(aws.code_of(error))) from None


def vault_text(path: str) -> tuple[str, Callable[[str], str]]:
    """Return the text of a YAML file that may be a vault, and a function that encrypts another text as this one was; raise RefusedError."""
    try:
        with open(path, encoding="utf-8") as file:
            written = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path} cannot be read ({type(error).__name__}). Nothing was changed.") from None
    if not is_encrypted(written):
        return written, lambda text: text
    context = VaultSecretsContext.current(optional=True)
    vault = VaultLib(list(context.secrets) if context else [])
    try:
        text, identity, secret = vault.decrypt_and_get_vault_id(written)
    except AnsibleError:
        raise RefusedError(f"{path} cannot be decrypted with the vault password that was given. Nothing was changed.") from None

    def encrypt(other: str) -> str:
        label = written.split("\n", 1)[0].split(";")[3:]
        return str(vault.encrypt(other, secret=secret or vault_secret(vault, identity), vault_id=label[0].strip() if label else None).decode())

    return bytes(text).decode(), encrypt


def vault_secret(vault: VaultLib, identity: str | None) -> Any:
    """Return the vault password of an identity, or the first one."""
    return next((secret for name, secret in vault.secrets if name == identity), vault.secrets[0][1] if vault.secrets else None)


def _rotated(variables: Mapping[str, Any], given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the secrets of the inventory as a rotation of this run has written them: Ansible reads a file of variables once a run."""
    written = variables.get("__stack_rotated") or {}
    if not written.get("vault"):
        return given
    mapping = (read_yaml(vault_text(written["vault"])[0]) or {}).get(written["variable"]) or {}
    return {**given, **{name: str(mapping[name]) for name in written["vaulted"] if name in mapping}}


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
    """Yield a message for every entry that is replaced, or asked for, by a variable that the role does not have."""
    for name, key in itertools.product(added, ("replaced_by", "asked_by")):
        variable = (added[name] or {}).get(key)
        if variable is not None and variable not in options:
            yield f"{declaration.SOURCE}.{name}.{key}: {variable} is not a variable of the role stack. {did_you_mean(str(variable), options)}"


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

    optional = [name for name, rule in tables.secrets.items() if rule.get("optional")]

    def generate(names: list[str], path: str) -> dict[str, str]:
        return generated_secrets(names, path, persist=not check_mode, optional=optional)

    if with_secrets:
        checked.values["stack_secrets"] = _rotated(variables, checked.values.get("stack_secrets") or {})
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
