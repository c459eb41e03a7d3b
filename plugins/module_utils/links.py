# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Symbolic links of a stack's directory, which point somewhere else in one step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(path: str, target: str) -> None:
    """Point a symbolic link somewhere else in one step; leave it alone where it points there already."""
    if os.path.islink(path) and os.readlink(path) == target:
        return
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def stale(directory: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of secrets that stay and do not stand for those of a release: by path, where each has to point."""
    meant = {os.path.join(directory, path): os.path.join("..", os.path.basename(target)) for path, target in (manifest.get("stable") or {}).items()}
    return {path: target for path, target in meant.items() if not (os.path.islink(path) and os.readlink(path) == target)}


def renew(directory: str, manifest: Mapping[str, Any]) -> None:
    """Have the names of secrets that stay stand for those of a release. A server reads them when it is started."""
    for path, target in stale(directory, manifest).items():
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        link(path, target)
