# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy declares: the catalogue with the inventory's entries, the settings, the servers and the secrets, and all that is wrong with them.

Where a value comes from, the first that has it: `.env.local` (local only), the inventory's variables and its vault, AWS Secrets Manager, and for secrets in
local what was generated once and kept. This module decides that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.campaign.platform.plugins.plugin_utils import catalogue as entries
from ansible_collections.campaign.platform.plugins.plugin_utils.aws import Answer
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import Renderer, why
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import Rule, did_you_mean, secret_problems, setting_problems
from ansible_collections.campaign.platform.plugins.plugin_utils.servers import OWN_USERS, SERVICES, VARIABLES, Login, Server, external, login, role_of, servers
from ansible_collections.campaign.platform.plugins.plugin_utils.tls import tls_problems

SOURCE = "stack_services"
GENERATION_KEY = "generation_key"
LAYER_OF = {"local": "dev", "prod": "prod"}
# From this likeness on, a name of a secret is rather misspelt than new.
_HARDLY_ANOTHER = 0.9
# How an expression of an entry names a secret.
_NAMED = re.compile(r"\bsecret\.(\w+)|\bsecret\[['\"](\w+)['\"]\]")


@dataclass(frozen=True)
class Tables:
    """The role's own data, as its vars have it: entries are not rendered yet."""

    services: Mapping[str, entries.Entry]
    settings: Mapping[str, Rule]
    secrets: Mapping[str, Rule]
    # Rules of passwords by the kind of server, and `default` for other secrets.
    secret_rules: Mapping[str, Rule]
    urls: Mapping[str, Rule]
    aws_rules: Mapping[str, Rule]
    examples: Collection[str]
    requirements: Collection[Mapping[str, str]]
    common: Mapping[str, Any]


def tables(variables: Mapping[str, Any], prefix: str = "__stack_") -> Tables:
    """Return the tables from a task's variables."""
    service = f"{prefix}service_"
    return Tables(
        services={name.removeprefix(service).replace("_", "-"): variables[name] for name in sorted(variables) if name.startswith(service)},
        settings=variables[f"{prefix}settings"],
        secrets=variables[f"{prefix}secrets"],
        secret_rules=variables[f"{prefix}secret_rules"],
        urls=variables[f"{prefix}env_local_urls"],
        aws_rules=variables[f"{prefix}aws_rules"],
        examples=variables[f"{prefix}secret_examples"],
        requirements=variables[f"{prefix}requirements"],
        common=variables[f"{prefix}common"],
    )


@dataclass
class Secrets:
    """Names of secrets with their rules, and the values that are known."""

    rules: dict[str, Rule] = field(default_factory=dict)
    # Those that need a value, in the order in which a person reads them, and of these the ones that can be generated: a key that somebody else issues cannot.
    needed: list[str] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)
    # Their names in `.env.local`, by that name.
    env_local: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class Declaration:
    """Everything that a release is made from."""

    arguments: Mapping[str, Any]
    tables: Tables
    catalogue: entries.Catalogue
    added: Mapping[str, Any]
    servers: dict[str, Server]
    logins: dict[str, dict[str, Login]]
    settings: dict[str, str] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    problems: list[str] = field(default_factory=list)

    @property
    def layer(self) -> str:
        """Return the layer on top of the base."""
        return LAYER_OF[self.arguments["stack_variant"]]

    @property
    def external(self) -> set[str]:
        """Return the kinds of server that stand outside the stack."""
        return {kind for kind, server in self.servers.items() if server.external}

    @property
    def tls(self) -> bool:
        """Return whether the frontend has a certificate."""
        return self.arguments.get("stack_tls_certificate") is not None

    @property
    def hot_reload(self) -> bool:
        """Return whether the sources are mounted."""
        return bool(self.arguments.get("stack_hot_reload"))

    def names(self) -> dict[str, Any]:
        """Return the names that entries, templates and requirements may use, without secrets and images."""
        layers = ("base", self.layer, *(layer for layer in ("hot_reload", "tls") if getattr(self, layer)))
        jobs = [
            job
            for entry in self.catalogue.values()
            for job, row in (entry.get("jobs") or {}).items()
            # Nobody waits for those that stand outside the order.
            if not ((row or {}).get("first") or (row or {}).get("last")) and any(job in ((entry.get(layer) or {}).get("services") or {}) for layer in layers)
        ]
        return {
            **self.arguments,
            "variant": self.arguments["stack_variant"],
            "hot_reload": self.hot_reload,
            "tls": self.tls,
            "setting": self.settings,
            "server": {kind: server.names() for kind, server in self.servers.items()},
            "jobs": sorted(jobs),
            # Names of the logins by server. Only the texts of secret files get the logins themselves.
            "names": {kind: list(named) for kind, named in self.logins.items()},
            "grants": any(login.row.get("grants") for named in self.logins.values() for login in named.values()),
        }

    def origin(self) -> str:
        """Return the address at which people reach the frontend with TLS."""
        # Without a frontend it is not used.
        port = self.settings.get("HTTPS_PORT", "443")
        return f"https://{self.arguments.get('stack_server_name')}" + ("" if port == "443" else f":{port}")


