# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets can be given a new value, which values, and the texts of the files that hold them with the new ones in place of the old.

The deploy that follows puts them in force. It does so for a value that a person changed as well, so that nothing of a rotation stands anywhere but in the
places where secrets come from.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import Declaration, known_elsewhere, secrets_of, url_credentials
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import did_you_mean, value_problem
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import to_env_file

ALL = "all"
KEY, KEYS_BEFORE = "jwt_secret", "jwt_secret_previous"
NO_KEYS = "[]"
ENV_LOCAL, INVENTORY, AWS, GENERATED = "env_local", "inventory", "aws", "generated"
_WHERE = {ENV_LOCAL: ".env.local", INVENTORY: "stack_secrets", AWS: "AWS Secrets Manager", GENERATED: "the file of the generated secrets"}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# The api signs with the old key until the deploy replaces it, in seconds.
DEPLOY_SECONDS = 3600
_BITS_OF_256 = 32
_SERVERS = {"postgres": "PostgreSQL", "redis": "Redis", "s3": "S3"}
# What is not a secret of a container, and what to do about it.
_BACKUPS = (
    "is of the backups, and no container of the stack has it. "
    "Change it where your secrets stand, and run the playbook backup: docs/backup.md, Another password."
)
_OF_OTHERS = {
    "images_registry_password": "is of the registry, and no container has it. Change it there, then where your secrets stand, and deploy.",
    "backup_password": _BACKUPS,
    "vault_backup_password": _BACKUPS,
}


class RotationError(ValueError):
    """A file does not hold the secrets in a form that can be changed. The message says what to do and holds no value."""


@dataclass
class Rotation:
    """New values by where they come from, and by the name that they have there."""

    names: list[str] = field(default_factory=list)
    changes: dict[str, dict[str, str]] = field(default_factory=dict)
    # Of those that `all` leaves out, why.
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def new_value() -> str:
    """Return a random value of 256 bits that every rule for generated secrets allows; none begins with a hyphen, which programs take for an option."""
    while (value := secrets.token_urlsafe(_BITS_OF_256)).startswith("-"):
        pass
    return value


def _elsewhere(declared: Declaration) -> dict[str, str]:
    """Return the names of the external servers whose logins secrets are of, by secret."""
    found = {}
    for kind, named in declared.logins.items():
        for one in named.values():
            found.update({name: _SERVERS[kind] for name in one.secrets if name in known_elsewhere(declared)})
    return found


def refusal(declared: Declaration, name: str) -> str | None:
    """Return why a secret of the stack cannot be given a generated value, and what to do, or None."""
    known, fetched = declared.secrets, declared.arguments.get("stack_aws_runtime_secret_ids") or {}
    if name == KEYS_BEFORE:
        return f"{name} is what a rotation of {KEY} leaves. Name {KEY}."
    if name == "tls_private_key":
        return f"{name} belongs to a certificate, so a person gives both. Set stack_tls_certificate and the key, and deploy."
    if server := _elsewhere(declared).get(name):
        return f"{name} is of a login at the external {server}. Change it there first, then where your secrets stand, and deploy."
    if known.rules[name].get("rotated") is False:
        return (
            f"{name} has `rotated: false` in its entry: what is stored under it cannot be read with another value. "
            "Change it in the way that its service has for that, then where your secrets stand, and deploy."
        )
    if not known.rules[name].get("strong"):
        return f"{name} is a name and not a secret. Change it where it stands, and deploy."
    if name in known.needed and name not in known.generated:
        return f"{name} is issued by somebody else. Get a new one there, set it where your secrets stand, and deploy."
    if readers := [container for container in fetched if name in secrets_of(declared, container)]:
        return (
            f"{name} is fetched from AWS by {' and '.join(readers)} (stack_aws_runtime_secret_ids), so it stands in two places. "
            "Set the new value in both, and deploy."
        )
    if name not in known.needed:
        return f"{name} is not used by this stack."
    if name in ("postgres_password", "postgres_api_password") and known.values.get("postgres_api_user") == declared.settings.get("POSTGRES_USER"):
        return f"{name} stands in two lines of .env.local, because DATABASE_URL signs in as POSTGRES_USER. Change both, and deploy."
    if value_problem(new_value(), known.rules[name]):
        return f"{name} has a rule of its own that a generated value does not fit. Set a new one where your secrets stand, and deploy."
    return None


