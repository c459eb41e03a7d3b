# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the manifest of a release, which says what was deployed."""

from __future__ import annotations

import glob
import json
import os


class ManifestError(Exception):
    """There is no manifest, or it cannot be read; the message says which and what to do."""


def _files_beside(directory: str) -> list[str]:
    """Return the Compose files of a release: the base, and the one layer on top of it."""
    layers = sorted(glob.glob(os.path.join(directory, "docker-compose.*.yml")))
    return [os.path.join(directory, "docker-compose.yml"), *layers]


def read(path: str) -> dict:
    """Return a release's manifest with absolute paths; raise ManifestError.

    A manifest of 0.2.0 names no Compose files, jobs and checks: the files that lie beside it are meant, and there is nothing to say of the others.
    """
    directory = os.path.dirname(os.path.realpath(path))
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"There is no release at {path}. Deploy first.") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read ({type(error).__name__}). Deploy again; what is stored stays.") from None
    lists = dict.fromkeys(("services", "foundations", "jobs", "restoring_jobs", "checks", "settings", "configs", "secrets"), [])
    beside = {"compose_files": _files_beside(directory), "env_file": os.path.join(directory, ".env")}
    return {**lists, "release": os.path.basename(directory), "project": None, "images": {}, **beside, **manifest}
