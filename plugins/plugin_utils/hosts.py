# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host lacks, from the facts that the module host_facts gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
# In the order in which packages are installed.
PARTS = ("engine", "compose", "buildx")
# What the modules of community.docker need on the host beside Docker.
ALWAYS = "python3-requests"


def release_of(facts: Facts) -> str:
    """Return the name and version of the distribution, such as `debian 13`."""
    return f"{facts['distribution']['id']} {facts['distribution']['version_id']}"


def lacking(facts: Facts) -> list[str]:
    """Return which of Engine, Compose and buildx do not answer."""
    return [part for part in PARTS if facts[part] is None]


def engine_is_new(facts: Facts) -> bool:
    """Return whether an Engine has to be installed. One that is there and does not answer is started, and nothing is installed over it."""
    return facts["engine"] is None and not facts["engine_installed"]


def packages(facts: Facts, by_part: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the packages that bring what the host lacks. A client of another make may be found first, so the Engine is what counts."""
    parts = [part for part in lacking(facts) if part != "engine" or engine_is_new(facts)]
    return [ALWAYS, *(package for part in parts for package in by_part.get(part, ()))]


def taken(facts: Facts, project: str) -> list[int]:
    """Return the ports that something else than a Compose project's own containers holds."""
    return [row["port"] for row in facts["ports"] if row["busy"] and row["project"] != project]