def _with_pairs(declared: Declaration, names: list[str]) -> list[str]:
    """Return names with those that go with them: a new account at MinIO is a new key with a new secret, and so the old account serves until the end."""
    pairs = {name: one.secrets for one in declared.logins["s3"].values() for name in one.secrets} if not declared.servers["s3"].external else {}
    return list(dict.fromkeys(other for name in names for other in pairs.get(name, [name])))


def source_of(declared: Declaration, name: str) -> tuple[str, str]:
    """Return where a secret's value comes from, and the name that it has there."""
    env_local = declared.arguments.get("stack_env_local") or {}
    for variable, row in declared.tables.urls.items():
        if row["password"] == name and name in url_credentials({variable: env_local.get(variable, "")}, {variable: row}):
            return ENV_LOCAL, variable
    for variable, secret in declared.secrets.env_local.items():
        if secret == name and variable in env_local:
            return ENV_LOCAL, variable
    if name in (declared.arguments.get("stack_secrets") or {}):
        return INVENTORY, name
    return (AWS if name in declared.secrets.given else GENERATED), name


def keys_before(text: str, key: str, expiration: str, now: int, *, keep: bool) -> str:
    """Return the keys that signed tokens before, as the api reads them: those whose time is not over, and the present one until its last token expires.

    ``expiration`` is how long a token is valid, such as 7d; ``now`` are seconds since 1970. Without ``keep`` no key is believed any more.
    """
    until = now + _SECONDS[expiration[-1]] * int(expiration[:-1]) + DEPLOY_SECONDS
    rows = [row for row in json.loads(text or NO_KEYS) if row["until"] > now]
    return json.dumps([*rows, {"key": key, "until": until}] if keep else [])


def changed_url(url: str, password: str) -> str:
    """Return an address with another password, percent-encoded."""
    return re.sub(r"(?<=:)[^:/@]*(?=@)", lambda _found: quote(password, safe=""), url, count=1)


def plan(declared: Declaration, wanted: Collection[str], now: int, *, keep_sessions: bool) -> Rotation:
    """Return the new values of the secrets that are wanted, or of all that can have one, and one sentence for each that cannot."""
    found, known = Rotation(), declared.secrets
    if ALL in wanted:
        names = list(known.needed)
        reasons = {name: reason for name in names if (reason := refusal(declared, name))}
        found.left = list(reasons.values())
        names = [name for name in names if name not in reasons]
    else:
        names = []
        for name in dict.fromkeys(wanted):
            if name in _OF_OTHERS:
                found.problems.append(f"{name} {_OF_OTHERS[name]}")
            elif name not in known.rules:
                found.problems.append(f"{name} is not a secret of this stack. {did_you_mean(name, known.needed)}")
            elif reason := refusal(declared, name):
                found.problems.append(reason)
            else:
                names.append(name)
    found.problems += [reason for name in _with_pairs(declared, names) if name not in names and (reason := refusal(declared, name))]
    if found.problems:
        return found
    found.names = _with_pairs(declared, names)
    if not found.names:
        found.problems.append("there is no secret that can be given a new value.")
    env_local = declared.arguments.get("stack_env_local") or {}
    for name in found.names:
        source, known_as = source_of(declared, name)
        value = new_value()
        found.changes.setdefault(source, {})[known_as] = changed_url(env_local[known_as], value) if known_as in declared.tables.urls else value
        if name == KEY and (elsewhere := source_of(declared, KEYS_BEFORE)[0]) not in (source, GENERATED):
            found.problems.append(
                f"{KEYS_BEFORE} stands in {_WHERE[elsewhere]}, and {KEY} in {_WHERE[source]}, so it would not be found. Move it to where {KEY} is, "
                "or remove it, which signs out who signed in before the last rotation."
            )
        elif name == KEY:
            before = keys_before(known.values[KEYS_BEFORE], known.values[KEY], declared.settings["JWT_EXPIRATION"], now, keep=keep_sessions)
            found.changes[source][KEYS_BEFORE.upper() if source == ENV_LOCAL else KEYS_BEFORE] = before
    return found


# --- The texts of files


@dataclass(frozen=True)
class Encrypted:
    """A value that is encrypted by itself (``!vault``). It equals no text."""

    text: str


