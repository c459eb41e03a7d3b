# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person reads when a deploy has succeeded: where everything is, how to sign in, what was changed, and what to type next."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import Declaration
from ansible_collections.campaign.platform.plugins.plugin_utils.ports import published

USER_SETTING, PASSWORD = "OPERATOR_USER", "operator_password"
_TARGET = re.compile(r"(\d+)(?:/tcp)?\Z")
_STANDARD = {"http": 80, "https": 443}
_ANYWHERE = "0.0.0.0"
_LOOPBACK = "127."
# Docker Compose's words for what it does to a container, the most telling first: one that is recreated is also started.
_DONE = {"Recreate": "recreated", "Creating": "created", "Removing": "removed", "Restarting": "restarted", "Starting": "started", "Stopping": "stopped"}


_PLANNED = {"create": "created", "recreate": "recreated", "start": "started", "remove": "removed"}


@dataclass(frozen=True)
class Place:
    """Where the deploy was started, and where it went to."""

    # The host's name or address, as the person who deploys reaches it.
    host: str
    # The argument of `ssh` to get there.
    ssh: str
    # The commands for this inventory.
    verify: str
    down: str
    deploy: str
    rollback: str
    # How to see the password, by where it comes from.
    password: Mapping[str, str] = field(default_factory=dict)
    # Where there is none, Docker Compose's own in the stack's directory.
    logs: str = ""


def addresses(
    declared: Declaration, services: Mapping[str, Any], checks: Iterable[Mapping[str, Any]], routes: Mapping[str, Mapping[str, int]]
) -> list[dict[str, Any]]:
    """Return service, address, port and scheme (empty for what is not HTTP) of every port of the host that services publish.

    A port at which a proxy hands on all requests to one service is that service's, whoever holds it.
    """
    schemes = {(check["service"], int(check["port"])): "https" if "certificate" in check else "http" for check in checks if check["kind"] == "http"}
    found = []
    for service, body in services.items():
        for item in body.get("ports") or []:
            target = _TARGET.search(str(item.get("target", "") if isinstance(item, Mapping) else item))
            for _service, address, port, _setting in published({service: {"ports": [item]}}, declared.settings):
                inside = int(target[1]) if target else port
                scheme = schemes.get((service, port)) or schemes.get((service, inside), "")
                behind = None if scheme else next((name for name, behind in routes.get(service, {}).items() if behind == inside), None)
                scheme = scheme or schemes.get((behind or "", inside), "")
                row: dict[str, Any] = {"service": behind or service, "address": address, "port": port, "scheme": scheme}
                found.append(row | ({"url": declared.origin()} if scheme == "https" else {}))
    return found


def sign_in(declared: Declaration) -> dict[str, str] | None:
    """Return the user of the page and where its password comes from, None for a stack that has none."""
    if USER_SETTING not in declared.settings or PASSWORD not in declared.secrets.rules:
        return None
    given = declared.arguments.get("stack_secrets") or {}
    in_file = {declared.secrets.env_local.get(name) for name in declared.arguments.get("stack_env_local") or {}}
    if PASSWORD in in_file:
        source = "env_local"
    elif PASSWORD in given:
        source = "stack_secrets"
    else:
        source = "aws" if PASSWORD in declared.secrets.given else "generated"
    return {"user": declared.settings[USER_SETTING], "password": source}


def changes(project: str, results: Iterable[Mapping[str, Any]], jobs: Iterable[str], beside: Collection[str] = ()) -> dict[str, list[str]]:
    """Return what was done, by kind, to the containers of services. Jobs are left out: they run again with each release.

    ``results`` are Docker Compose's. Of services that were started ``beside`` their predecessors it knows the half.
    """
    done: dict[str, str] = {}
    order = list(_DONE)
    # A container that is being replaced has its id before its name.
    named = re.compile(rf"(?:[0-9a-f]{{12}}_)?{re.escape(project)}-(.+)-\d+\Z")
    for result in results:
        # A service may give its container a name of its own.
        own = {str(row.get("Name")): str(row.get("Service")) for row in result.get("containers") or []}
        for action in result.get("actions") or []:
            container = str(action.get("id", ""))
            found_name = named.match(container)
            service = own.get(container) or (found_name[1] if found_name else "")
            if action.get("what") != "container" or action.get("status") not in _DONE or not service or service in jobs:
                continue
            before = done.get(service)
            done[service] = min((status for status in (before, action["status"]) if status), key=order.index)
    found: dict[str, list[str]] = {}
    for service, status in sorted(done.items()):
        found.setdefault("replaced without a gap" if service in beside else _DONE[status], []).append(service)
    return found