def all_logins(catalogue: Mapping[str, entries.Entry]) -> Iterator[Login]:
    """Yield the logins of a catalogue; their rows are not rendered."""
    for entry in catalogue.values():
        for server, named in (entry.get("logins") or {}).items():
            for name, row in (named or {}).items():
                yield login(server, str(name), row or {})


def _by_kind(catalogue: Mapping[str, entries.Entry]) -> dict[str, dict[str, Login]]:
    found: dict[str, dict[str, Login]] = {kind: {} for kind in SERVICES}
    for one in all_logins(catalogue):
        found[one.server][one.name] = one
    return found


def reserved(catalogue: Mapping[str, entries.Entry], secrets: Mapping[str, Rule]) -> dict[str, list[str]]:
    """Return names that are taken, by the kind of name: roles and users of the services' logins, and the names of services."""
    found: dict[str, list[str]] = {"postgres_roles": ["public", "none"], "redis_users": list(OWN_USERS), "services": ["localhost"]}
    for one in all_logins(catalogue):
        kind = {"postgres": "postgres_roles", "redis": "redis_users"}.get(one.server)
        if kind is None or one.row.get("admin"):
            continue
        # A user's name that a person may choose has a default.
        chosen = _NAMED.search(one.user)
        name = (chosen[1] or chosen[2]) if chosen else ""
        user = str(secrets[name].get("default", "")) if name in secrets else one.user
        found[kind] += [user] + ([role_of(one.name, one.row)] if one.server == "postgres" else [])
    for entry in catalogue.values():
        found["services"] += sorted(entries.containers_of(entry))
    return found


def resolved(rule: Rule, names: Mapping[str, list[str]], outside: Collection[str]) -> Rule:
    """Return a rule as it applies: with the names that a value may not take, in place of the kind of name. The rule's own default is allowed.

    What a server of the stack's own creates may have a narrow rule. Where the server stands ``outside``, the rule's row of that name replaces it: whatever
    the service allows is taken.
    """
    own = rule.get("outside")
    if own:
        rule = {key: value for key, value in {**rule, **(own if own["server"] in outside else {})}.items() if key not in ("outside", "server")}
    if not rule.get("reserved"):
        return rule
    return {**rule, "not_in": [name for name in names[rule["reserved"]] if name != rule.get("default")]}


def argument_rules(tables: Tables, rules: Mapping[str, Rule], catalogue: Mapping[str, entries.Entry], variables: Collection[str]) -> dict[str, Rule]:
    """Return the rules of the role's variables: its own, and those of the settings, whose variables are named after them.

    ``variables`` are the names of those that are set, which say what servers stand outside the stack.
    """
    names = reserved(catalogue, tables.secrets)
    # A second row of the same name is reported elsewhere; the value is checked by the first.
    rows = {name: row for entry in reversed(list(catalogue.values())) for name, row in (entry.get("settings") or {}).items()} | dict(tables.settings)
    outside = external(variables)
    found = {f"stack_{name.lower()}": resolved(row, names, outside) for name, row in rows.items()}
    return {**found, **{name: resolved(rule, names, outside) for name, rule in rules.items()}}


