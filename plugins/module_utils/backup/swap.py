# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes exchanged by their directories: new data under the names that the release knows, the old data under the names that the new had.

Docker cannot rename a volume, and a copy takes as long as the data is large and is half done all that time. Exchanging two directories is one step of the
kernel. Several volumes are several steps, so what is being done is written down before, and is undone where it was not finished: the file's new name is the
moment from which on the restore counts.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker
from ansible_collections.campaign.platform.plugins.module_utils.links import sync_directory
from ansible_collections.campaign.platform.plugins.module_utils.lock import SWAP

REPLACED, UNFINISHED = "replaced", "unfinished.json"
# What replaced the data of a record: a restore names its set or its moment.
RESTORE, UPGRADE = "restore", "upgrade"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def exchange(one: str, other: str) -> None:
    """Exchange two directories in one step; raise OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def write(path: str, content: Mapping[str, Any]) -> None:
    """Write down what is being exchanged, so that it survives a power cut."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def path_of(docker: Docker, volume: str) -> str:
    """Return the directory of a volume's data; raise BackupError where it is not the Engine's own."""
    found = json.loads(docker.ask("volume", "inspect", volume))[0]
    if found["Driver"] != "local" or found.get("Options"):
        raise BackupError(f"The volume {volume} is not a directory of the Engine (driver {found['Driver']}), so it cannot be exchanged. Nothing was changed.")
    if not os.path.isdir(found["Mountpoint"]):
        raise BackupError(f"The directory of the volume {volume} is not on this machine: {found['Mountpoint']}. Nothing was changed.")
    return str(found["Mountpoint"])


def check_same_disk(live: str, live_path: str, new: str, new_path: str) -> None:
    """Raise BackupError where the directories of two volumes are on two file systems, between which nothing is renamed."""
    if os.stat(live_path).st_dev != os.stat(new_path).st_dev:
        raise BackupError(f"The volumes {live} and {new} are on two file systems, so they cannot be exchanged. Nothing was changed.")


