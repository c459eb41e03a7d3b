# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service catalogue: which entries there are, what may stand in one, and how an inventory changes them.

An entry is native Compose in the layers ``base``, ``dev`` and ``prod``, and beside them only what Compose has no word for. The list of keys is closed,
so that they do not grow into a language of their own. docs/adding-a-service.md describes each key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.campaign.platform.plugins.plugin_utils.answers import query_problem
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import did_you_mean

Entry = Mapping[str, Any]
Catalogue = dict[str, Entry]

# Layers: what both variants share, and what one of them, hot reload or TLS adds.
LAYERS = ("base", "dev", "prod", "hot_reload", "tls")
KEYS = {
    "images": "images by key, each pulled or built",
    "needs": "servers that a container signs in to",
    "logins": "logins that the bootstrap jobs create at a server",
    "settings": "settings by name, each with its rule",
    "secrets": "secret files by container",
    "configs": "config files by container",
    "jobs": "containers that run once, before the others",
    "checks": "checks by name",
    "metrics": "numbers to watch by name",
    "routes": "services that a proxy hands requests on to, by the proxy's container",
    "replaced_by": "variable whose presence takes the entry out",
    "asked_by": "variable without which the entry is left out, with its secrets",
    "when": "condition without which the entry is left out",
    **dict.fromkeys(LAYERS, "a Compose fragment"),
}
KINDS = ("postgres", "redis", "s3")
LOGIN_KEYS = {
    "postgres": frozenset(["user", "password", "role", "schema", "grants", "admin", "replication"]),
    "redis": frozenset(["user", "password", "acl"]),
    "s3": frozenset(["access_key", "secret_key", "policy"]),
}
# Names at the servers, and names of secrets. PostgreSQL's roles are created by the stack wherever the server is, Redis' users only at its own, where ACL_USER
# is what an ACL file carries without surprises.
_NAMES_OF = {"postgres": "letters, digits, _, ., @ and -", "redis": "characters without blanks"}
_SQL_NAME, _SECRET_NAME = r"(?!pg_)[A-Za-z_][A-Za-z0-9_.@-]{0,62}", r"[a-z][a-z0-9_]{0,62}"
ACL_USER = r"[A-Za-z0-9_-]{1,64}"
_LOGIN_NAMES = {
    "postgres": {"user": _SQL_NAME, "role": _SQL_NAME, "schema": _SQL_NAME, "password": _SECRET_NAME},
    "redis": {"user": r"[^\s\x00-\x1f\x7f-\x9f]{1,255}", "password": _SECRET_NAME},
    "s3": {"access_key": _SECRET_NAME, "secret_key": _SECRET_NAME},
}
IMAGE_KEYS = frozenset(["upstream", "context", "dockerfile", "target", "args", "parents", "replaces"])
SETTING_KEYS = frozenset(["pattern", "minimum", "maximum", "hint", "default", "only_with"])
SECRET_KEYS = frozenset(["template", "content", "pattern", "hint", "strong", "generated", "rotated", "earlier", "stable"])
# What they say of a secret file and not of its value: see docs/adding-a-service.md.
FILE_KEYS = frozenset(["earlier", "stable"])
CONFIG_KEYS = frozenset(["template", "content", "when"])
JOB_KEYS = frozenset(["first", "last", "restores_logins"])
CHECK_KEYS = frozenset(
    """service kind port address certificate server_name path status headers contains json send expect command environment timeout depth when""".split()
)
ROUTE_KEYS = frozenset(["directory", "to"])
METRIC_KEYS = frozenset(["service", "command", "limit", "expect", "remedy", "when"])
# Kinds of checks, each with the key that it needs.
CHECK_KINDS = {"http": "port", "probe": "port", "tcp": "port", "command": "command"}
JSON_KEYS = frozenset(["query", "equals"])
FRAGMENT_KEYS = frozenset(["services", "volumes", "networks"])
# https://github.com/compose-spec/compose-spec/blob/main/05-services.md, without what a release must not have (build, extends). Keys of deploy are not checked.
SERVICE_KEYS = frozenset(
    """annotations attach blkio_config cap_add cap_drop cgroup cgroup_parent command configs container_name cpu_count cpu_percent cpu_period cpu_quota
    cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy device_cgroup_rules devices dns dns_opt dns_search domainname
    entrypoint env_file environment expose external_links extra_hosts gpus group_add healthcheck hostname image init ipc isolation label_file labels links
    logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform
    ports post_start pre_stop privileged profiles pull_policy read_only restart runtime secrets security_opt shm_size stdin_open stop_grace_period
    stop_signal storage_opt sysctls tmpfs tty ulimits user userns_mode uts volumes volumes_from working_dir""".split()
)
# What a later fragment replaces as a whole; to other sequences it appends: https://docs.docker.com/reference/compose-file/merge/
REPLACED = frozenset(["command", "entrypoint", "test"])
# What Compose takes as a list too: names, or texts of a name and a value.
_LISTS_OF_NAMES: dict[str, Any] = {"networks": None, "depends_on": {"condition": "service_started"}}
_LISTS_OF_PAIRS = frozenset(["annotations", "environment", "extra_hosts", "labels", "sysctls"])

