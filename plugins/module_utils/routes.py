# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replacing a container by a newer one without a gap: which of a service's containers the release means, and which one a proxy hands requests on to.

A proxy, which is an nginx, reads a file with `server` directives for each service that it hands requests on to, and reads it again at SIGHUP. Requests in
flight stay where they are (https://nginx.org/en/docs/control.html). While two containers of a service run, the service's own name means both of them, so the
file names one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, EngineTimeout
from ansible_collections.campaign.platform.plugins.module_utils.plan import CONFIG_HASH, IMAGE, SERVICE

DIRECTORY = "routes"
# From within, because the Engine takes any signal that it is asked to send for a stop on purpose, and does not start the container after a reboot:
# https://github.com/moby/moby/issues/41302
RELOAD = ["sh", "-c", "kill -HUP 1"]
RELOAD_SECONDS = 10.0
# A worker of nginx that still has a request from before it was reloaded: an upload, which it hands on when it has all of it, and to whom it knew before. The
# brackets keep the pattern from finding itself.
LINGERING = ["sh", "-c", "grep -lsa '[s]hutting down' /proc/[0-9]*/cmdline"]
# How long such a request is waited for, by the release's layer. With hot reload a browser's connection never ends.
LONGEST = {"dev": 5.0}
LONGEST_ELSE = 30.0
INTERVAL = 0.5
# A little longer than a reloaded nginx keeps a connection that was used a moment ago (keepalive_min_timeout in its configuration).
DRAIN_SECONDS = 3
NUMBER = "com.docker.compose.container-number"


def path(root: str, proxy: str, service: str) -> str:
    """Return the path of the file that says where a proxy finds a service."""
    return os.path.join(root, DIRECTORY, proxy, f"{service}.conf")


def text(service: str, port: int, container: str | None = None) -> str:
    """Return the content of such a file: the service's name, or one of its containers first, and the name where that is gone.

    A request that was not sent yet goes to the second where the first refuses the connection, so that a container's end is never the end of the service.
    """
    named = f"server {service}:{port} resolve max_fails=0"
    return f"server {container}:{port} resolve max_fails=0;\n{named} backup;\n" if container else f"{named};\n"


def defaults(root: str, routes: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Return what stands in the files as long as nothing was replaced, by path."""
    return {path(root, proxy, service): text(service, port) for proxy, targets in routes.items() for service, port in targets.items()}


def container_in(content: bytes | None) -> str | None:
    """Return the container that a file names first, None where it names the service alone."""
    lines = (content or b"").decode(errors="replace").splitlines()
    return lines[0].split()[1].rpartition(":")[0] if len(lines) > 1 and lines[0].startswith("server ") else None


def name_of(container: Mapping[str, Any]) -> str:
    """Return the name under which other containers find one."""
    return str(container["Names"][0]).lstrip("/")


def by_age(containers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the Engine's list of containers, the newest last."""
    return sorted(containers, key=lambda container: (container.get("Created", 0), int(container["Labels"].get(NUMBER) or 0)))


def by_service(containers: Iterable[dict[str, Any]], services: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the containers of each of the services, the newest last."""
    found: dict[str, list[dict[str, Any]]] = {service: [] for service in services}
    for container in by_age(containers):
        if container["Labels"].get(SERVICE) in found:
            found[container["Labels"][SERVICE]].append(container)
    return found


def meant(containers: list[dict[str, Any]], digest: str | None, image: str | None) -> dict[str, Any]:
    """Return which of a service's containers a release means: the newest of its definition and image, or the newest of all."""
    right = [one for one in containers if one["Labels"].get(CONFIG_HASH) == digest and image in (None, one["Labels"].get(IMAGE) or one.get("ImageID"))]
    return (right or containers)[-1]


def reload(engine: Engine, proxies: Iterable[Mapping[str, Any]]) -> None:
    """Have proxies that run read their files again; raise EngineError."""
    for proxy in proxies:
        if proxy.get("State") == "running":
            try:
                ended = engine.execute(proxy["Id"], RELOAD, {}, RELOAD_SECONDS)
            except EngineTimeout:
                raise EngineError(f"reloading {name_of(proxy)}", f"no answer within {RELOAD_SECONDS:.0f} s") from None
            if ended.status:
                raise EngineError(f"reloading {name_of(proxy)}", ended.output.strip())


def await_requests(engine: Engine, proxies: Iterable[Mapping[str, Any]], layer: str | None) -> None:
    """Wait until no proxy has a request any more that it took before it read its files again, or for as long as is reasonable."""
    deadline = time.monotonic() + LONGEST.get(layer or "", LONGEST_ELSE)
    running = [proxy for proxy in proxies if proxy.get("State") == "running"]
    while time.monotonic() < deadline and any(_lingers(engine, proxy) for proxy in running):
        time.sleep(INTERVAL)


def _lingers(engine: Engine, proxy: Mapping[str, Any]) -> bool:
    try:
        return engine.execute(str(proxy["Id"]), LINGERING, {}, RELOAD_SECONDS).status == 0
    except (EngineError, EngineTimeout):
        # Nobody can say, and what serves goes on.
        return False
