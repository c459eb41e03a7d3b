# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Docker Compose is asked what the files of a release mean. That starts nothing, and needs no Engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from ansible_collections.campaign.platform.plugins.module_utils.engine import client_directory

HASHES = "hashes.json"


def config_command(socket: str, directory: str, project: str, files: Iterable[str], environment: str, *arguments: str) -> list[str]:
    """Return the command that prints the configuration of the stack in a directory.

    It takes nothing from the caller's environment, and of the caller's configuration the places of plugins matter only. The stack's own client is for whoever
    changes something: a call of it is a sign of life of the lock's holder.
    """
    settings = {"PATH": os.environ.get("PATH", os.defpath), "DOCKER_CONFIG": client_directory(), "DOCKER_HOST": f"unix://{socket}"}
    command = ["env", "-i", *(f"{name}={value}" for name, value in settings.items()), "docker", "compose"]
    command += ["--project-directory", directory, "--project-name", project, "--env-file", environment]
    return [*command, *(word for path in files for word in ("--file", path)), "--profile", "*", "config", *arguments]


def noted_hashes(text: str | bytes | None) -> tuple[str | None, dict[str, str]]:
    """Return what a release's file of hashes holds: the version of Docker Compose that was asked, and the hashes; neither where it cannot be read."""
    try:
        noted = json.loads(text or "")
        return noted["compose"], dict(noted["hashes"])
    except (ValueError, KeyError, TypeError):
        return None, {}


def hashes_of(output: str) -> dict[str, str]:
    """Return the hashes of services from what `docker compose config --hash` prints."""
    return dict(line.split(None, 1) for line in output.splitlines() if line.strip())
