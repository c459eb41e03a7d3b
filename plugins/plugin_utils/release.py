# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a release from a declaration: Compose files, environment file, config and secret files, and the manifest that says what is deployed."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ansible_collections.campaign.platform.plugins.plugin_utils import summary as summaries
from ansible_collections.campaign.platform.plugins.plugin_utils.catalogue import ACL_USER, FILE_KEYS, containers_of, json_problems, merge
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import (
    GENERATION_KEY,
    SOURCE,
    Declaration,
)
from ansible_collections.campaign.platform.plugins.plugin_utils.ports import clash_problems, filled, form_problems, published
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import Renderer, why
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import did_you_mean
from ansible_collections.campaign.platform.plugins.plugin_utils.servers import (
    CA_FILE,
    EGRESS,
    JOBS,
    OWN_USERS,
    S3_LAST_JOB,
    SERVICES,
    URL_FILES,
    Login,
    Server,
    role_of,
)
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError, nul_problems, to_compose, to_env_file

_USER = re.compile(r"(\d+):(\d+)\Z")
_IMAGE_NAME = re.compile(r"\bimage\.([A-Za-z0-9_]+)|\bimage\[['\"]([A-Za-z0-9._-]+)['\"]\]")
# From this length on, a secret's value does not stand in another text by chance.
LEAST_SECRET = 16
JOB = {"profiles": ["job"], "restart": "no"}
# A service with one of these has limits of its own.
_OWN_LIMITS = frozenset(["deploy", "cpus", "mem_limit", "mem_reservation"])
# Where the files are that say which container a proxy hands requests on to; what starts first is written there when it has proved itself.
ROUTES = "routes"
# What Compose fills in: $$ is a dollar sign, and what has a default needs no setting.
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<named>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:?[-+])?)")
# Where images of PostgreSQL keep their data.
_DATA = "/var/lib/postgresql"
# Template of what starts the program that is run after each start of the machine and of the Engine, by init system.
_BOOT = {"systemd": "service", "sysv": "init"}
# What a service joins that names no network. Compose's `default` network would give it a way out.
BACKEND = "backend-network"


HEADER = "# Written from the service catalogue (campaign.platform). Change the inventory and deploy again; a change of this file is overwritten.\n"
# In the order of a reader's questions: what runs, how, with what, and then how it is confined.
_ORDER = """image profiles command entrypoint user environment ports networks volumes secrets depends_on healthcheck labels deploy cpu_shares memswap_limit
    shm_size restart init stop_grace_period read_only tmpfs cap_drop security_opt pids_limit ulimits logging""".split()

_NOT_REQUIRED = "not-required/"


@dataclass
class Rendered:
    """The catalogue with every expression rendered, in the parts that a release consists of."""

    base: dict[str, Any] = field(default_factory=dict)
    override: dict[str, Any] = field(default_factory=dict)
    # Container to file name to content.
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    # By container and file name, what its entry says of the file: `stable` and `earlier`.
    secret_options: dict[tuple[str, str], dict[str, bool]] = field(default_factory=dict)
    # Container to path in the container to content.
    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    # Container of a proxy to directory (of its route files) and to (port by service).
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Containers that sign in to an external server.
    outgoing: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def has(self, container: str) -> bool:
        """Return whether a container is there; one that is not is of the other variant."""
        return any(container in (part.get("services") or {}) for part in (self.base, self.override))

    def services(self) -> dict[str, Any]:
        """Return all services as Compose merges them. Those of the override come first."""
        base, override = self.base.get("services") or {}, self.override.get("services") or {}
        return {name: merge(base.get(name) or {}, override.get(name) or {}) for name in {**override, **base}}


def _image_keys(catalogue: Mapping[str, Any]) -> set[str]:
    """Return the keys of the images that entries name or bring along."""
    text = json.dumps(catalogue, default=str)
    keys = {one or other for one, other in _IMAGE_NAME.findall(text.replace('\\"', '"'))}
    for entry in catalogue.values():
        keys |= set(entry.get("images") or {})
    return keys


def image_names(declared: Declaration) -> dict[str, str]:
    """Return a placeholder for every image that entries name, by its key: what `image.KEY` gives before references are known."""
    return {key: f"image of {key}" for key in sorted(_image_keys(declared.catalogue))}


def _owner(declared: Declaration, kind: str, login: str) -> str:
    """Return the name of the entry that a login stands in."""
    return next((name for name, entry in declared.catalogue.items() if login in ((entry.get("logins") or {}).get(kind) or {})), "")


def _login_problem(declared: Declaration, one: Login, error: Exception) -> str:
    """Return what is wrong with a login of the inventory; an error of the collection's own is raised again."""
    owner = _owner(declared, one.server, one.name)
    if owner not in declared.added:
        raise error
    return f"{SOURCE}.{owner}.logins.{one.server}.{one.name} cannot be used: {why(error)}"


def _login_names(declared: Declaration, renderer: Renderer, names: Mapping[str, Any], rendered: Rendered) -> dict[str, list[dict[str, Any]]]:
    """Return the logins with their values, for the texts of the jobs that create them.

    A name that an inventory's expression gives shows only here that it is not one which the stack's own server could be given.
    """
    secrets = declared.secrets.values
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in declared.logins}
    for kind, named in declared.logins.items():
        for one in named.values():
            try:
                row = renderer.render(dict(one.row), names)
                user = secrets[one.user] if kind == "s3" else str(renderer.render(one.user, names))
            except Exception as error:
                rendered.problems.append(_login_problem(declared, one, error))
                continue
            if kind == "redis" and not declared.servers[kind].external and not re.fullmatch(ACL_USER, user):
                rendered.problems.append(
                    f"{SOURCE}.{_owner(declared, kind, one.name)}.logins.{kind}.{one.name}.user must be a name of letters, digits, _ and - at the stack's own "
                    "Redis."
                )
            found[kind].append({**row, "name": one.name, "user": user, "password": secrets[one.password], "role": role_of(one.name, row)})
    rendered.problems += _login_clashes(declared, found)
    return found