def _listed(entry: entries.Entry) -> Iterator[tuple[str, str, Rule | None]]:
    """Yield container, secret and the rule if it has one, for every secret that an entry's files name."""
    for container, files in (entry.get("secrets") or {}).items():
        if isinstance(files, str):
            for found in re.findall(r"['\"](\w+)['\"]", files) + [one or other for one, other in _NAMED.findall(files)]:
                yield container, found, None
            continue
        for name, source in files.items() if isinstance(files, Mapping) else [(name, None) for name in files]:
            rule = {key: value for key, value in source.items() if key not in entries.FILE_KEYS} if isinstance(source, Mapping) else source
            if not rule:
                yield container, name, None
            elif isinstance(source, Mapping) and not {"template", "content"} & set(source):
                yield container, name, rule
            else:
                text = source if isinstance(source, str) else str((source or {}).get("content", ""))
                for one, other in _NAMED.findall(text):
                    yield container, one or other, None


def secrets_of(declared: Declaration, container: str) -> set[str]:
    """Return the names of the secrets that a container reads: those of its logins, and those that its files name."""
    found: set[str] = set()
    for entry in declared.catalogue.values():
        needs: dict[str, dict[str, str]] = dict(entry.get("needs") or {})
        for kind, chosen in needs.get(container, {}).items():
            found.update(declared.logins[kind][chosen].secrets if chosen in declared.logins[kind] else [])
        found |= {name for reader, name, _rule in _listed(entry) if reader == container}
    return found


def known_secrets(tables: Tables, catalogue: Mapping[str, entries.Entry], fetched: Collection[str] = (), outside: Collection[str] = ()) -> Secrets:
    """Return the secrets of a catalogue without values.

    ``fetched`` are containers that get theirs from AWS themselves, ``outside`` the kinds of server that stand outside the stack.
    """
    names = reserved(catalogue, tables.secrets)
    found = Secrets()

    def add(name: str, rule: Rule, *, needed: bool, env_local: str | None) -> None:
        found.rules.setdefault(name, resolved(rule, names, outside))
        if rule.get("rotated") is False:
            # One who says it of a secret that several read says it for all.
            found.rules[name] = {**found.rules[name], "rotated": False}
        rule = found.rules[name]
        if needed and "strong" in rule and not rule.get("optional") and name not in found.needed:
            found.needed.append(name)
        if env_local:
            found.env_local[env_local] = name

    for one in all_logins(catalogue):
        for name in one.secrets:
            rule = tables.secrets.get(name) or tables.secret_rules.get(f"{one.server}_{'access_key' if name == one.user else 'password'}")
            add(name, rule or tables.secret_rules["default"], needed=True, env_local=(rule or {}).get("env_local"))
        if chosen := _NAMED.search(one.user):
            name = chosen[1] or chosen[2]
            add(name, tables.secrets.get(name) or tables.secret_rules["default"], needed=name not in tables.secrets, env_local=None)
    for entry in catalogue.values():
        for container, name, rule in _listed(entry):
            default = tables.secret_rules["default"]
            # An entry says only how its secret differs from others.
            row = {**default, **rule} if rule else tables.secrets.get(name) or default
            add(name, row, needed=container not in fetched, env_local=row.get("env_local", name.upper()))
    add(GENERATION_KEY, tables.secrets[GENERATION_KEY], needed=True, env_local=None)
    for name, row in tables.secrets.items():
        add(name, row, needed=False, env_local=None)
    # In the order of the table and then of the entries, which is the order in a vault file.
    order = [*tables.secrets, *found.needed]
    found.needed.sort(key=order.index)
    found.generated = [name for name in found.needed if found.rules[name].get("generated", True)]
    return found


