# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `docker compose up` would do to the containers of a release, and why.

Compose writes a hash of a service's definition and the id of its image on each container, and recreates the container when either differs. So both are compared
here with what the release asks for. What nobody sees in a definition comes beside it: a container that does not run, one that is bound to a network that is
gone, and a file that a container mounts and that somebody else changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, project_containers
from ansible_collections.campaign.platform.plugins.module_utils.registry import image_path

SERVICE = "com.docker.compose.service"
CONFIG_HASH = "com.docker.compose.config-hash"
IMAGE = "com.docker.compose.image"
CONFIG_FILES = "com.docker.compose.project.config_files"
DEPENDS_ON = "com.docker.compose.depends_on"
CREATE, RECREATE, START, REMOVE = "create", "recreate", "start", "remove"
_SHORT = 12
_LEAVES_DEPENDENTS = (2, 29, 4)

# The definitions of the services of a release, by the directory of its files; None where they cannot be read.
Definitions = Callable[[str], Mapping[str, Any] | None]


@dataclass
class Change:
    """What would be done to the containers of one service; ``reasons`` name what differs and hold no value of a setting or a secret."""

    service: str
    action: str
    reasons: list[str] = field(default_factory=list)
    # Docker Compose would not do it by itself, because no definition differs.
    forced: bool = False
    # The new container is started beside the old one, which serves until the new one has proved itself.
    beside: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what a module returns."""
        return {"service": self.service, "action": self.action, "reasons": self.reasons, "forced": self.forced, "beside": self.beside}


@dataclass(frozen=True)
class Wanted:
    """A release as Compose sees it: its services with their images and the hashes of their definitions, and the directory of its files."""

    project: str
    directory: str
    images: Mapping[str, str]
    hashes: Mapping[str, str]
    # Names of the networks that each service's container is connected to.
    networks: Mapping[str, list[str]] = field(default_factory=dict)
    # Files that were not on the host as the release has them. A container that mounts one holds what it was.
    damaged: frozenset[str] = frozenset()
    # Files of the release that never change under their names. A container that started before one was put right holds what it was then.
    files: frozenset[str] = frozenset()
    # Services of which two containers may run for a while.
    start_first: frozenset[str] = frozenset()
    # Services that are started by themselves before the others, so that Compose recreates nothing because of them.
    foundations: frozenset[str] = frozenset()
    # Whether Compose recreates what depends on a service that it has recreated in the same run.
    recreates_dependents: bool = False
    # Directory and hashes of the release in use. A container may be older than that, from a release that was pruned, and have the definition still.
    current: str = ""
    current_hashes: Mapping[str, str] = field(default_factory=dict)
    # Ids of the images that references are going to mean when this release is started.
    tags: Mapping[str, str] = field(default_factory=dict)


def _image(engine: Engine, reference: str) -> Mapping[str, Any] | None:
    """Return what the Engine knows of the image that a reference means, None where it has none; raise EngineError."""
    try:
        found: Mapping[str, Any] = engine.get(image_path(reference))
    except EngineError as error:
        if error.status != 404:
            raise
        return None
    return found


def image_id(engine: Engine, reference: str) -> str | None:
    """Return the id of the image that a reference means, None where the Engine has none; raise EngineError."""
    found = _image(engine, reference)
    return str(found["Id"]) if found else None


def has_no_name(engine: Engine, identifier: str) -> bool:
    """Return whether an image is there and no tag means it; raise EngineError."""
    found = _image(engine, identifier)
    return found is not None and not found.get("RepoTags")


def image_volumes(engine: Engine, reference: str) -> list[str]:
    """Return where in a container an image says that it keeps data; nothing of an image that the Engine does not have. Raises EngineError."""
    found = _image(engine, reference) or {}
    return sorted((found.get("Config") or {}).get("Volumes") or {})


def is_mounted(place: str, definition: Mapping[str, Any] | None, *, above: bool = False) -> bool:
    """Return whether a service's definition mounts something at a place in its container; one that nobody can read counts as one that does.

    What is mounted ``above`` it is not at it: Docker puts a volume of its own there all the same.
    """
    if definition is None:
        return True
    targets = [str(item.get("target", "")) if isinstance(item, Mapping) else str(item) for item in definition.get("volumes") or ()]
    temporary = definition.get("tmpfs") or ()
    targets += [str(item).partition(":")[0] for item in ([temporary] if isinstance(temporary, str) else temporary)]
    wanted = os.path.normpath(place)
    return any(wanted == target or (above and wanted.startswith(f"{target}/")) for target in map(os.path.normpath, filter(None, targets)))


def image_ids(engine: Engine, references: Iterable[str]) -> dict[str, str | None]:
    """Return the ids of images by reference, None for one that the Engine does not have; raise EngineError."""
    return {reference: image_id(engine, reference) for reference in sorted(set(references))}


def _named(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*new, *old} if (name in new, new.get(name)) != (name in old, old.get(name)))


def _by(items: Iterable[Any], key: str) -> dict[str, Any]:
    """Return mappings of a list by one of their keys; what is no mapping stands for itself."""
    return {str(item.get(key, item)) if isinstance(item, Mapping) else str(item): item for item in items or ()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _by(value or (), "name")


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Return what differs between two definitions of a service, in words that hold no value but references of images."""
    reasons = []
    for key in _named(new, old):
        after, before = new.get(key), old.get(key)
        if key == "image":
            reasons.append(f"image {before} -> {after}")
        elif key in ("environment", "labels", "networks", "depends_on"):
            reasons += [f"{key}: {name}" for name in _named(_mapping(after), _mapping(before))]
        elif key in ("secrets", "configs"):
            what = key.removesuffix("s")
            reasons += [f"{what} {name}" for name in _named(_by(after or (), "target"), _by(before or (), "target"))]
        elif key == "volumes":
            reasons += [f"mount {name}" for name in _named(_by(after or (), "target"), _by(before or (), "target"))]
        else:
            reasons.append(key)
    return reasons