# Compose takes a name that begins with x- for an extension of its own, and leaves the service out.
_NAME = re.compile(r"(?!x-)[a-z][a-z0-9-]{0,40}\Z")
_FILE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def _long_form(value: Any, key: str) -> Any:
    """Return a mapping for a list that Compose takes in its place, and anything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    if key in _LISTS_OF_NAMES:
        return {str(name): _LISTS_OF_NAMES[key] for name in value}
    if key in _LISTS_OF_PAIRS:
        pairs = [re.split("[=:]" if key == "extra_hosts" else "=", str(text), maxsplit=1) for text in value]
        return {pair[0]: pair[1] if len(pair) > 1 else None for pair in pairs}
    return value


def merge(left: Any, right: Any, key: str = "") -> Any:
    """Merge as Docker Compose merges files: mappings by key, sequences by appending what is new, and commands and anything else by replacing."""
    if isinstance(left, Mapping) != isinstance(right, Mapping):
        left, right = _long_form(left, key), _long_form(right, key)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        merged = dict(left)
        for name, value in right.items():
            merged[name] = merge(left[name], value, str(name)) if name in left else value
        return merged
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and key not in REPLACED:
        return [*left, *(item for item in right if item not in left)]
    return right


def change(known: Any, added: Any, key: str = "") -> Any:
    """Merge, where a null takes out what is known. A null for what is not known stays: a volume or a network without options, a secret of that name."""
    if isinstance(known, Mapping) != isinstance(added, Mapping):
        known, added = _long_form(known, key), _long_form(added, key)
    if not isinstance(known, Mapping) or not isinstance(added, Mapping):
        return merge(known, added, key)
    changed = dict(known)
    for name, value in added.items():
        if name not in known:
            changed[name] = value
        elif value is None:
            del changed[name]
        else:
            changed[name] = change(known[name], value, str(name))
    return changed


def _named_files(entry: Entry) -> Entry:
    """Return an entry with its secret files by name, so that a list of names and a mapping can be merged. An expression stays."""
    files = entry.get("secrets")
    if not isinstance(files, Mapping):
        return entry
    return {**entry, "secrets": {container: dict.fromkeys(named) if isinstance(named, (list, tuple)) else named for container, named in files.items()}}


def _without(layer: Any, said: Any) -> Any:
    """Return a layer without the values that are said elsewhere. A list stays that is appended to."""
    if not isinstance(layer, Mapping) or not isinstance(said, Mapping):
        return layer
    return {
        key: _without(value, said.get(key))
        for key, value in layer.items()
        if said.get(key) is None or isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and key not in REPLACED)
    }


def _known_beside(known: Entry, added: Entry) -> Entry:
    """Return what counts of the collection's entry beside an inventory's: what the inventory says in its base holds in prod too."""
    return {**known, "prod": _without(known["prod"], added.get("base"))} if "prod" in known else known


def combine(built_in: Mapping[str, Entry], added: Mapping[str, Entry | None]) -> Catalogue:
    """Return the catalogue with an inventory's entries merged over the collection's own. A null takes out a known entry, or a part of it.

    Services, configs, checks and so on are mappings by name, so each can be changed or taken out by its name. In a new entry null means no options. What an
    inventory says in a base is not overruled by the collection's own values for prod.
    """
    combined: Catalogue = dict(built_in)
    for name, entry in added.items():
        if entry is None:
            combined.pop(name, None)
        elif name in combined:
            combined[name] = change(_named_files(_known_beside(combined[name], entry)), _named_files(entry))
        else:
            combined[name] = entry
    return combined


def _expression_problems(where: str, known: Any, added: Any, key: str = "") -> Iterator[str]:
    """Yield a message for what would replace an expression of the collection's own where it looks like an addition to it."""
    if isinstance(known, Mapping) and isinstance(added, Mapping):
        for name, value in added.items():
            if name in known:
                yield from _expression_problems(f"{where}.{name}", known[name], value, str(name))
    elif isinstance(known, str) and "{{" in known and isinstance(added, (Mapping, list, tuple)) and key not in REPLACED:
        yield f"{where} is an expression in the collection's own entry, so nothing can be added to it. Give all of it, as one expression: {known}"