def url_credentials(values: Mapping[str, str], urls: Mapping[str, Rule]) -> dict[str, str]:
    """Return the credentials in the addresses of `.env.local`, percent-decoded, by the names of the secrets."""
    found = {}
    for name, row in urls.items():
        try:
            parts = urlsplit(values.get(name, ""))
        except ValueError:
            # It has brackets where a host's address may stand, and the error would show them. The address's own rule refuses it by name.
            continue
        if parts.username and parts.password:
            found[row["user"]] = unquote(parts.username)
            found[row["password"]] = unquote(parts.password)
    return found


def combined(tables: Tables, added: Any) -> tuple[entries.Catalogue, list[str]]:
    """Return the catalogue with an inventory's entries, and what is wrong with their form. When anything is, none is merged."""
    if not isinstance(added, Mapping):
        return dict(tables.services), [f"{SOURCE} must be a mapping of names to entries."]
    problems = list(entries.added_problems(added, tables.services, SOURCE))
    if problems:
        return dict(tables.services), problems
    merged = entries.combine(tables.services, added)
    return merged, list(entries.owner_problems(merged, SOURCE, added))


def _setting_value(name: str, row: Rule, declared: Declaration, renderer: Renderer) -> str | None:
    env_local, argument = declared.arguments.get("stack_env_local") or {}, f"stack_{name.lower()}"
    if name in env_local:
        return str(env_local[name])
    if argument in declared.arguments:
        return str(declared.arguments[argument])
    default = row.get("default")
    if isinstance(default, Mapping):
        default = default[declared.arguments["stack_variant"]]
    return None if default is None else str(renderer.render(default, declared.names()))


def _declare_settings(declared: Declaration, renderer: Renderer, whole: entries.Catalogue) -> None:
    """Set the values of the settings, and add what is wrong with those of `.env.local`."""
    tables, env_local = declared.tables, declared.arguments.get("stack_env_local") or {}
    rows: dict[str, tuple[str, Rule]] = {name: ("", row) for name, row in tables.settings.items()}
    gone: list[str] = []
    for name, entry in whole.items():
        for setting, row in (entry.get("settings") or {}).items():
            if setting in rows:
                declared.problems.append(f"{SOURCE}.{name}.settings.{setting} is a setting of {rows[setting][0] or 'the stack'} already. Choose another name.")
            rows[setting] = (name, row)
            gone += [setting] if name not in declared.catalogue else []
    removed = {name: entry for name, entry in tables.services.items() if name not in whole}
    left = {setting: row for entry in removed.values() for setting, row in (entry.get("settings") or {}).items() if setting not in rows}
    gone += left
    names = reserved(whole, tables.secrets)
    every = known_secrets(tables, {**removed, **whole}, outside=declared.external)
    for setting, (owner, _row) in rows.items():
        if setting in every.env_local:
            declared.problems.append(
                f"{SOURCE}.{owner}.settings.{setting} has the name of the secret {every.env_local[setting]} in .env.local. Choose another."
            )
    rules = left | {setting: resolved(row, names, declared.external) for setting, (_owner, row) in rows.items()}
    rules |= {name: every.rules[secret] for name, secret in every.env_local.items()} | dict(tables.urls)
    free = [name for name, row in rules.items() if row.get("only_with") in declared.external]
    rules |= {name: {"pattern": r"[\s\S]*", "hint": rules[name]["hint"]} for name in free}
    declared.problems += setting_problems(env_local, rules, ".env.local")
    kept = known_secrets(tables, declared.catalogue).env_local
    gone += free + [name for name in every.env_local if name not in kept]
    declared.problems += [
        f".env.local: {name} is about a service of the stack that is replaced or taken out. Remove the line." for name in env_local if name in gone
    ]
    for setting, (owner, row) in rows.items():
        if owner and owner not in declared.catalogue:
            continue
        try:
            value = _setting_value(setting, row, declared, renderer)
        except Exception as error:
            declared.problems.append(f"{SOURCE}.{owner}.settings.{setting}.default cannot be used: {why(error)}")
            continue
        if value is None:
            declared.problems.append(f"{setting} is missing. Set it in .env.local, or give it a default in {SOURCE}.{owner}.settings.{setting}.")
        else:
            declared.settings[setting] = value
            if owner in declared.added and setting not in env_local:
                declared.problems += setting_problems({setting: value}, {setting: rules[setting]}, f"{SOURCE}.{owner}.settings")


