# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data that an upgrade of PostgreSQL replaced, the release that reads it, and which releases cannot read what is in use."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.module_utils.backup import state

# One file for each restore or upgrade whose old data is still there.
RECORDS = "backup/replaced"
# In a release's directory: why it cannot be gone back to. Its first line is the major version that the release has.
UNUSABLE = "unusable.txt"


def records(directory: str) -> list[dict[str, Any]]:
    """Return the clusters that upgrades replaced and that are still there, the newest first, each with the volume that it is in."""
    found = []
    for path in glob.glob(os.path.join(glob.escape(directory), RECORDS, "*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError), open(path, encoding="utf-8") as file:
            row = json.load(file)
            found.append({**row["upgrade"], "volume": row["volumes"][0]["new"], "id": os.path.basename(path).removesuffix(".json")})
    return sorted(found, key=lambda row: str(row["at"]), reverse=True)


def mark(directory: str, major: str, usable: str) -> None:
    """Say of all releases but the current one that they are of a major version and cannot be gone back to, and no longer so of those of the usable one."""
    current = host.link_target(directory, "current")
    for path in glob.glob(os.path.join(glob.escape(directory), "releases", "*")):
        own = os.path.join(path, UNUSABLE)
        said = ""
        with contextlib.suppress(OSError), open(own, encoding="utf-8") as file:
            said = file.readline().strip()
        if os.path.basename(path) == current or said == usable:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(own)
        elif not said and os.path.isdir(path):
            state.write(own, f"{major}\nIt has PostgreSQL {major}, and the data is of {usable}. To go back to both, see docs/upgrade-postgres.md.\n")
