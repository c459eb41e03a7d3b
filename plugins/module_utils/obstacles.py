# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a release that is about to be started, and how it is taken away."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, project_containers
from ansible_collections.campaign.platform.plugins.module_utils.plan import SERVICE

REMOVAL_ATTEMPTS = 60
REMOVAL_DELAY = 0.5
# Docker Compose's name for a container that is about to take the place of another one.
TEMPORARY = re.compile(r"[0-9a-f]{12}_(.+)\Z")


@dataclass(frozen=True)
class Obstacles:
    """Containers in a release's way, as id and service; ``paused`` are ids."""

    # What jobs left behind.
    jobs: list[tuple[str, str]]
    # What is bound to a network that is gone.
    stale: list[tuple[str, str]]
    # What holds a port that the release gives to another service.
    holders: list[tuple[str, str]]
    # Docker Compose cannot start them, and a check of their health cannot succeed.
    paused: list[str]

    def __bool__(self) -> bool:
        return bool(self.jobs or self.stale or self.holders or self.paused)

    def remove(self, engine: Engine) -> None:
        """Take them away; raise EngineError."""
        for identifier in self.paused:
            engine.request("POST", f"/containers/{identifier}/unpause")
        for identifier, service in self.holders:
            stop_container(engine, identifier, service)
        for identifier, service in self.jobs:
            remove_container(engine, identifier, service, volumes=True)
        for identifier, service in dict.fromkeys(self.stale + self.holders):
            remove_container(engine, identifier, service)


def find(engine: Engine, manifest: Mapping[str, Any], jobs: Iterable[str]) -> Obstacles:
    """Return what is in the way of a release; ``jobs`` are those whose containers go, whether they run or not."""
    containers = project_containers(engine, manifest["project"])
    stale = [container["Id"] for container in stale_containers(engine, containers)]
    named = [(container, container["Labels"].get(SERVICE)) for container in containers]
    takers = {port: service for service, ports in manifest["ports"].items() for _address, port in ports}
    jobs = frozenset(jobs)
    return Obstacles(
        jobs=[(container["Id"], service) for container, service in named if service in jobs],
        stale=[(container["Id"], service) for container, service in named if service not in jobs and container["Id"] in stale],
        holders=[
            (container["Id"], service)
            for container, service in named
            if any(port.get("Type", "tcp") == "tcp" and takers.get(port.get("PublicPort"), service) != service for port in container.get("Ports") or [])
        ],
        paused=[container["Id"] for container in containers if container.get("State") == "paused"],
    )


def own_names(containers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of their own of containers that were cut off under the one that they have for a moment, by id; none that another one has."""
    names = {str(container["Id"]): str(container["Names"][0]).lstrip("/") for container in containers}
    found = {identifier: match[1] for identifier, name in names.items() if (match := TEMPORARY.match(name))}
    return {identifier: name for identifier, name in found.items() if name not in names.values()}


def give_names(engine: Engine, project: str) -> bool:
    """Give containers of a project their own names that were cut off under another one; return whether there were any. Raises EngineError."""
    wanted = own_names(project_containers(engine, project))
    for identifier, name in wanted.items():
        status, body = engine.request("POST", f"/containers/{identifier}/rename", {"name": name})
        # 404: it is gone, 409: the name is taken meanwhile.
        if status not in (204, 404, 409):
            raise EngineError(f"giving the container {name} its name", body.decode(errors="replace"), status)
    return bool(wanted)


def stale_containers(engine: Engine, containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the containers that cannot start again, because a network that they are bound to is gone."""
    there = {network["Id"] for network in engine.get("/networks")}
    bound = [(container, container.get("NetworkSettings") or {}) for container in containers]
    return [
        container
        for container, settings in bound
        if any(network["NetworkID"] and network["NetworkID"] not in there for network in (settings.get("Networks") or {}).values())
    ]


def stop_container(engine: Engine, identifier: str, name: str) -> None:
    """Stop a container and give it the time that its service asks for."""
    status, body = engine.request("POST", f"/containers/{identifier}/stop")
    # 304: it does not run, 404: it is gone.
    if status not in (204, 304, 404):
        raise EngineError(f"stopping the container of {name}", body.decode(errors="replace"), status)


def remove_container(engine: Engine, identifier: str, name: str, *, volumes: bool = False) -> None:
    """Remove a container, whether it runs or not; its anonymous ``volumes`` stay unless they are known to hold nothing, as those of a job."""
    for _attempt in range(REMOVAL_ATTEMPTS):
        status, body = engine.request("DELETE", f"/containers/{identifier}", {"force": "1", "v": str(int(volumes))})
        # 404: it is gone already.
        if status in (204, 404):
            return
        # 409: it is being removed, by a deploy that was killed in the middle of it, for example.
        if status != 409:
            break
        time.sleep(REMOVAL_DELAY)
    raise EngineError(f"removing the container of {name}", body.decode(errors="replace"), status)