def _release_directory(container: Mapping[str, Any]) -> str:
    """Return the directory of the files that a container was started from."""
    first = container["Labels"].get(CONFIG_FILES, "").partition(",")[0]
    return first.rpartition("/")[0]


def _why_recreated(container: Mapping[str, Any], service: str, wanted: Wanted, definitions: Definitions) -> list[str]:
    new, old = definitions(wanted.directory), definitions(_release_directory(container))
    if old is None and container["Labels"].get(CONFIG_HASH) == wanted.current_hashes.get(service):
        old = definitions(wanted.current)
    known = (new or {}).get(service), (old or {}).get(service)
    if known[0] is None or known[1] is None:
        return ["its definition, which was not read from a release that is kept"]
    return differences(known[0], known[1]) or ["its definition, as Docker Compose reads it"]


def holds_other(pid: int, target: str, content: bytes) -> bool:
    """Return whether a process sees other bytes under a file's name: one that was replaced stays mounted as it was until its container starts again."""
    try:
        with open(f"{host.PROC}/{pid}/root{target}", "rb") as file:
            return file.read() != content
    except OSError:
        return False


def _held(engine: Engine, container: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """Return the files that a container mounts and that were changed or removed by hand, whether they are put right already or not; raise EngineError."""
    mounts = {mount["Source"]: mount.get("Destination", "") for mount in container.get("Mounts") or [] if mount.get("Source")}
    found = {path for path in mounts if path in wanted.damaged}
    younger = [path for path in mounts if path in wanted.files - found and _is_younger(path, container.get("Created", 0))]
    if younger and container["State"] == "running":
        pid = engine.get(f"/containers/{container['Id']}/json")["State"].get("Pid") or 0
        for path in younger:
            with open(path, "rb") as file:
                if holds_other(pid, mounts[path], file.read()):
                    found.add(path)
    return sorted(found)


def _is_younger(path: str, created: float) -> bool:
    """Return whether a file was written after a container was created, which the Engine tells in whole seconds."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    # A copy that was put in its place may have kept its time.
    return max(found.st_mtime, found.st_ctime) >= created


def _of_service(
    engine: Engine, service: str, containers: list[dict[str, Any]], wanted: Wanted, ids: Mapping[str, str | None], networks: set[str], definitions: Definitions
) -> Change | None:
    reference = wanted.images.get(service, "")
    if not containers:
        return Change(service, CREATE, ["it has no container"])
    if len(containers) > 1:
        return Change(service, RECREATE, [f"it has {len(containers)} containers"])
    container = containers[0]
    reasons = []
    if container["Labels"].get(CONFIG_HASH) != wanted.hashes.get(service):
        reasons += _why_recreated(container, service, wanted, definitions)
    runs, asked = container["Labels"].get(IMAGE) or container.get("ImageID"), ids.get(reference)
    if asked is not None and runs != asked and not any(reason.startswith("image ") for reason in reasons):
        reasons.append(f"image {reference} has other content: {_shortened(runs)} -> {_shortened(asked)}")
    bound = (container.get("NetworkSettings") or {}).get("Networks") or {}
    reasons += [f"network {name} is gone" for name, network in sorted(bound.items()) if network["NetworkID"] and network["NetworkID"] not in networks]
    apart = [name for name in wanted.networks.get(service, ()) if name not in bound]
    reasons += [f"it is not connected to the network {name}" for name in apart]
    held = _held(engine, container, wanted)
    reasons += [f"{path} was changed or removed by hand" for path in held]
    if reasons:
        return Change(service, RECREATE, reasons, forced=bool(held or apart))
    if container["State"] != "running":
        return Change(service, START, [f"its container is {container['State']}"])
    return None


def _shortened(identifier: Any) -> str:
    return str(identifier).removeprefix("sha256:")[:_SHORT]


def _needs(containers: list[dict[str, Any]]) -> set[str]:
    """Return the services that a service's container depends on, as Compose wrote it on the container."""
    return {item.split(":")[0] for item in containers[0]["Labels"].get(DEPENDS_ON, "").split(",") if item} if containers else set()


def recreates_dependents(version: str | None) -> bool:
    """Return whether that version of Docker Compose, as it prints it, recreates what depends on a service that it has recreated.

    Those up to 2.29.3 do, those up to 2.34 stop and start it, and later ones do so where the dependency says `restart: true`.
    https://github.com/docker/compose/commit/1076f1d9a
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version or "")[:3])
    return bool(numbers) and numbers < _LEAVES_DEPENDENTS


def _place(changes: dict[str, Change], containers: Mapping[str, list[dict[str, Any]]], wanted: Wanted) -> None:
    """Say what can be started beside what runs, and add what Compose recreates because it depends on what is recreated in its place."""

    def can_be_beside(service: str) -> bool:
        # There are two where an earlier replacement was interrupted.
        found = containers.get(service) or []
        return service in wanted.start_first and any(one["State"] == "running" for one in found)

    def has_followers(service: str) -> bool:
        change = changes.get(service)
        return change is not None and change.action == RECREATE and not change.beside and service not in wanted.foundations

    for change in changes.values():
        # By its definition the old one is as good as a new one, and of two such Docker Compose keeps the older, which lacks a network or holds a changed file.
        change.beside = change.action == RECREATE and not change.forced and can_be_beside(change.service)
    waiting = True
    while waiting:
        waiting = False
        for service, found in containers.items():
            because = sorted(filter(has_followers, _needs(found)))
            if not because:
                continue
            if service not in changes and wanted.recreates_dependents:
                changes[service] = Change(service, RECREATE, [f"it depends on {other}" for other in because])
                waiting = True
            elif service in changes and changes[service].beside:
                # It would prove itself with what is about to go.
                changes[service].beside = False
                waiting = True


def compute(engine: Engine, wanted: Wanted, definitions: Definitions) -> list[Change]:
    """Return what would be done to each service that would not stay as it is, by name; raise EngineError.

    ``definitions`` is called only where a definition differs, because asking Docker Compose takes a while.
    """
    found: dict[str, list[dict[str, Any]]] = {service: [] for service in wanted.images}
    strangers: dict[str, list[dict[str, Any]]] = {}
    for container in project_containers(engine, wanted.project):
        service = container["Labels"].get(SERVICE, "")
        if service in found:
            found[service].append(container)
        elif service not in wanted.hashes:
            # Not a job of the release either.
            strangers.setdefault(service, []).append(container)
    ids = {**image_ids(engine, wanted.images.values()), **wanted.tags}
    networks = {network["Id"] for network in engine.get("/networks")}
    each = {service: _of_service(engine, service, containers, wanted, ids, networks, definitions) for service, containers in found.items()}
    changes = {service: change for service, change in each.items() if change}
    _place(changes, found, wanted)
    removed = [Change(service, REMOVE, ["the release has no such service"]) for service in sorted(strangers)]
    return [changes[service] for service in sorted(changes)] + removed