class _Loader(yaml.SafeLoader):
    """Reads a file of variables with the tags that Ansible knows, and evaluates nothing."""


def _as_text(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return str(node.value)


def _as_encrypted(_loader: yaml.SafeLoader, node: yaml.Node) -> Encrypted:
    return Encrypted(str(node.value))


_Loader.add_constructor("!unsafe", _as_text)
_Loader.add_constructor("!vault", _as_encrypted)
_Loader.add_constructor("!vault-encrypted", _as_encrypted)


def read_yaml(text: str) -> Any:
    """Return what a file of variables holds: what is marked ``!unsafe`` as text, what is encrypted by itself as Encrypted. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def _spelled(value: str) -> str:
    # Ansible takes every other text for a template.
    return ("!unsafe " if re.search(r"\{[{%#]", value) else "") + json.dumps(value)


def changed_env(text: str, values: Mapping[str, str]) -> str:
    """Return the text of an environment file with other values: in the lines that have one, else at the end."""
    left = dict(values)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = re.match(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=", line)
        if found and found[1] in left:
            lines[number] = to_env_file({found[1]: left.pop(found[1])}).removesuffix("\n")
    if lines[-1] != "":
        # What has no end of line in its last line gets one.
        lines.append("")
    return "\n".join([*lines[:-1], to_env_file(left)])


def _block(lines: list[str], variable: str) -> tuple[int, int]:
    """Return where the mapping of a variable begins and ends, as numbers of lines."""
    begin = next((number for number, line in enumerate(lines, start=1) if re.match(rf"{re.escape(variable)}:[ \t]*(#.*)?$", line)), None)
    if begin is None:
        raise RotationError(f"it does not hold {variable} as a mapping of a line for each name.")
    end = next((number for number in range(begin, len(lines)) if re.match(r"[^\s#]", lines[number])), len(lines))
    return begin, end


def changed_yaml(text: str, variable: str, values: Mapping[str, str]) -> str:
    """Return the text of a YAML file with other values in the mapping of a variable. All else stays as a person wrote it.

    Raises RotationError where the mapping does not have a line for each name. The new text is read back, so that what comes out is what was meant.
    """
    lines = text.splitlines()
    begin, end = _block(lines, variable)
    indented = next((found[0] for line in lines[begin:end] if (found := re.match(r"[ ]+(?=[^\s#])", line))), "  ")
    for name, value in values.items():
        written = f"{indented}{name}: {_spelled(value)}"
        place = next((number for number in range(begin, end) if re.match(rf"{indented}(['\"]?){re.escape(name)}\1:([ \t]|$)", lines[number])), None)
        if place is None:
            lines.insert(end, written)
            end += 1
        else:
            lines[place] = written
    changed = "\n".join(lines) + "\n"
    try:
        before, after = read_yaml(text), read_yaml(changed)
    except yaml.YAMLError:
        after = None
    if not isinstance(after, dict) or after != {**before, variable: {**(before[variable] or {}), **values}}:
        raise RotationError(f"the lines of {variable} cannot be changed one by one.")
    return changed


def holds(text: str, variables: Collection[str], values: Mapping[str, str]) -> str | None:
    """Return the variable of a YAML file whose mapping has these values, None where there is none."""
    try:
        read: Any = read_yaml(text)
    except yaml.YAMLError:
        return None
    for variable in variables if isinstance(read, dict) else ():
        mapping = read.get(variable)
        if isinstance(mapping, dict) and all(mapping.get(name) == value for name, value in values.items()):
            return variable
    return None


def encrypted(text: str, variables: Collection[str], names: Collection[str]) -> list[str]:
    """Return the names whose values a YAML file has encrypted by themselves, in the mapping of one of these variables."""
    try:
        read: Any = read_yaml(text)
    except yaml.YAMLError:
        return []
    mappings = [read.get(variable) for variable in variables] if isinstance(read, dict) else []
    return [name for name in names if any(isinstance(one, dict) and isinstance(one.get(name), Encrypted) for one in mappings)]


def told(found: Rotation, places: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines for a person: which secrets were given a new value, and where it stands now."""
    yield f"New values: {', '.join(found.names)}."
    for source in found.changes:
        yield f"They stand in {places[source]}."
    for reason in found.left:
        yield f"Left as it is: {reason}"