def _unknown(where: str, given: Mapping[str, Any], known: frozenset[str] | Mapping[str, str]) -> Iterator[str]:
    for key in given:
        if key not in known:
            yield f"{where}.{key} is not known. {did_you_mean(str(key), set(known))}"


def _is_expression(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _condition_problems(where: str, value: object) -> Iterator[str]:
    # A text without braces would be true, whatever it says.
    if value is not None and not isinstance(value, bool) and not _is_expression(value):
        yield f"{where} must be true, false or an expression in braces, such as '{{{{ variant == \"local\" }}}}'."


def _variable_problems(where: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where} must be the name of a variable."


def _mapping(where: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} must be a mapping."


def _layer_problems(where: str, fragment: Any) -> Iterator[str]:
    yield from _mapping(where, fragment)
    if not isinstance(fragment, Mapping):
        return
    yield from _unknown(where, fragment, FRAGMENT_KEYS)
    services = fragment.get("services") or {}
    yield from _mapping(f"{where}.services", services)
    for service, body in services.items() if isinstance(services, Mapping) else ():
        if not _NAME.match(str(service)):
            yield f"{where}.services: a service's name is made of a-z, 0-9 and -, begins with a letter and has at most 41 characters."
        if isinstance(body, Mapping):
            yield from _unknown(f"{where}.services.{service}", body, SERVICE_KEYS)
        elif body is not None and not isinstance(body, str):
            yield f"{where}.services.{service} must be a mapping."


def _rows(known: Entry, *path: str) -> Mapping[str, Any]:
    """Return the rows of a known entry that an inventory's rows are merged over."""
    found: Any = known
    for key in path:
        found = (found or {}).get(key)
    return found or {}


def _login_problems(where: str, logins: Any, known: Entry) -> Iterator[str]:
    for kind, named in logins.items():
        if kind not in KINDS:
            yield f"{where}.{kind} is not a server. Known are {', '.join(KINDS)}."
            continue
        yield from _mapping(f"{where}.{kind}", named)
        for login, row in named.items() if isinstance(named, Mapping) else ():
            if not _NAME.match(str(login)):
                yield f"{where}.{kind}: a login's name is made of a-z, 0-9 and -, and begins with a letter."
            row = row or {}
            if not isinstance(row, Mapping):
                yield f"{where}.{kind}.{login} must be a mapping."
                continue
            yield from _unknown(f"{where}.{kind}.{login}", row, LOGIN_KEYS[kind])
            for key in ("acl",) if kind == "redis" else ("policy",) if kind == "s3" else ():
                if {**_rows(known, "logins", kind, str(login)), **row}.get(key) is None:
                    yield f"{where}.{kind}.{login}.{key} is missing. Say what the login may do."
            for key, pattern in _LOGIN_NAMES[kind].items():
                # An expression shows its value later; PostgreSQL and Redis refuse what it must not be.
                if key in row and "{{" not in str(row[key]) and not re.fullmatch(pattern, str(row[key])):
                    made_of = "a-z, 0-9 and _" if pattern == _SECRET_NAME else _NAMES_OF[kind]
                    yield f"{where}.{kind}.{login}.{key} must be a name of {made_of}, and one that the server allows."
            for key in ("acl", "user", "schema", "grants"):
                texts = row.get(key) if isinstance(row.get(key), (list, tuple)) else [row.get(key)]
                # The server reads each from a line of a file, so a second line would be a second statement.
                if any(isinstance(text, str) and re.search(r"[\r\n;]", text.strip()) for text in texts or ()):
                    yield f"{where}.{kind}.{login}.{key} must be one line without a semicolon."
            grants = row.get("grants")
            if grants is not None and not _is_expression(grants) and not _is_texts(grants):
                yield f"{where}.{kind}.{login}.grants must be a list of texts, such as [SELECT ON TABLE campaign.campaigns]."
            policy = row.get("policy")
            if policy is not None and not (isinstance(policy, Mapping) and len({"Statement", "template", "content"} & set(policy)) == 1):
                yield f"{where}.{kind}.{login}.policy must be an IAM policy with Statement, or a template or content of one."


def _row_problems(where: str, rows: Any, keys: frozenset[str]) -> Iterator[str]:
    for name, row in rows.items():
        if row is not None and not isinstance(row, Mapping):
            yield f"{where}.{name} must be a mapping."
        elif row is not None:
            yield from _unknown(f"{where}.{name}", row, keys)


def _pattern_problem(pattern: object) -> str | None:
    try:
        re.compile(str(pattern), re.ASCII)
    except re.error as error:
        return f"is not a regular expression: {error}."
    return None


def _setting_problems(where: str, rows: Any, known: Entry) -> Iterator[str]:
    yield from _row_problems(where, rows, SETTING_KEYS)
    for name, row in rows.items():
        if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", str(name)):
            yield f"{where}.{name}: a setting's name is made of A-Z, 0-9 and _."
        if str(name).startswith(("COMPOSE_", "DOCKER_")):
            yield f"{where}.{name}: Docker Compose itself reads names that begin with COMPOSE_ or DOCKER_. Choose another name."
        if isinstance(row, Mapping):
            whole = {**_rows(known, "settings", str(name)), **row}
            if whole.get("hint") is None:
                yield f"{where}.{name}.hint is missing. Say what a right value looks like."
            if whole.get("pattern") is None and not all(isinstance(whole.get(bound), int) for bound in ("minimum", "maximum")):
                yield f"{where}.{name} needs a rule: pattern, or minimum and maximum, which are whole numbers."
            if wrong := _pattern_problem(whole.get("pattern") or ""):
                yield f"{where}.{name}.pattern {wrong}"


def _rotated_problems(where: str, source: Mapping[str, Any]) -> Iterator[str]:
    # What is taken for true, or is said in a place where it does not count, would make data unreadable.
    if not isinstance(source.get("rotated", True), bool):
        yield f"{where}.rotated must be true or false."
    elif "rotated" in source and {"template", "content"} & set(source):
        yield f"{where}.rotated is of a secret and not of a text. Say it where the secret is listed by its name: NAME: {{rotated: false}}."


def _file_problems(where: str, files: Any, keys: frozenset[str], *, secret: bool) -> Iterator[str]:
    for container, named in files.items():
        if _is_expression(named):
            # What it gives is looked at when it is rendered.
            continue
        if secret and isinstance(named, (list, tuple)):
            named = dict.fromkeys(named)
        if not isinstance(named, Mapping):
            yield f"{where}.{container} must be a mapping" + (" or a list of names." if secret else " of paths in the container.")
            continue
        for name, source in named.items():
            if secret and not _FILE.match(str(name)):
                yield f"{where}.{container}: a secret file's name is made of letters, digits, ., _ and -."
            if not secret and not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(name)):
                yield f"{where}.{container}: {name} must be an absolute path in the container."
            if isinstance(source, Mapping):
                yield from _unknown(f"{where}.{container}.{name}", source, keys)
                for key in sorted(FILE_KEYS & set(source)):
                    yield from _condition_problems(f"{where}.{container}.{name}.{key}", source[key])
                yield from _condition_problems(f"{where}.{container}.{name}.when", source.get("when"))
                yield from _rotated_problems(f"{where}.{container}.{name}", source)
                if not secret and len({"template", "content"} & set(source)) != 1:
                    yield f"{where}.{container}.{name} needs either template or content."
            elif not secret or (source is not None and not isinstance(source, str)):
                yield f"{where}.{container}.{name} must be a mapping."


