# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host lacks, from the facts that the module host_facts gathers."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
# In the order in which packages are installed.
PARTS = ("engine", "compose", "buildx")
# What the modules of community.docker need on the host besides Docker.
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
    """Return the packages that bring what the host lacks. A client of another vendor may be found first, so only the Engine counts."""
    parts = [part for part in lacking(facts) if part != "engine" or engine_is_new(facts)]
    return [ALWAYS, *(package for part in parts for package in by_part.get(part, ()))]


def away(facts: Facts) -> list[str]:
    """Return those addresses to publish ports on that the machine does not have."""
    return list(dict.fromkeys(row["address"] for row in facts["ports"] if not row["local"]))


def not_of_the_project(found: Mapping[str, Mapping[str, Any]], names: Collection[str], project: str) -> dict[str, str]:
    """Return the volumes or networks with the stack's names that are not the project's own, each with the words for whose they are.

    One that the inventory gives a name without the project's is meant, whoever made it.
    """
    return {
        name: f"the Compose project {found[name]['project']}" if found[name]["project"] else "no Compose project"
        for name in names
        if name in found and found[name]["project"] != project and name.startswith(f"{project}_")
    }


def place_of_data(target: str, pgdata: str | None) -> str | None:
    """Return where in a volume, which is mounted at a target, a PostgreSQL with this PGDATA has its data; None where that is not known."""
    holds = pgdata and target and f"{pgdata}/".startswith(f"{target.rstrip('/')}/")
    return posixpath.relpath(str(pgdata), target) if holds else None


def data_of_another_major(files: Mapping[str, str] | None, major: str, place: str | None) -> list[str]:
    """Return what a data volume of PostgreSQL holds where the image of a major would not find data of its own: `17 (17/docker)`, for example.

    Empty where the volume is, or where the server's own data is in its place, whatever lies beside it. From 18 on the image keeps its data in a directory of
    the major version; older ones at the top of the volume, or where it was mounted, in `data`. Where no ``place`` is known, data of its major counts wherever
    it is: the image knows, and is not on the host yet.
    """
    # Each database of a cluster has a file of that name too, and so has one in the making, which a killed first start left and the next one begins anew.
    unfinished = f"{place or f'{major}/docker'}.making/PG_VERSION"
    files = {path: found for path, found in (files or {}).items() if not re.search(r"(^|/)base/\d+/PG_VERSION\Z", path) and path != unfinished}
    if major in files.values() if place is None else files.get(posixpath.normpath(f"{place}/PG_VERSION")) == major:
        return []
    return [f"{found} ({path.rpartition('/')[0] or 'at its top'})" for path, found in sorted(files.items())]


def taken(facts: Facts, project: str) -> list[int]:
    """Return the ports that something other than a Compose project's own containers holds, as far as the Engine says whose these are."""
    return [row["port"] for row in facts["ports"] if row["busy"] and row["project"] != project and not row["docker"]]
