# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a release ran with, and names that are lent to these while it is started, because they have come to mean other images since.

Docker Compose finds an image by the name that the release's files have for it, and a name belongs to whoever gave it: `docker build -t mine:latest`, or a pull
of another project's. So a name means the old image for as long as the release is being started, and then what it meant before. What is lent is written down
first, so that whoever comes after a run that was killed gives it back.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.campaign.platform.plugins.module_utils.links import sync_directory
from ansible_collections.campaign.platform.plugins.module_utils.plan import image_id, image_ids
from ansible_collections.campaign.platform.plugins.module_utils.registry import image_path, split_reference

# In a release's directory: what it ran with when it was taken into use, who did that, and when.
DEPLOYED = "deployed.json"
# In a stack's directory: the names that are lent.
LENT = "lent.json"


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ran_with(release: str) -> dict[str, str]:
    """Return the ids of the images that the services and jobs of the release in a directory ran with, by reference; of an older one nobody knows."""
    found = _read(os.path.join(release, DEPLOYED)).get("images")
    return {str(reference): str(identifier) for reference, identifier in found.items()} if isinstance(found, dict) else {}


def others(engine: Engine, release: str) -> dict[str, tuple[str, str]]:
    """Return what a release ran with and what the reference means by now, for those of which that is another image, by reference; raise EngineError."""
    known = ran_with(release)
    now = image_ids(engine, known)
    return {reference: (identifier, str(now[reference])) for reference, identifier in known.items() if now[reference] not in (None, identifier)}


def present(engine: Engine, wanted: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the images of before, of what `others` found, that are still on the host; raise EngineError."""
    return {reference: before for reference, (before, _now) in wanted.items() if image_id(engine, before) is not None}


def _write(root: str, lent: Mapping[str, Any]) -> None:
    path = os.path.join(root, LENT)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(json.dumps(lent, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    sync_directory(root)


def _tag(engine: Engine, identifier: str, reference: str) -> None:
    repository, tag = split_reference(reference)
    status, body = engine.request("POST", f"{image_path(identifier).removesuffix('/json')}/tag", {"repo": repository, "tag": tag})
    if status != 201:
        raise EngineError(f"giving an image the name {reference}", body.decode(errors="replace"), status)


def lend(engine: Engine, root: str, wanted: Mapping[str, str]) -> bool:
    """Have references mean images, by their ids, until they are given back; return whether any did not. Raises EngineError and OSError."""
    lent = _read(os.path.join(root, LENT))
    moving = {}
    for reference, identifier in wanted.items():
        now = image_id(engine, reference)
        if now not in (None, identifier):
            moving[reference] = identifier
            lent[reference] = {"was": (lent.get(reference) or {}).get("was", now), "lent": identifier}
    if moving:
        _write(root, lent)
    for reference, identifier in moving.items():
        _tag(engine, identifier, reference)
    return bool(moving)


def give_back(engine: Engine, root: str) -> bool:
    """Have references mean again what they meant before they were lent; return whether any was. Raises EngineError and OSError.

    One that somebody has given to another image meanwhile stays theirs.
    """
    path = os.path.join(root, LENT)
    if not os.path.lexists(path):
        return False
    for reference, row in _read(path).items():
        if image_id(engine, reference) == row["lent"] and image_id(engine, row["was"]) is not None:
            _tag(engine, row["was"], reference)
    os.unlink(path)
    return True


@contextlib.contextmanager
def lending(engine: Engine, root: str, release: str) -> Iterator[None]:
    """Have the references of the release in a directory mean the images that it ran with, those that are on the host; raise EngineError and OSError."""
    try:
        lend(engine, root, present(engine, others(engine, release)))
        yield
    finally:
        give_back(engine, root)