def _removal_problems(where: str, rows: Mapping[str, Any], what: str, known: Entry) -> Iterator[str]:
    """Tell what a row that is empty would take out, but is not there."""
    there = _rows(known, f"{what}s")
    for name, row in rows.items():
        if row is None and name not in there:
            yield f"{where}.{name} is empty, which takes a {what} out, but there is no {what} of that name. {did_you_mean(str(name), there)}"


def _whole_rows(rows: Mapping[str, Any], key: str, known: Entry) -> Iterator[tuple[str, Entry]]:
    """Yield each row as it is over what is known under its name."""
    for name, row in rows.items():
        if isinstance(row, Mapping):
            yield name, {**_rows(known, key, str(name)), **row}


def _check_problems(where: str, checks: Any, known: Entry) -> Iterator[str]:
    yield from _row_problems(where, checks, CHECK_KEYS)
    yield from _removal_problems(where, checks, "check", known)
    for name, whole in _whole_rows(checks, "checks", known):
        kind = whole.get("kind")
        if kind not in CHECK_KINDS:
            yield f"{where}.{name}.kind must be one of {', '.join(CHECK_KINDS)}."
        elif whole.get(CHECK_KINDS[kind]) is None:
            yield f"{where}.{name}.{CHECK_KINDS[kind]} is missing. A check of the kind {kind} needs it."
        else:
            yield from _check_value_problems(f"{where}.{name}", kind, whole)