def _url(row: Mapping[str, Any], host: str) -> str:
    if "url" in row:
        return str(row["url"])
    address = row["address"]
    name = "localhost" if address.startswith(_LOOPBACK) else host if address == _ANYWHERE else address
    if not row["scheme"]:
        return f"{name}:{row['port']}"
    return f"{row['scheme']}://{name}" + ("" if _STANDARD[row["scheme"]] == row["port"] else f":{row['port']}")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _places(rows: list[Mapping[str, Any]], place: Place) -> Iterator[str]:
    width = max(len(row["service"]) for row in rows)
    # With TLS the other port only leads to it.
    secured = {row["service"] for row in rows if row["scheme"] == "https"}
    shown = [row for row in rows if not (row["service"] in secured and row["scheme"] == "http")]
    # What a browser opens stands first, and of that the page.
    shown.sort(key=lambda row: (not row["scheme"], row["service"] != "frontend"))
    for row in shown:
        yield f"  {row['service']:{width}}  {_url(row, place.host)}"
    hidden = [row["port"] for row in shown if row["scheme"] and row["address"].startswith(_LOOPBACK)]
    if hidden:
        yield "Loopback addresses are of that machine alone. From another one, this command opens them under the same addresses:"
        yield f"  ssh {' '.join(f'-L {port}:localhost:{port}' for port in hidden)} {place.ssh}"


def _did(done: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{_listed(services)} {'was' if len(services) == 1 else 'were'} {kind}" for kind, services in done.items())


def _how(change: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return what would be done to a service's container, and what people notice of it."""
    if change.get("beside"):
        return "replaced without a gap"
    ports = sorted(port for _address, port in (manifest.get("ports") or {}).get(change["service"], ()))
    closed = f", {_listed([f'port {port}' for port in ports])} closed meanwhile" if ports and change["action"] == "recreate" else ""
    return f"{_PLANNED[change['action']]}{closed}"


def _predicted(staged: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a deploy, or going back, would do."""
    plan, jobs = staged["plan"], staged["first_jobs"] + staged["jobs"] + staged.get("last_jobs", []) if staged["is_new"] else []
    taken = f"take release {staged['release']} into use" if staged["is_new"] else "change containers" if plan else "change no container"
    what = "Going back" if staged.get("is_rollback") else "A deploy"
    yield f"This was a check, and nothing was changed. {what} would {taken}{':' if plan or jobs else '.'}"
    width = max((len(change["service"]) for change in plan), default=0)
    for change in plan:
        yield f"  {change['service']:{width}}  {_how(change, staged['manifest'])}: {'; '.join(change['reasons'])}"
    if jobs:
        yield f"  and run {_listed(jobs)}"


def lines(staged: Mapping[str, Any], results: Iterable[Mapping[str, Any]], place: Place, *, directory: str, check_mode: bool) -> list[str]:
    """Return the lines. ``staged`` is what the module release returned, ``results`` what docker_compose_v2 did."""
    manifest = staged["manifest"]
    if check_mode:
        return [*_predicted(staged), *(["To go back:", f"  {place.rollback}"] if staged.get("is_rollback") else ["To deploy:", f"  {place.deploy}"])]
    done = changes(manifest["project"], results, manifest["jobs"], staged.get("beside", ()))
    rows = manifest.get("addresses") or []
    user = manifest.get("sign_in")
    return [
        f"Release {staged['release']} runs and is verified.",
        *(_places(rows, place) if rows else ()),
        *([f"Sign in as {user['user']}. {place.password[user['password']]}"] if user else ()),
        f"Changed by this run: {_did(done) or 'no container'}.",
        *(["The next deploy takes into use what the inventory says, as ever. Change it there, too."] if staged.get("is_rollback") else ()),
        "What to type next:",
        f"  {place.verify}",
        f"  {place.logs or f'cd {directory} && docker compose logs --follow     (as root, on the host)'}",
        f"  {place.down}     (the data stays)",
    ]