def _aws_problems(arguments: Mapping[str, Any], tables: Tables, fetching: Collection[str]) -> Iterator[str]:
    runtime = arguments.get("stack_aws_runtime_secret_ids") or {}
    id_rule = tables.aws_rules["stack_aws_secret_id"]
    given = {name: arguments[name] for name in tables.aws_rules if name in arguments}
    yield from setting_problems(given, tables.aws_rules, "the inventory")
    yield from setting_problems(runtime, dict.fromkeys(fetching, id_rule), "stack_aws_runtime_secret_ids")


def known_elsewhere(declared: Declaration) -> list[str]:
    """Return the names of secrets that an external server knows already, so that a generated value would not work."""
    return [
        name
        for kind, named in declared.logins.items()
        if declared.servers[kind].external
        for one in named.values()
        if kind != "postgres" or one.row.get("admin")
        for name in one.secrets
    ]


def _declare_secrets(declared: Declaration, read_aws: Callable[[str, str], Answer], generate: Callable[[list[str], str], dict[str, str]]) -> None:
    """Set the values of the secrets, and add what is wrong with those that are given, and which are missing."""
    arguments, tables = declared.arguments, declared.tables
    env_local, fetched = arguments.get("stack_env_local") or {}, arguments.get("stack_aws_runtime_secret_ids") or {}
    secrets = declared.secrets = known_secrets(tables, declared.catalogue, fetched, declared.external)
    # A vault may still hold those of a service that is taken out.
    rules = known_secrets(tables, {**tables.services, **declared.catalogue}, outside=declared.external).rules
    answer = Answer()
    if "stack_aws_secret_id" in arguments and "stack_aws_region" in arguments:
        answer = read_aws(arguments["stack_aws_secret_id"], arguments["stack_aws_region"])
    from_urls = url_credentials(env_local, tables.urls)
    given = arguments.get("stack_secrets") or {}
    declared.problems += [f"AWS Secrets Manager (stack_aws_secret_id): {problem}" for problem in answer.problems]
    declared.problems += secret_problems(
        {"the secret of stack_aws_secret_id": answer.secrets, "stack_secrets": given, "DATABASE_URL or REDIS_URL in .env.local": from_urls},
        rules,
        tables.examples,
        strict=arguments["stack_variant"] == "prod",
    )
    local = {secret: env_local[name] for name, secret in secrets.env_local.items() if name in env_local}
    secrets.given = {**answer.secrets, **{name: value for name, value in given.items() if isinstance(value, str)}, **local, **from_urls}
    generating = arguments.get("stack_generate_secrets")
    # A secret of AWS that cannot be read is one problem, not one for each name in it.
    not_generated = [name for name in secrets.needed if name not in secrets.generated]
    missing = [] if answer.problems else [*known_elsewhere(declared), *not_generated] if generating else secrets.needed
    # Prod generates nothing, so a person is told there what writes a vault.
    otherwise = ", or set stack_generate_secrets." if arguments["stack_variant"] == "local" else ". The playbook init_secrets writes a new vault."
    declared.problems += [
        f"stack_secrets.{name} is missing. Give it in the vault or in AWS" + (otherwise if name in secrets.generated else "; it cannot be generated.")
        for name in missing
        if name not in secrets.given
    ]
    made: dict[str, str] = {}
    if generating and not declared.problems and "stack_generated_secrets_file" in arguments:
        made = generate(list(secrets.generated), arguments["stack_generated_secrets_file"])
    defaults = {name: str(rule["default"]) for name, rule in secrets.rules.items() if "default" in rule}
    # A service that fetches its secrets itself needs no value here.
    secrets.values = dict.fromkeys(secrets.rules, "") | defaults | made | secrets.given


def _requirement_problems(declared: Declaration, renderer: Renderer) -> Iterator[str]:
    absent = {name: "" for entry in declared.tables.services.values() for name in entry.get("settings") or {}}
    names = {**declared.names(), "setting": absent | declared.settings, "secret": declared.secrets.values}
    for row in declared.tables.requirements:
        if not renderer.holds(row["that"], names):
            yield str(renderer.render(row["message"], names))