def _metric_problems(where: str, metrics: Any, known: Entry) -> Iterator[str]:
    yield from _row_problems(where, metrics, METRIC_KEYS)
    yield from _removal_problems(where, metrics, "metric", known)
    for name, whole in _whole_rows(metrics, "metrics", known):
        command = whole.get("command")
        if not _is_expression(command) and not (isinstance(command, (list, tuple)) and command):
            yield f"{where}.{name}.command must be a list that prints a number, such as [node, queue-length.mjs]."
        for key in ("limit", "expect"):
            value = whole.get(key)
            if value is not None and not _is_expression(value) and (isinstance(value, bool) or not isinstance(value, (int, float))):
                yield f"{where}.{name}.{key} must be a number."
        yield from _condition_problems(f"{where}.{name}.when", whole.get("when"))


def _route_problems(where: str, routes: Any, known: Entry) -> Iterator[str]:
    yield from _row_problems(where, routes, ROUTE_KEYS)
    for name, whole in _whole_rows(routes, "routes", known):
        if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(whole.get("directory"))):
            yield f"{where}.{name}.directory must be an absolute path in the container, such as /etc/nginx/routes."
        targets = whole.get("to")
        if not isinstance(targets, Mapping) or not targets:
            yield f"{where}.{name}.to must be a mapping of services to their ports, such as {{api: 3000}}."
            continue
        for service, port in targets.items():
            if not _NAME.match(str(service)) or isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
                yield f"{where}.{name}.to.{service} must be a service's name with the TCP port that it listens on, 1 to 65535."


def _check_value_problems(where: str, kind: str, row: Entry) -> Iterator[str]:
    """Yield what the host would refuse in a check's values only after the services were started."""
    port, command, expect = row.get("port"), row.get("command"), row.get("expect")
    if port is not None and not _is_expression(port) and not re.fullmatch(r"[0-9]{1,5}", str(port)):
        yield f"{where}.port must be a TCP port, 1 to 65535."
    if command is not None and not _is_expression(command) and not isinstance(command, (list, tuple)):
        yield f"{where}.command must be a list, such as [node, check.mjs]."
    if row.get("depth") not in (None, "basic", "full") and not _is_expression(row["depth"]):
        yield f"{where}.depth must be basic or full."
    if kind == "tcp" and expect not in (None, "open", "loopback") and not _is_expression(expect):
        yield f"{where}.expect must be open or loopback."
    if row.get("json") is not None and not _is_expression(row["json"]):
        yield from json_problems(f"{where}.json", kind, row["json"])
    yield from _condition_problems(f"{where}.when", row.get("when"))


def json_problems(where: str, kind: str, expected: Any) -> Iterator[str]:
    """Yield a message for everything that is wrong with what a check expects of an answer in JSON."""
    if kind != "http":
        yield f"{where} is for the kind http."
    elif not isinstance(expected, Mapping):
        yield f"{where} must be a mapping, such as {{query: status, equals: ok}}."
    else:
        yield from _unknown(where, expected, JSON_KEYS)
        query = expected.get("query")
        if not isinstance(query, str) or not query:
            yield f"{where}.query must be a JMESPath expression, such as status."
        elif not _is_expression(query) and (problem := query_problem(query)):
            yield f"{where}.query: {problem}."
        if "equals" in expected and expected["equals"] is None:
            yield f"{where}.equals is empty. Leave it out, or compare with null in the query, such as: error == `null`."