def plan(docker: Docker, volumes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what is to be exchanged: for each volume of the release and the new one, their directories and what tells them apart. Raises BackupError."""
    rows = []
    for live, new in volumes.items():
        row: dict[str, Any] = {"live": live, "new": new, "live_path": path_of(docker, live), "new_path": path_of(docker, new)}
        row |= {"live_inode": os.stat(row["live_path"]).st_ino, "new_inode": os.stat(row["new_path"]).st_ino}
        check_same_disk(live, row["live_path"], new, row["new_path"])
        rows.append(row)
    return rows


def announce(directory: str, rows: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
    """Write down what is going to be exchanged; raise OSError. ``directory`` is the stack's.

    Before its services are stopped: who finds them stopped, as after a power cut, has to know why.
    """
    write(os.path.join(directory, SWAP), {**about, "volumes": rows})


def swap(rows: list[dict[str, Any]]) -> None:
    """Exchange volumes that nothing uses, as was written down; raise OSError."""
    for row in rows:
        exchange(row["live_path"], row["new_path"])
        sync_directory(os.path.dirname(row["live_path"]))
        sync_directory(os.path.dirname(row["new_path"]))


def is_begun(directory: str) -> bool:
    """Return whether any volume was exchanged of those that are written down; raise OSError where one is gone."""
    try:
        with open(os.path.join(directory, SWAP), encoding="utf-8") as file:
            content = json.load(file)
            return bool(content.get("started")) or any(os.stat(row["live_path"]).st_ino == row["new_inode"] for row in content["volumes"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        # Whoever undoes it says what is wrong.
        return True


def start(directory: str) -> None:
    """Write down that services begin to work with the new data, so that what they write into it is kept where the old data is put back."""
    journal = os.path.join(directory, SWAP)
    with open(journal, encoding="utf-8") as file:
        content = json.load(file)
    write(journal, {**content, "started": True})


def commit(directory: str, identifier: str) -> None:
    """Have an exchange count."""
    journal = os.path.join(directory, SWAP)
    target = os.path.join(os.path.dirname(journal), REPLACED)
    os.makedirs(target, mode=0o755, exist_ok=True)
    os.replace(journal, os.path.join(target, f"{identifier}.json"))
    sync_directory(target)
    sync_directory(os.path.dirname(journal))


def undo(directory: str) -> tuple[list[str], list[str]]:
    """Put the old data back where an exchange did not get to count; raise BackupError or OSError. The volumes must not be in use.

    Return the volumes that it was done for, and those with the new data where services had been started over it: they may have written into it, so it is kept.
    """
    journal = os.path.join(directory, SWAP)
    try:
        with open(journal, encoding="utf-8") as file:
            content = json.load(file)
            rows = content["volumes"]
    except FileNotFoundError:
        return [], []
    except (ValueError, KeyError, TypeError):
        raise BackupError(f"{journal} says what a restore was exchanging, and cannot be read. Look at the volumes by hand before you remove it.") from None
    done = []
    for row in rows:
        # Which of the two lies there says how far it got.
        lies_there = os.stat(row["live_path"]).st_ino
        if lies_there == row["new_inode"]:
            exchange(row["live_path"], row["new_path"])
            done.append(row["live"])
        elif lies_there != row["live_inode"]:
            raise BackupError(f"{row['live_path']} is neither the old nor the new data of a restore that was cut off. Look at {journal} and at the volume.")
    kept = [row["new"] for row in rows] if content.get("started") else []
    if kept:
        # Not before: until here the old data lies in these volumes, and whoever tidies up would remove it.
        target = os.path.join(os.path.dirname(journal), REPLACED)
        os.makedirs(target, mode=0o755, exist_ok=True)
        write(os.path.join(target, f"{content['run']}-tried.json"), content)
    os.unlink(journal)
    sync_directory(os.path.dirname(journal))
    return done, kept


def replaced(directory: str, kind: str | None = None) -> dict[str, list[str]]:
    """Return the volumes with the data that restores or upgrades of PostgreSQL replaced, by their id; raise BackupError.

    ``kind`` is RESTORE or UPGRADE; both by default.
    """
    root = os.path.join(os.path.dirname(os.path.join(directory, SWAP)), REPLACED)
    found = {}
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        path = os.path.join(root, name)
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
                if kind in (None, RESTORE if "set" in content else UPGRADE):
                    found[name.removesuffix(".json")] = [row["new"] for row in content["volumes"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise BackupError(f"{path} says which volumes hold old data, and cannot be read. Put it right or remove it.") from None
    return found


def forget(directory: str, identifier: str) -> None:
    """Forget a restore whose old volumes are gone."""
    os.unlink(os.path.join(os.path.dirname(os.path.join(directory, SWAP)), REPLACED, f"{identifier}.json"))


def begin(directory: str, volumes: list[str]) -> None:
    """Write down which new volumes a restore is about to create, so that they can be removed when it does not end."""
    write(os.path.join(os.path.dirname(os.path.join(directory, SWAP)), UNFINISHED), {"volumes": volumes})


def unfinished(directory: str) -> list[str]:
    """Return the volumes of a restore that did not end, which hold nothing that anybody needs; raise BackupError where that is not known."""
    if os.path.exists(os.path.join(directory, SWAP)):
        # Which of them holds what is not known yet.
        return []
    try:
        with open(os.path.join(os.path.dirname(os.path.join(directory, SWAP)), UNFINISHED), encoding="utf-8") as file:
            created = json.load(file)["volumes"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    kept = {volume for volumes in replaced(directory).values() for volume in volumes}
    return [volume for volume in created if volume not in kept]


def end(directory: str) -> None:
    """Forget what a restore created, after it has ended in one way or the other."""
    path = os.path.join(os.path.dirname(os.path.join(directory, SWAP)), UNFINISHED)
    if os.path.exists(path):
        os.unlink(path)
