# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release's manifest.json: what was deployed, for all who act on it later."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from typing import Any

NAME = "manifest.json"
_EMPTY: dict[str, Any] = {
    "project": None,
    "compose_files": [],
    "env_file": None,
    "services": [],
    "first_jobs": [],
    "jobs": [],
    "last_jobs": [],
    "foundations": [],
    "restoring_jobs": [],
    "ground": "",
    "images": {},
    "job_images": {},
    "references": [],
    "networks": {},
    "ports": {},
    "start_first": [],
    "routes": {},
    "settings": [],
    "checks": [],
    "metrics": [],
    "loosened": {},
    "configs": [],
    "secrets": [],
    "stable": {},
    "earlier": [],
}


class ManifestError(Exception):
    """There is no manifest, or it cannot be read; the text says which and what to do."""


def empty() -> dict[str, Any]:
    """Return a manifest of nothing, with all its keys."""
    return copy.deepcopy(_EMPTY)


def is_as_written(path: str) -> bool:
    """Return whether a config file has the content that the directory is named after in which it lies; raise OSError."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest().startswith(os.path.basename(os.path.dirname(path)))


def _written_by_0_2_0(directory: str) -> dict[str, Any]:
    """Return what a release of 0.2.0 keeps beside its manifest instead of in it."""
    names = ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.prod.yml")
    found: dict[str, Any] = {"compose_files": [name for name in names if os.path.isfile(os.path.join(directory, name))]}
    try:
        with open(os.path.join(directory, ".env"), encoding="utf-8") as file:
            project = re.search(r'^COMPOSE_PROJECT_NAME="?([a-z0-9_-]+)"?$', file.read(), re.MULTILINE)
    except OSError:
        return found
    return {**found, "env_file": ".env", "project": project[1] if project else None}


def read(path: str) -> dict[str, Any]:
    """Return the manifest at ``path`` with all its keys, of which those that it does not have are empty; raise ManifestError.

    ``release`` is the id of the release. ``compose_files`` and ``env_file`` are absolute: a link such as ``current`` may point elsewhere later, so
    it is followed here.
    """
    directory = os.path.dirname(os.path.realpath(path))
    try:
        with open(path, encoding="utf-8") as file:
            written = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"There is no release at {path}. Deploy first.") from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}. Check its owner and its mode.") from None
    except ValueError as error:
        raise ManifestError(f"{path} is not a manifest: {error}. Deploy again.") from None
    if not isinstance(written, dict):
        raise ManifestError(f"{path} is not a manifest: it holds no mapping. Deploy again.")
    older = {} if "compose_files" in written else _written_by_0_2_0(directory)
    manifest = {**empty(), "release": os.path.basename(directory), **older, **written}
    manifest["compose_files"] = [os.path.join(directory, name) for name in manifest["compose_files"]]
    if manifest["env_file"]:
        manifest["env_file"] = os.path.join(directory, manifest["env_file"])
    return manifest