def _needs_problems(declared: Declaration) -> Iterator[str]:
    for name, entry in declared.catalogue.items():
        where = f"{SOURCE}.{name}.needs"
        for container, needed in (entry.get("needs") or {}).items():
            if container not in entries.containers_of(entry):
                yield f"{where}.{container}: the entry has no such container. {did_you_mean(container, entries.containers_of(entry))}"
            for kind, chosen in needed.items():
                if chosen not in declared.logins[kind]:
                    yield f"{where}.{container}.{kind}: there is no login {chosen} at {kind}. {did_you_mean(str(chosen), declared.logins[kind])}"
                server = declared.servers[kind]
                if not server.external and not any(server.service in entries.containers_of(other) for other in declared.catalogue.values()):
                    yield f"{where}.{container}.{kind}: {server.service} is taken out, but {container} needs it. Set {VARIABLES[kind]}, or take {name} out too."


def _left_out_problems(declared: Declaration, kept: entries.Catalogue) -> Iterator[str]:
    """Yield a message for everything that an entry needs and that stands in an entry which is left out by its condition."""
    before = _by_kind(kept)
    owners = {(kind, login): name for name, entry in kept.items() for kind, named in (entry.get("logins") or {}).items() for login in named or {}}
    present = {container for entry in declared.catalogue.values() for container in entries.containers_of(entry)}
    for name, entry in declared.catalogue.items():
        for container, needed in (entry.get("needs") or {}).items():
            for kind, chosen in needed.items():
                where = f"{SOURCE}.{name}.needs.{container}.{kind}"
                if chosen in before[kind] and chosen not in declared.logins[kind]:
                    yield (
                        f"{where}: the login {chosen} stands in the entry {owners[kind, chosen]}, which is left out by its condition. "
                        f"Leave {name} out by the same condition, or give it a login of its own."
                    )
                server = declared.servers[kind]
                if not server.external and server.service not in present and any(server.service in entries.containers_of(other) for other in kept.values()):
                    yield f"{where}: {server.service} is left out by the condition of its entry, but {container} needs it. Set {VARIABLES[kind]}."


def _without_digits(name: str) -> str:
    return re.sub("[0-9]+", "", name)


def _secret_name_problems(declared: Declaration) -> Iterator[str]:
    """Yield a message for every new secret of the inventory's entries whose name is hardly another than that of a secret which is there.

    A name that nobody else has makes a new secret, so one that is misspelt would be generated, and nobody would know why nothing works. One with a rule of
    its own is meant.
    """
    tables = declared.tables
    own = set(known_secrets(tables, tables.services).rules)
    places: dict[str, str] = {}
    listed: set[str] = set()
    for one in all_logins({name: entry or {} for name, entry in declared.added.items()}):
        for key in ("password", "access_key", "secret_key"):
            if key in one.row:
                places.setdefault(str(one.row[key]), f"{SOURCE}: the login {one.name} at {one.server}")
    # The others' names follow from that of the login.
    known = own | {name for one in all_logins(declared.catalogue) for name in one.secrets if name not in places}
    for name, entry in declared.added.items():
        for container, files in ((entry or {}).get("secrets") or {}).items():
            texts = dict.fromkeys(files) if isinstance(files, (list, tuple)) else files
            known |= {str(file) for file, row in texts.items() if isinstance(row, Mapping)} if isinstance(texts, Mapping) else set()
            listed |= {str(file) for file, row in texts.items() if row is None} if isinstance(texts, Mapping) else set()
            for _container, secret, _rule in _listed({"secrets": {container: files}}):
                places.setdefault(secret, f"{SOURCE}.{name}.secrets.{container}")
        for one in all_logins({name: entry or {}}):
            for found in _NAMED.findall(str(one.user)):
                places.setdefault(found[0] or found[1], f"{SOURCE}.{name}.logins.{one.server}.{one.name}.user")
    for secret, where in places.items():
        # What is listed by its name cannot be a misspelt name of another that is listed.
        others = known if secret in listed else known | listed
        close = difflib.get_close_matches(secret, sorted(others), n=1, cutoff=_HARDLY_ANOTHER)
        if close and secret not in others and _without_digits(close[0]) != _without_digits(secret):
            yield (
                f"{where} names the secret {secret}, which is a new one. Did you mean {close[0]}? Else choose a name that is less like it, or give it a rule: "
                f"{secret}: {{strong: 16}}."
            )