def _needs_problems(where: str, needs: Any) -> Iterator[str]:
    for container, servers in needs.items():
        yield from _mapping(f"{where}.{container}", servers)
        for kind in servers if isinstance(servers, Mapping) else ():
            if kind not in KINDS:
                yield f"{where}.{container}.{kind} is not a server. Known are {', '.join(KINDS)}."


def entry_problems(where: str, entry: Any, known: Entry | None = None) -> Iterator[str]:
    """Yield a message for everything in an entry whose form is wrong. Expressions are not rendered.

    ``known`` is the entry that it is merged over, which completes its rows.
    """
    known = known or {}
    if not isinstance(entry, Mapping):
        yield f"{where} must be a mapping, or empty to take the service out."
        return
    yield from _unknown(where, entry, KEYS)
    for key, value in entry.items():
        inner = f"{where}.{key}"
        if value is None or key not in KEYS:
            continue
        if key in ("asked_by", "replaced_by", "when"):
            yield from _condition_problems(inner, value) if key == "when" else _variable_problems(inner, value)
            continue
        if not isinstance(value, Mapping):
            yield f"{inner} must be a mapping."
            continue
        yield from _FORMS.get(key, _layer_form)(inner, value, known)


def _layer_form(where: str, value: Any, _known: Entry) -> Iterator[str]:
    return _layer_problems(where, value)


# What looks at the form of each key; the others are layers.
_FORMS: dict[str, Callable[[str, Any, Entry], Iterator[str]]] = {
    "images": lambda where, value, _known: _row_problems(where, value, IMAGE_KEYS),
    "jobs": lambda where, value, _known: _row_problems(where, value, JOB_KEYS),
    "settings": _setting_problems,
    "logins": _login_problems,
    "needs": lambda where, value, _known: _needs_problems(where, value),
    "secrets": lambda where, value, _known: _file_problems(where, value, SECRET_KEYS, secret=True),
    "configs": lambda where, value, _known: _file_problems(where, value, CONFIG_KEYS, secret=False),
    "checks": _check_problems,
    "metrics": _metric_problems,
    "routes": _route_problems,
}


def added_problems(added: Mapping[str, Any], built_in: Mapping[str, Entry], source: str) -> Iterator[str]:
    """Yield a message for everything in an inventory's entries whose form is wrong, by its path below ``source``."""
    for name, entry in added.items():
        where = f"{source}.{name}"
        if not _NAME.match(str(name)):
            yield f"{source}: an entry's name is made of a-z, 0-9 and -, begins with a letter and has at most 41 characters."
        elif entry is None:
            if name not in built_in:
                yield f"{where} is empty, which takes an entry out, but there is no entry of that name. {did_you_mean(str(name), built_in)}"
        else:
            problems = list(entry_problems(where, entry, built_in.get(name)))
            problems += _expression_problems(where, built_in.get(name), entry)
            yield from problems
            if not problems and name not in built_in and not (entry.get("base") or {}).get("services"):
                yield f"{where}.base.services is missing. A new service needs at least one container there. {did_you_mean(str(name), built_in)}"


def containers_of(entry: Entry) -> set[str]:
    """Return the names of an entry's containers in all layers."""
    return {str(name) for layer in LAYERS for name in ((entry.get(layer) or {}).get("services") or {})}


def _owned(entry: Entry) -> Iterator[str]:
    """Yield what only one entry may name."""
    yield from (f"container {name}" for name in sorted(containers_of(entry)))
    yield from (f"login {login} at {server}" for server, logins in (entry.get("logins") or {}).items() for login in logins or {})
    yield from (f"image {key}" for key in entry.get("images") or {})


def owner_problems(catalogue: Mapping[str, Entry], source: str, added: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every container, login and image that two entries name."""
    owners: dict[str, str] = {}
    for name, entry in catalogue.items():
        for owned in _owned(entry):
            if owned in owners:
                mine, other = (name, owners[owned]) if name in added else (owners[owned], name)
                yield f"{source}.{mine}: the {owned} belongs to the entry {other}. Change it there, or choose another name."
            owners[owned] = name