def _added_logins(declared: Declaration, kind: str) -> set[str]:
    """Return the names of the logins at a server that the inventory gives or changes."""
    return {str(login) for entry in declared.added.values() for login in ((entry or {}).get("logins") or {}).get(kind) or {}}


def _login_clashes(declared: Declaration, logins: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield a message for every name at a server that two logins have, or that the server has for itself: one would take the other's rights or password.

    The users of an external Redis and the keys of an external S3 are not created here, and one of them may serve for all.
    """
    reserved = {"postgres": ("public", "none"), "redis": OWN_USERS, "s3": ()}
    for kind, rows in logins.items():
        if kind != "postgres" and declared.servers[kind].external:
            continue
        owners = dict.fromkeys(reserved[kind], f"{SERVICES[kind]} itself")
        # Those of the collection first: POSTGRES_USER and the api may be one, which its own rules see to.
        for row in sorted(rows, key=lambda row: row["name"] in _added_logins(declared, kind)):
            names = {row["user"]} if kind != "postgres" or row.get("admin") else {row["user"], row["role"]}
            for name in sorted(names):
                if name in owners and row["name"] in _added_logins(declared, kind):
                    what = "access key" if kind == "s3" else f"name {name}"
                    yield (
                        f"{SOURCE}.{_owner(declared, kind, row['name'])}.logins.{kind}.{row['name']}: the {what} belongs to {owners[name]} already. "
                        "Give it one of its own."
                    )
                owners[name] = f"the login {row['name']}"


def _needed(
    container: str, kind: str, one: Login, declared: Declaration, logins: Mapping[str, list[dict[str, Any]]], *, is_job: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a login at a server gives a container: a Compose fragment and secret files."""
    server: Server = declared.servers[kind]
    values = next(row for row in logins[kind] if row["name"] == one.name)
    files = {"s3_access_key": values["user"], "s3_secret_key": values["password"]}
    if kind in URL_FILES:
        files = {URL_FILES[kind]: server.url(values["user"], values["password"])}
    service: dict[str, Any] = {}
    job = JOBS.get(kind)
    present = {name for entry in declared.catalogue.values() for name in containers_of(entry)}
    if is_job and job in present:
        service["depends_on"] = {job: {"condition": "service_completed_successfully"}}
    elif not server.external:
        service["depends_on"] = {server.service: {"condition": "service_healthy"}}
    if server.external and server.ca:
        service["environment"] = {"NODE_EXTRA_CA_CERTS": CA_FILE}
    if kind == "s3" and not server.path_style(declared.settings.get("S3_BUCKET", "")):
        service = merge(service, {"environment": {"S3_PATH_STYLE": "false"}})
    return {"services": {container: service}}, files


def authorities(declared: Declaration) -> str:
    """Return the certificates of all private authorities in one text, because Node reads one file."""
    return "".join(f"{text}\n" for text in dict.fromkeys(server.ca for server in declared.servers.values() if server.ca))


def _source_text(source: Any, name: str, renderer: Renderer, names: Mapping[str, Any]) -> str:
    """Return the content of a secret or config file: a rendered text, a rendered template, or, without these, the secret of that name."""
    if isinstance(source, str):
        return str(renderer.render(source, names))
    if source and "template" in source:
        return renderer.template(str(renderer.render(source["template"], names)), names)
    if source and "content" in source:
        return str(renderer.render(source["content"], names))
    return str(names["secret"][name])


def _add_secret(where: str, container: str, target: str, text: str, rendered: Rendered) -> None:
    """Add a secret file to a container. Two of one name cannot be there, and neither is more right than the other."""
    files = rendered.secrets.setdefault(container, {})
    if target in files:
        rendered.problems.append(f"{where}.{target}: {container} has a secret file of that name already, which needs or a login gives it. Choose another name.")
    files[target] = text


def _entry_files(
    where: str, entry: Mapping[str, Any], renderer: Renderer, names: Mapping[str, Any], secret_names: Mapping[str, Any], rendered: Rendered
) -> None:
    for container, files in (entry.get("secrets") or {}).items():
        if not rendered.has(container):
            continue
        if isinstance(files, str):
            files = renderer.render(files, names)
        for name, source in files.items() if isinstance(files, Mapping) else [(name, None) for name in files]:
            _add_secret(f"{where}.secrets.{container}", container, name, _source_text(source, name, renderer, secret_names), rendered)
            options = source if isinstance(source, Mapping) else {}
            rendered.secret_options[container, name] = {key: bool(renderer.render(options[key], names)) for key in FILE_KEYS & set(options)}
    for container, configs in (entry.get("configs") or {}).items():
        if not rendered.has(container):
            continue
        for path, source in configs.items():
            if "when" not in source or renderer.render(source["when"], names):
                rendered.configs.setdefault(container, {})[path] = _source_text(source, path, renderer, names)


def _s3_files(declared: Declaration, renderer: Renderer, names: Mapping[str, Any], logins: Mapping[str, list[dict[str, Any]]], rendered: Rendered) -> None:
    """Add what MinIO's job needs for each login: its key pair, two lines in the order in which mc asks for them, and its policy."""
    for row in logins["s3"]:
        files = {f"{row['name']}_credentials": f"{row['user']}\n{row['password']}\n", f"{row['name']}_access_key": row["user"]}
        for target, text in files.items():
            _add_secret(f"{SOURCE}.{_owner(declared, 's3', row['name'])}.logins.s3.{row['name']}", JOBS["s3"], target, text, rendered)
        one = declared.logins["s3"][row["name"]]
        policy = one.row["policy"]
        try:
            text = json.dumps(row["policy"], indent=2) + "\n" if "Statement" in policy else _source_text(policy, "policy", renderer, names)
        except Exception as error:
            rendered.problems.append(_login_problem(declared, one, error))
            continue
        rendered.configs.setdefault(JOBS["s3"], {})[f"/etc/campaign/policy-{row['name']}.json"] = text
        if not rendered.has(S3_LAST_JOB):
            continue
        # What is an account's own is told from what was one before by the keys themselves.
        target = f"{row['name']}_access_key"
        _add_secret(f"{SOURCE}.{_owner(declared, 's3', row['name'])}.logins.s3.{row['name']}", S3_LAST_JOB, target, row["user"], rendered)
        rendered.secret_options[S3_LAST_JOB, target] = {"earlier": True}


def _named(kind: str, name: str, entry: Mapping[str, Any], renderer: Renderer, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an entry's checks, or its metrics, whose condition is true."""
    for what, row in (entry.get(kind) or {}).items():
        row = dict(row)
        if "when" not in row or renderer.render(row.pop("when"), names):
            yield {"service": name, "name": what, **renderer.render(row, names)}


def _fragment(entry: Mapping[str, Any], layer: str, renderer: Renderer, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer of an entry with its expressions rendered. Raises TextError where one of them should have given a mapping."""
    fragment: dict[str, Any] = renderer.render(entry.get(layer) or {}, names)
    for container, body in (fragment.get("services") or {}).items():
        if body is not None and not isinstance(body, Mapping):
            raise TextError(f"{layer}.services.{container} is a text. Give a mapping, or an expression that gives one.")
    return fragment


def render(declared: Declaration, renderer: Renderer, images: Mapping[str, str], *, texts: bool = True) -> Rendered:
    """Return the rendered catalogue. Problems are those of the inventory's entries; the collection's own have none.

    ``images`` are references by key. Without ``texts`` the content of files is not rendered, which is enough to know images and ports.
    """
    rendered = Rendered()
    values = {"frontend_origin": declared.origin() if declared.tls else ""}
    names: dict[str, Any] = {**declared.names(), **values, "image": images}
    names |= renderer.render(declared.tables.common["names"], names)
    secret_names = {**names, "secret": declared.secrets.values}
    logins = _login_names(declared, renderer, secret_names, rendered)
    if rendered.problems:
        # What follows needs every login.
        return rendered
    secret_names["logins"] = logins
    jobs = {job for entry in declared.catalogue.values() for job in entry.get("jobs") or {}}
    layers = ["base"] + (["tls"] if declared.tls else [])
    overrides = [declared.layer] + (["hot_reload"] if declared.hot_reload else [])
    for name, entry in declared.catalogue.items():
        try:
            rendered.definitions.update(renderer.render({key: row or {} for key, row in (entry.get("images") or {}).items()}, names))
            for layer in layers:
                rendered.base = merge(rendered.base, _fragment(entry, layer, renderer, names))
            for layer in overrides:
                rendered.override = merge(rendered.override, _fragment(entry, layer, renderer, names))
            for container, needed in (entry.get("needs") or {}).items():
                if not rendered.has(container):
                    continue
                for kind, chosen in needed.items():
                    fragment, files = _needed(container, kind, declared.logins[kind][chosen], declared, logins, is_job=container in jobs)
                    rendered.base = merge(rendered.base, fragment)
                    rendered.secrets.setdefault(container, {}).update(files)
                    server = declared.servers[kind]
                    if server.external:
                        rendered.outgoing.add(container)
                    if server.external and server.ca:
                        rendered.configs.setdefault(container, {})[CA_FILE] = authorities(declared)
            rendered.jobs.update({job: dict(row or {}) for job, row in (entry.get("jobs") or {}).items() if rendered.has(job)})
            if texts:
                _entry_files(f"{SOURCE}.{name}", entry, renderer, names, secret_names, rendered)
            rendered.checks += _named("checks", name, entry, renderer, names)
            rendered.metrics += _named("metrics", name, entry, renderer, names)
            rendered.routes.update({proxy: row for proxy, row in renderer.render(entry.get("routes") or {}, names).items() if row and rendered.has(proxy)})
        except Exception as error:
            if name not in declared.added:
                raise
            rendered.problems.append(f"{SOURCE}.{name} cannot be used: {error if isinstance(error, TextError) else why(error)}")
    if texts and JOBS["s3"] in jobs:
        _s3_files(declared, renderer, names, logins, rendered)
    _complete(declared, renderer, names, rendered, jobs)
    return rendered


def bytes_of(size: object) -> int:
    """Return the number of bytes of a size as Compose spells it, such as 512m; 0 where it is something else, such as -1 for no limit."""
    found = re.fullmatch(r"([0-9]+)([bkmg]?)b?", str(size).lower())
    return int(found[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}[found[2]] if found else 0


def _complete(declared: Declaration, renderer: Renderer, names: Mapping[str, Any], rendered: Rendered, jobs: set[str]) -> None:
    """Give every service what it has unless its own entry says otherwise."""
    common = renderer.render(declared.tables.common["service"], names)
    health = declared.tables.common["health"]
    limits = declared.tables.common["limits"]
    base = rendered.base.setdefault("services", {})
    override = rendered.override.setdefault("services", {})
    for services in (base, override):
        for name, body in services.items():
            # An empty key says nothing, and Compose refuses some of them.
            body = {key: value for key, value in (body or {}).items() if value is not None}
            first = services is base or name not in base
            # The timing of a healthcheck that a layer above changes is that of the layer below.
            if isinstance(body.get("healthcheck"), Mapping) and (first or "healthcheck" not in base[name]):
                body = {**body, "healthcheck": {**health, **body["healthcheck"]}}
            if first:
                body = {**common, **(JOB if name in jobs else {}), **body}
                # Without any network Compose would take its `default`, which lets the container out.
                if not body.get("networks") and not {"network_mode"} & {*body, *(override.get(name) or {})}:
                    body["networks"] = [BACKEND]
            services[name] = body
    for name in {**base, **override}:
        body = merge(base.get(name) or {}, override.get(name) or {})
        # How a service is replaced says nothing of what it may use.
        own = {key for key in _OWN_LIMITS & set(body) if key != "deploy" or set(body["deploy"] or {}) != {"update_config"}}
        if declared.layer == "prod" and name in base and not own:
            override[name] = merge(limits, override.get(name) or {})
            body = merge(body, limits)
        # Compose refuses limits that differ from, or leave out, the number of processes that stands beside them.
        given = ((body.get("deploy") or {}).get("resources") or {}).get("limits")
        if given and ("pids" not in given or given is limits["deploy"]["resources"]["limits"]) and given.get("pids") != body["pids_limit"]:
            override[name] = merge(override.get(name) or {}, {"deploy": {"resources": {"limits": {"pids": body["pids_limit"]}}}})
        # The Engine refuses a limit of memory that is above that of memory and swap together, which a raised limit would be.
        memory = (given or {}).get("memory")
        if memory and bytes_of(memory) > bytes_of(body.get("memswap_limit", memory)):
            override[name] = {**(override.get(name) or {}), "memswap_limit": memory}
    for name in rendered.outgoing:
        # In addition to its other networks, so that it still reaches the stack's own servers.
        services = base if name in base else override
        services[name] = merge(services[name], {"networks": [EGRESS]})
    networks = rendered.base.setdefault("networks", {})
    rendered.base["networks"] = {**declared.tables.common["networks"], **networks}
    if any(EGRESS in (body.get("networks") or []) for body in base.values()):
        rendered.base["networks"].setdefault(EGRESS, {})
    if not override:
        del rendered.override["services"]


def _from_aws(declared: Declaration, rendered: Rendered) -> dict[str, dict[str, str]]:
    """Let services fetch their secrets from AWS themselves: take their secret files out, and return them."""
    arguments = declared.arguments
    fetched = {}
    for service, secret_id in (arguments.get("stack_aws_runtime_secret_ids") or {}).items():
        if not rendered.has(service):
            # Its entry is left out by its condition.
            continue
        files = rendered.secrets.pop(service, {})
        if files:
            fetched[service] = files
        environment = {"AWS_SECRETS_MANAGER_SECRET_ID": str(secret_id), "AWS_REGION": str(arguments.get("stack_aws_region", ""))}
        if arguments.get("stack_aws_endpoint_url"):
            environment["AWS_ENDPOINT_URL_SECRETS_MANAGER"] = str(arguments["stack_aws_endpoint_url"])
        body = rendered.services()[service]
        joined = [] if EGRESS in body.get("networks", []) else [EGRESS]
        rendered.base = merge(rendered.base, {"services": {service: {"environment": environment, "networks": joined}}, "networks": {EGRESS: {}}})
    return fetched


def generation(key: str, consumer: str, target: str, content: str) -> str:
    """Return the generation of a secret file's content, an HMAC-SHA-256 under the stack's key.

    Docker Compose does not recreate a container whose secret file changed (https://github.com/docker/compose/issues/10081), so a changed value needs a changed
    name. A plain digest could be used to guess the value by whoever reads names over the Engine's socket.
    """
    # With the lengths, so that no two triples give the same text.
    message = "".join(f"{len(part)}:{part}" for part in (consumer, target, content))
    return hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest()[:12]


def secret_files(
    secrets: Mapping[str, Mapping[str, str]],
    services: Mapping[str, Any],
    key: str,
    directory: str,
    options: Mapping[tuple[str, str], Mapping[str, bool]] | None = None,
) -> list[dict[str, Any]]:
    """Return one file for each secret of each consumer, under a name of its own generation, owned by the consumer's numeric uid and gid.

    ``options`` say by consumer and target which of them are mounted under a name that stays, and which together with their earlier generations.
    """
    files = []
    for consumer, targets in secrets.items():
        if not targets:
            continue
        user = _USER.match(str((services.get(consumer) or {}).get("user", "")))
        if not user:
            raise TextError(f"The service {consumer} reads secrets, so it needs a numeric user, such as user: '10001:10001'.")
        for target, content in targets.items():
            source = f"{consumer}_{target}_{generation(key, consumer, target, content)}"
            path = f"{directory}/{source}"
            owner = {"uid": int(user[1]), "gid": int(user[2])}
            files.append({"consumer": consumer, "target": target, "source": source, "path": path, **owner, "content": content})
            files[-1] |= {option: bool(((options or {}).get((consumer, target)) or {}).get(option)) for option in sorted(FILE_KEYS)}
    return files


def config_files(configs: Mapping[str, Mapping[str, str]], directory: str) -> list[dict[str, Any]]:
    """Return every config file under a path with the digest of its content.

    A container keeps the bytes of a file that is replaced while it runs. With the digest in the mount's source a change recreates the consumer, and the
    previous release still finds its own file.
    """
    files = []
    for service, named in configs.items():
        for target, content in named.items():
            digest = hashlib.sha256(content.encode()).hexdigest()[:12]
            path = f"config/{digest}/{os.path.basename(target)}"
            files.append(
                {
                    "service": service,
                    "target": target,
                    "content": content,
                    "name": os.path.basename(target),
                    "path": path,
                    "source": f"{directory}/{path}",
                }
            )
    return files


def _mounts(secrets: list[dict[str, Any]], configs: list[dict[str, Any]], routes: Mapping[str, Mapping[str, Any]], directory: str) -> dict[str, Any]:
    """Return the fragment that mounts config, secret and route files."""
    fragment: dict[str, Any] = {}
    mounts = [(file["service"], file["source"], file["target"]) for file in configs]
    # A directory, because the files in it are replaced while the proxy runs.
    mounts += [(proxy, f"{directory}/{ROUTES}/{proxy}", row["directory"]) for proxy, row in routes.items()]
    for service, source, target in mounts:
        # Without create_host_path a missing file is an error; with it, Docker would create a directory of that name.
        volume = {"type": "bind", "source": source, "target": target, "read_only": True, "bind": {"create_host_path": False}}
        fragment = merge(fragment, {"services": {service: {"volumes": [volume]}}})
    for file in secrets:
        source, path = file["source"], file["path"]
        if file["stable"]:
            # Who reads it is told of a new value by a job, so the definition has to stay as it is.
            source = f"{file['consumer']}_{file['target']}"
            path = f"{os.path.dirname(path)}/stable/{source}"
        mount = {"source": source, "target": file["target"]}
        fragment = merge(fragment, {"services": {file["consumer"]: {"secrets": [mount]}}, "secrets": {source: {"file": path}}})
        if file["earlier"]:
            directory = f"{os.path.dirname(path)}/earlier/{file['consumer']}/{file['target']}"
            volume = {"type": "bind", "source": directory, "target": f"/run/earlier/{file['target']}", "read_only": True}
            fragment = merge(fragment, {"services": {file["consumer"]: {"volumes": [{**volume, "bind": {"create_host_path": False}}]}}})
    return fragment


def ordered(compose: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Compose file with the networks first, and every service's keys in the same order."""

    def keys(body: Mapping[str, Any]) -> list[str]:
        named = [key for key in _ORDER if key in body]
        others = [key for key in body if key not in _ORDER]
        # Rare keys come before the confinement, which is the same everywhere.
        place = next((number for number, key in enumerate(named) if _ORDER.index(key) >= _ORDER.index("restart")), len(named))
        return [*named[:place], *others, *named[place:]]

    services = {name: {key: body[key] for key in keys(body)} for name, body in (compose.get("services") or {}).items()}
    first = {key: compose[key] for key in ("networks",) if key in compose}
    return {**first, **compose, **({"services": services} if services else {})}


def _keep(mappings: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: mapping[key] for key in keys} for mapping in mappings]


@dataclass
class Images:
    """The keys of the images that services run, the definitions that entries bring along, and where each is written, by key."""

    required: set[str] = field(default_factory=set)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def required_images(declared: Declaration, rendered: Rendered, images: Mapping[str, str]) -> Images:
    """Return what images a release needs. ``images`` are placeholders by key (image_names).

    A service that names a reference instead of a key has an image of its own name. For a service of the collection that is in place of the collection's image.
    """
    keys, found = {placeholder: key for key, placeholder in images.items()}, Images(definitions=dict(rendered.definitions))
    owners = {container: name for name, entry in declared.catalogue.items() for container in containers_of(entry)}
    # Most services of the collection are called as their image is.
    own = {container for entry in declared.tables.services.values() for container in containers_of(entry)} & _image_keys(declared.tables.services)
    for name, body in rendered.services().items():
        text, where = str(body.get("image", "")), f"{SOURCE}.{owners.get(name, name)}: the image of the container {name}"
        if text in keys:
            found.required.add(keys[text])
            found.places.setdefault(keys[text], where)
        elif text:
            found.definitions[name] = {"upstream": text, **({"replaces": True} if name in own else {})}
            found.required.add(name)
            found.places[name] = where
    for name, entry in declared.catalogue.items():
        found.places.update({str(key): f"{SOURCE}.{name}.images.{key}" for key in entry.get("images") or {}})
    return found


def with_references(rendered: Rendered, images: Mapping[str, str]) -> None:
    """Replace an image that a service names itself by the reference that was resolved for it."""
    known = set(images.values())
    for services in (rendered.base.get("services") or {}, rendered.override.get("services") or {}):
        for name, body in services.items():
            if body.get("image") and body["image"] not in known and name in images:
                body["image"] = images[name]


def _unset(fragment: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield place and name of every variable that Compose would fill in with nothing, or with what the host's environment happens to hold."""
    for where, text in _leaves(fragment, ""):
        for found in _VARIABLE.finditer(text):
            name = found["named"] or found["braced"]
            if name and not found["default"] and name not in settings and name not in ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE"):
                yield where.removeprefix("."), name


def _mounts_of(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the keys of the named volumes that a container mounts, each with where."""
    mounts = body.get("volumes") or []
    long = [item for item in mounts if isinstance(item, Mapping) and item.get("type") == "volume" and item.get("source")]
    named = [(str(item["source"]), str(item.get("target"))) for item in long]
    return named + [(found[1], found[2]) for item in mounts if (found := re.match(r"([A-Za-z0-9][A-Za-z0-9_.-]*):([^:]*)", str(item)))]


def _data_of_postgres(body: Mapping[str, Any]) -> tuple[str | None, str, str | None]:
    """Return the key of the volume in which a PostgreSQL has its data, where it is mounted, and PGDATA, None where that is left to the image."""
    told = str((body.get("environment") or {}).get("PGDATA") or "")
    # What Compose fills in is not known here.
    pgdata = None if not told or "$" in told else told
    below = f"{pgdata or _DATA}/"
    mounts = [(key, f"{target.rstrip('/')}/") for key, target in _mounts_of(body)]
    holding = [(key, target) for key, target in mounts if below.startswith(target)]
    if not pgdata and not holding:
        # Where images before 18 have their volume.
        holding = [(key, target) for key, target in mounts if target.startswith(below)]
    # Of two at the same place, Compose takes the later one.
    key, target = max(reversed(holding), key=lambda mount: len(mount[1]), default=(None, ""))
    return key, target, pgdata


def _compose_references(where: str, body: Mapping[str, Any], rendered: Rendered) -> Iterator[str]:
    """Yield a message for what a container says of networks, volumes and files that is not so."""
    networks = body.get("networks") or []
    if networks and "network_mode" in body:
        yield f"{where} has network_mode, which leaves no room for networks. Take its networks out in each layer: an empty value does that."
    for key in ("secrets", "configs"):
        if body.get(key):
            yield f"{where} has {key} of Compose. They stand in the entry itself, beside base: {key} by container."
    if body.get("profiles") and body["profiles"] != JOB["profiles"]:
        yield f"{where} has profiles, so nothing would start it. Leave it out by `when` in the entry, or list it in jobs."
    for kind, names, always in (("networks", networks, {"default"}), ("volumes", [key for key, _target in _mounts_of(body)], set())):
        known = {*(rendered.base.get(kind) or {}), *(rendered.override.get(kind) or {})}
        for name in names:
            if name and name not in known | always:
                hint = did_you_mean(str(name), known)
                yield f"{where} names {name}, which is not among the {kind} of any layer. {hint} Write {kind}: {{{name}: {{}}}} beside services."


def _count_problems(where: str, container: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for a container of which there cannot be as many as it says."""
    if str((body.get("deploy") or {}).get("replicas", 1)) != "1":
        yield f"{where} has deploy.replicas, but each service has one container here. Take that out, or write an entry for each."
    if container in SERVICES.values() and _order(body) == "start-first":
        yield f"{where} has the order start-first, but two servers would write to the same data at a time. Take that out."


def _memory_problems(where: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for a process that is told to take more memory than its container has room for, so that the kernel would end it."""
    limit = bytes_of((((body.get("deploy") or {}).get("resources") or {}).get("limits") or {}).get("memory") or body.get("mem_limit"))
    command, environment = body.get("command") or [], body.get("environment") or {}
    words = " ".join(map(str, command)) if isinstance(command, (list, tuple)) else str(command)
    options = str(environment.get("NODE_OPTIONS", "")) if isinstance(environment, Mapping) else " ".join(map(str, environment))
    heap = re.search(r"--max-old-space-size[= ]([0-9]+)", options)
    kept = re.search(r"--maxmemory[= ]([0-9]+[bkmg]*)", words, re.IGNORECASE)
    # Node needs more than its heap, and Redis a copy of what changes while it saves.
    for told, size, share in (
        ("--max-old-space-size in NODE_OPTIONS", int(heap[1]) << 20 if heap else 0, 0.9),
        ("--maxmemory in its command", bytes_of(kept[1]) if kept else 0, 0.75),
    ):
        if limit and size > share * limit:
            yield (
                f"{where} has {told} of {size >> 20} MiB, but {limit >> 20} MiB of memory, so the kernel would end it. "
                f"Say at most {int(share * limit) >> 20} MiB there, or raise deploy.resources.limits.memory."
            )


def _route_problems(declared: Declaration, rendered: Rendered, services: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every route to a service that nobody has; one that an inventory takes out is left to be asked for in vain."""
    known = {*services, *(container for entry in declared.tables.services.values() for container in containers_of(entry))}
    for proxy, row in rendered.routes.items():
        for target in row["to"]:
            if target not in known:
                yield f"{SOURCE}: the routes of {proxy} name {target}, which is not there. {did_you_mean(str(target), known)}"


def _check_problems(rendered: Rendered, services: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every check that asks a service which is not there, or for what is no expression of JMESPath once it is rendered."""
    for check in rendered.checks:
        where = f"{SOURCE}: the check {check['name']}"
        if check["service"] not in services:
            yield f"{where} asks the service {check['service']}, which is not there. {did_you_mean(check['service'], services)}"
        if check.get("json") is not None:
            yield from json_problems(f"{where} of {check['service']}: json", check["kind"], check["json"])


def compose_problems(declared: Declaration, rendered: Rendered) -> Iterator[str]:
    """Yield a message for every container, image or service that the rendered services refer to and that is not there."""
    services = rendered.services()
    for name, entry in declared.catalogue.items():
        where = f"{SOURCE}.{name}"
        inside = containers_of(entry)
        for kind in ("secrets", "configs", "jobs"):
            for container in entry.get(kind) or {}:
                if container not in inside:
                    yield f"{where}.{kind}.{container}: the entry has no such container. {did_you_mean(str(container), inside)}"
        for container in sorted(inside & set(services)):
            body = services[container]
            if not body.get("image"):
                yield f"{where}: the container {container} has no image. Give it one: image: '{{{{ image.KEY }}}}' with KEY in images, or a reference."
            if rendered.secrets.get(container) and not _USER.match(str(body.get("user", ""))):
                yield f"{where}: the container {container} reads secret files, so it needs a numeric user, such as user: '10001:10001'."
            needed = body.get("depends_on") or {}
            yield from _count_problems(f"{where}: the container {container}", container, body)
            yield from _memory_problems(f"{where}: the container {container}", body)
            yield from _compose_references(f"{where}: the container {container}", body, rendered)
            yield from form_problems(f"{where}: the container {container}", body.get("ports") or [], declared.settings)
            for other in needed:
                if other in rendered.jobs and container not in rendered.jobs:
                    yield f"{where}: the container {container} depends on the job {other}. Jobs end before services are started, so take that out."
                if other not in services:
                    yield f"{where}: the container {container} depends on {other}, which is not there. {did_you_mean(str(other), services)}"
    yield from _check_problems(rendered, services)
    yield from _route_problems(declared, rendered, services)
    # The path is the one in the Compose file, where an entry's layers are merged.
    for where, name in sorted({found for part in (rendered.base, rendered.override) for found in _unset(part, declared.settings)}):
        yield (
            f"{SOURCE}: {where} refers to ${{{name}}}, which is not a setting, so it would be empty. {did_you_mean(name, declared.settings)} "
            "Write $$ for a dollar sign that is to stay one."
        )
    for fragment in (rendered.base, rendered.override):
        yield from (f"{SOURCE}: {problem}" for problem in nul_problems(fragment))
    yield from clash_problems(services, declared.settings)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield place and text of every text in data."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item, where)
    elif isinstance(value, str):
        yield where, value


def leak_problems(declared: Declaration, rendered: Rendered) -> Iterator[str]:
    """Yield a message for every secret whose value stands where everybody on the host may read it: in a Compose file, a config file or a check."""
    compose = merge(rendered.base, rendered.override)
    asked = {"checks": rendered.checks, "metrics": rendered.metrics}
    shown = {**compose, **asked, "configs": rendered.configs, "images": rendered.definitions, "settings": declared.settings}
    values = {
        value: name
        for name, value in declared.secrets.values.items()
        # A short value, as a laptop may have it, may be a word that stands there anyway.
        if declared.secrets.rules.get(name, {}).get("strong") and len(value) >= LEAST_SECRET
    }
    for kind, content in shown.items():
        for where, text in _leaves(content, kind):
            for value, name in values.items():
                # As it stands, and as people write it into an address or keep Compose from filling it in.
                if value in text or value in unquote(text) or value in text.replace("$$", "$"):
                    yield f"{where} holds the value of the secret {name}, and is not secret. Deliver the secret as a file: list it under secrets in the entry."


def _mounts_the_engine(volume: Any, settings: Mapping[str, str]) -> bool:
    """Return whether a volume of a service holds the Docker Engine's socket, or a directory above it."""
    if isinstance(volume, Mapping):
        source = filled(str(volume.get("source", "")), settings) if volume.get("type") == "bind" else ""
    else:
        source = filled(str(volume), settings).partition(":")[0]
    # Two slashes at the beginning may stay, see POSIX.
    path = posixpath.normpath(source).replace("//", "/")
    # A socket by its usual names, wherever it is; /var/run leads to /run, and a rootless Engine has its socket below /run/user.
    return posixpath.basename(path) in ("docker.sock", "containerd.sock") or bool(re.fullmatch(r"/|/var|(/var)?/run(/user(/\d+)?)?", path))


def _loosened(services: Mapping[str, Any], common: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, list[str]]:
    """Return, by service, the keys in which a service has less hardening than all services have by default.

    A mount counts where it brings the Engine's socket along, because who may speak to the Engine is root on the host.
    """
    found = {}
    for name, body in services.items():
        keys = [key for key in ("read_only", "cap_drop", "security_opt", "pids_limit", "ulimits") if body.get(key) != common[key]]
        keys += [key for key in ("cap_add", "privileged", "network_mode", "pid", "ipc", "devices", "userns_mode") if body.get(key)]
        if not _USER.match(str(body.get("user", ""))) or str(body["user"]).startswith("0:"):
            keys.append("user")
        if body.get("volumes_from") or any(_mounts_the_engine(volume, settings) for volume in body.get("volumes") or []):
            keys.append("volumes")
        if keys:
            found[name] = sorted(keys)
    return found


def _ground(*files: Mapping[str, Any]) -> str:
    """Return a digest of the volumes and networks of Compose files. Docker Compose's hash of a service holds only their names in the file."""
    parts = [[content.get(kind) for kind in ("volumes", "networks")] for content in files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def build(declared: Declaration, renderer: Renderer, images: Mapping[str, str]) -> dict[str, Any]:
    """Return the release: what the module of the same name stages on the host.

    Raises TextError on what no container can be given. The id is a digest of the rendered texts: the same inputs give the same release, so that a second run
    changes nothing.
    """
    directory, project = declared.arguments["stack_directory"], declared.arguments["stack_project"]
    # A layer above may replace an image, and then the host was not asked for it.
    images = {**{key: f"{_NOT_REQUIRED}{key}" for key in image_names(declared)}, **images}
    rendered = render(declared, renderer, images)
    if problems := rendered.problems or list(leak_problems(declared, rendered)):
        raise TextError("\n- ".join(problems))
    with_references(rendered, images)
    fetched = _from_aws(declared, rendered)
    key = declared.secrets.values[GENERATION_KEY]
    declared_services = rendered.services()
    secrets = secret_files(rendered.secrets, declared_services, key, f"{directory}/secrets", rendered.secret_options)
    configs = config_files(rendered.configs, directory)
    # A service that runs does not fetch again, so a changed value has to change its definition.
    generations = {
        consumer: {"labels": {"campaign.secrets": "-".join(generation(key, consumer, target, content) for target, content in files.items())}}
        for consumer, files in fetched.items()
    }
    base = merge(merge(rendered.base, {"services": generations}), _mounts(secrets, configs, rendered.routes, directory))
    layer = declared.layer
    files = {"docker-compose.yml": base, f"docker-compose.{layer}.yml": rendered.override}
    texts = {name: HEADER + to_compose(ordered(content)) for name, content in files.items()}
    variables = to_env_file(declared.settings)
    release = hashlib.sha256("".join([*texts.values(), variables]).encode()).hexdigest()[:12]
    path = f"{directory}/releases/{release}"
    compose_files = [f"{path}/{name}" for name in texts]
    # COMPOSE_FILE makes plain `docker compose` work in the stack's directory.
    texts[".env"] = to_env_file({"COMPOSE_PROJECT_NAME": project, "COMPOSE_FILE": ":".join(compose_files)}) + variables
    services = rendered.services()
    running = [name for name in services if name not in rendered.jobs]
    awaited = {other for body in services.values() for other in body.get("depends_on") or {}}
    ports: dict[str, list[list[Any]]] = {}
    for service, address, port, _setting in published(services, declared.settings):
        ports.setdefault(service, []).append([address, port])
    routes = {proxy: dict(row["to"]) for proxy, row in rendered.routes.items()}
    manifest = {
        "release": release,
        "project": project,
        "layer": layer,
        "compose_files": list(compose_files),
        "env_file": f"{path}/.env",
        "services": running,
        # Those that wait for no other service and that others wait for. They are started first, together with the jobs.
        "foundations": [name for name in running if not services[name].get("depends_on") and name in awaited],
        # Jobs that prepare what the foundations need, such as the owner of a volume: run one after the other, before anything is started.
        "first_jobs": sorted(job for job, row in rendered.jobs.items() if row.get("first")),
        "jobs": sorted(job for job, row in rendered.jobs.items() if not (row.get("first") or row.get("last"))),
        # Jobs that take away what only earlier releases needed: run one after the other, when the release is verified.
        "last_jobs": sorted(job for job, row in rendered.jobs.items() if row.get("last")),
        # Jobs that set the services' logins to what this release has for them.
        "restoring_jobs": sorted(job for job, row in rendered.jobs.items() if row.get("restores_logins")),
        # A digest of what jobs work on beside their own definitions, empty where it is not of this stack: an external server may be another one tomorrow.
        "ground": "" if declared.external else _ground(base, rendered.override),
        "images": {name: services[name]["image"] for name in running},
        "job_images": {name: services[name]["image"] for name in sorted(rendered.jobs)},
        # With those that they are built on: what the host has for this release.
        "references": sorted({reference for reference in images.values() if not reference.startswith(_NOT_REQUIRED)}),
        "networks": {name: _networks_of(services[name], rendered, project) for name in running},
        "ports": ports,
        # Services whose new container is started before the old one is stopped, and the proxies that hand requests on to them.
        "start_first": sorted(name for name in running if _starts_first(services[name])),
        "routes": routes,
        "settings": list(declared.settings),
        "addresses": summaries.addresses(declared, services, rendered.checks, routes),
        "sign_in": summaries.sign_in(declared),
        "checks": rendered.checks,
        "metrics": rendered.metrics,
        "loosened": _loosened(services, declared.tables.common["service"], declared.settings),
        "configs": sorted({file["path"] for file in configs}),
        "secrets": sorted(f"secrets/{file['source']}" for file in secrets),
        # Names that stay, and the generations that they stand for in this release.
        "stable": {f"secrets/stable/{file['consumer']}_{file['target']}": f"secrets/{file['source']}" for file in secrets if file["stable"]},
        # Directories in which jobs find every generation of a file that the host still has.
        "earlier": [
            {"job": file["consumer"], "target": file["target"], "uid": file["uid"], "gid": file["gid"]}
            for file in sorted(secrets, key=lambda file: str(file["source"]))
            if file["earlier"]
        ],
    }
    return {
        "release": release,
        "directory": directory,
        "project": project,
        "files": [{"name": name, "content": content} for name, content in texts.items()],
        "configs": _keep(configs, "name", "path", "content"),
        "secrets": _keep(secrets, "path", "content", "uid", "gid"),
        "manifest": manifest,
        "boot": {init: renderer.template(f"resume.{kind}.j2", {"project": project, "directory": directory}) for init, kind in _BOOT.items()},
    }


def _order(body: Mapping[str, Any]) -> str:
    return str(((body.get("deploy") or {}).get("update_config") or {}).get("order") or "")


def _starts_first(body: Mapping[str, Any]) -> bool:
    """Return whether a service's containers may be two for a while.

    What holds a port of the host, or has a fixed name or address, cannot be there twice, nor can what listens in the network of the host or of another
    container.
    """
    networks = body.get("networks") or {}
    attached = list(networks.values()) if isinstance(networks, Mapping) else []
    fixed = any((network or {}).get(key) for network in [body, *attached] for key in ("ipv4_address", "ipv6_address", "mac_address"))
    shared = str(body.get("network_mode", "")).partition(":")[0] in ("host", "service", "container")
    return _order(body) == "start-first" and not body.get("ports") and "container_name" not in body and not fixed and not shared


def _networks_of(body: Mapping[str, Any], rendered: Rendered, project: str) -> list[str]:
    """Return the names on the host of the networks that a container of a service is connected to."""
    if "network_mode" in body:
        return []
    declared = merge(rendered.base.get("networks") or {}, rendered.override.get("networks") or {})
    keys = list(body.get("networks") or ["default"])
    return sorted(str((declared.get(key) or {}).get("name") or f"{project}_{key}") for key in keys)


def _declared_for(rendered: Rendered, kind: str) -> dict[str, dict[str, Any]]:
    """Return what the release says of its volumes or networks, by their keys."""
    return {key: body or {} for key, body in merge(rendered.base.get(kind) or {}, rendered.override.get(kind) or {}).items()}


def _names_on_host(rendered: Rendered, kind: str, project: str) -> dict[str, str]:
    """Return the names that Compose gives volumes or networks on the host, by their keys; external ones, which are created elsewhere, are left out."""
    return {key: _name_on_host(key, body, project) for key, body in _declared_for(rendered, kind).items() if not body.get("external")}


def _name_on_host(key: str, body: Mapping[str, Any], project: str) -> str:
    """Return the name that a volume or a network has on the host. Compose puts the project before that of none that is external."""
    external = body.get("external")
    # In older files the name of an external one is said there.
    told = body.get("name") or (external.get("name") if isinstance(external, Mapping) else None)
    return str(told or (key if external else f"{project}_{key}"))


def _data_volume(rendered: Rendered, project: str) -> dict[str, str | None]:
    """Return the name on the host of the volume in which the release's PostgreSQL has its data, None without one, where it is mounted, and PGDATA."""
    key, target, pgdata = _data_of_postgres(rendered.services().get(SERVICES["postgres"]) or {})
    name = _name_on_host(key, _declared_for(rendered, "volumes").get(key, {}), project) if key else None
    return {"volume": name, "target": target, "pgdata": pgdata}


def summary(declared: Declaration, renderer: Renderer) -> tuple[dict[str, Any], list[str]]:
    """Return what other steps need of a release before there is one (images, ports, names of volumes and networks), and what rendering shows to be wrong."""
    placeholders = image_names(declared)
    rendered = render(declared, renderer, placeholders)
    problems = rendered.problems or [*compose_problems(declared, rendered), *leak_problems(declared, rendered)]
    needed = required_images(declared, rendered, placeholders)
    ports = {(address, port) for _service, address, port, _setting in published(rendered.services(), declared.settings)}
    project = declared.arguments["stack_project"]
    volumes = _names_on_host(rendered, "volumes", project)
    # What a service without a secret keeps, other secrets open too.
    behind_secrets = {key for service, body in rendered.services().items() if rendered.secrets.get(service) for key, _target in _mounts_of(body)}
    found = {
        "volumes": volumes,
        "locked_volumes": sorted(volumes[key] for key in behind_secrets & volumes.keys()),
        "data": _data_volume(rendered, project),
        "networks": _names_on_host(rendered, "networks", project),
        "images": sorted(needed.required),
        "image_definitions": needed.definitions,
        "image_places": needed.places,
        "ports": [{"address": address, "port": port} for address, port in sorted(ports, key=lambda item: (item[1], item[0]))],
    }
    return found, problems