def _is_asked_for(entry: entries.Entry, arguments: Mapping[str, Any]) -> bool:
    """Return whether the role's variables have an entry in the stack at all: nothing stands in its place, and what asks for it does."""
    return entry.get("replaced_by") not in arguments and (entry.get("asked_by") is None or bool(arguments.get(entry["asked_by"])))


def _taken_out_problems(declared: Declaration) -> Iterator[str]:
    """Yield a message for every entry that the inventory takes out while a variable of the role asks for it."""
    for name, entry in declared.added.items():
        asked_by = declared.tables.services.get(name, {}).get("asked_by")
        if entry is None and asked_by and declared.arguments.get(asked_by):
            yield f"{SOURCE}.{name} is empty, which takes an entry out, but {asked_by} asks for it. Set {asked_by}: false, or remove {SOURCE}.{name}."


def _is_wanted(name: str, entry: entries.Entry, declared: Declaration, renderer: Renderer) -> bool:
    """Return whether an entry's condition holds; one that cannot be evaluated is a problem."""
    if entry.get("when") is None:
        return True
    try:
        return bool(renderer.render(entry["when"], declared.names()))
    except Exception as error:
        if name not in declared.added:
            raise
        declared.problems.append(f"{SOURCE}.{name}.when cannot be used: {why(error)}")
        return False


def declare(
    arguments: Mapping[str, Any],
    tables: Tables,
    renderer: Renderer,
    added: Mapping[str, Any],
    *,
    read_aws: Callable[[str, str], Answer],
    generate: Callable[[list[str], str], dict[str, str]],
    with_secrets: bool = True,
) -> Declaration:
    """Return the declaration. Its problems are complete, except for those that only rendering the catalogue shows.

    ``arguments`` are right by themselves (arguments.py), and so is the form of ``added``, the inventory's entries. ``read_aws`` reads a secret's text by its id
    and region; ``generate`` gives values for names, from a file that keeps them. Without ``with_secrets`` no secret is read, generated or asked for.
    """
    whole, problems = combined(tables, added)
    kept = {name: entry for name, entry in whole.items() if _is_asked_for(entry, arguments)}
    declared = Declaration(arguments, tables, kept, added, servers(arguments), _by_kind(kept), problems=problems)
    _declare_settings(declared, renderer, whole)
    declared.servers = {
        kind: Server(kind, server.external, server.values, database=declared.settings.get("POSTGRES_DB", "")) for kind, server in declared.servers.items()
    }
    fetching = {container for entry in kept.values() for container in entry.get("needs") or {} if container not in (entry.get("jobs") or {})}
    declared.problems += _aws_problems(arguments, tables, fetching)
    if with_secrets:
        _declare_secrets(declared, read_aws, generate)
    else:
        declared.secrets = known_secrets(tables, declared.catalogue)
        declared.secrets.values = dict.fromkeys(declared.secrets.rules, "not-read")
    declared.problems += [*_taken_out_problems(declared), *_needs_problems(declared), *_secret_name_problems(declared)]
    if not declared.problems:
        # A rule between values is checked only where each by itself is right.
        declared.problems += _requirement_problems(declared, renderer)
        if with_secrets:
            declared.problems += tls_problems(
                arguments.get("stack_tls_certificate"), declared.secrets.given.get("tls_private_key"), arguments.get("stack_server_name")
            )
    declared.catalogue = {name: entry for name, entry in kept.items() if _is_wanted(name, entry, declared, renderer)}
    # An entry that is left out creates no login either.
    declared.logins = _by_kind(declared.catalogue)
    declared.problems += _left_out_problems(declared, kept)
    return declared
