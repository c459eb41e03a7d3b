# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed password of the repository. The new one opens it, as was seen, before the old one is let go, and an old one is forgotten once it is refused.

Beside the file `password`, which is in force, lie `password.next`, which is to come into force, and `password.old-*`, which are to be refused. Who is killed
leaves them there, and the next run goes on with what it finds. That is all the state there is: what a password opens is asked of the repository.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Protocol

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError
from ansible_collections.campaign.platform.plugins.module_utils.links import sync_directory

IN_FORCE, NEXT, OLD = "password", "password.next", "password.old-"
# A password has one key. More come from runs of restic that were killed at a bad moment, and from people.
MOST_KEYS = 20


class Keys(Protocol):
    """The keys of a repository, by files with their passwords."""

    place: str

    def opens(self, name: str) -> bool | None:
        """Return whether the password in a file opens the repository, None where there is no repository; raise BackupError where that cannot be known."""

    def add_key(self, name: str, new: str) -> None:
        """Add a key for the password in the file ``new``, with the one in the file ``name``; raise BackupError."""

    def remove_key_of(self, name: str, old: str) -> None:
        """Remove the key that the password in the file ``old`` opens, with the one in the file ``name``; raise BackupError."""


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            # As restic reads it.
            return file.read().strip()
    except FileNotFoundError:
        return None


def leftovers(directory: str) -> list[str]:
    """Return the names of the files beside the password in force: there are some until a change of the password has ended."""
    try:
        return sorted(name for name in os.listdir(directory) if name == NEXT or name.startswith(OLD))
    except FileNotFoundError:
        return []


def is_changing(directory: str) -> bool:
    """Return whether a change of the password has begun and has not ended."""
    return bool(leftovers(directory))


def _retire(directory: str, name: str) -> None:
    """Have a password be an old one, which is to be refused."""
    os.replace(os.path.join(directory, name), os.path.join(directory, f"{OLD}{secrets.token_hex(4)}"))


def set_aside(directory: str) -> None:
    """Have the password that a change was going to, before it was cut off, be one that is to be refused: another one is wanted now."""
    with contextlib.suppress(FileNotFoundError):
        _retire(directory, NEXT)


def change(directory: str, keys: Keys) -> bool:
    """Bring a change of the password to its end, and return whether it has come to it; raise BackupError where no password that is known opens the repository.

    Where there is no repository yet, the new password is in force from now on, and the old ones are kept until it is known that none opens it.
    """
    wanted = NEXT if os.path.exists(os.path.join(directory, NEXT)) else IN_FORCE
    known = [name for name in (wanted, IN_FORCE, *leftovers(directory)) if os.path.exists(os.path.join(directory, name))]
    opener = None
    for name in dict.fromkeys(known):
        opens = keys.opens(name)
        if opens is None:
            _take_into_use(directory)
            return False
        if opens:
            opener = name
            break
    if opener is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, NEXT))
        raise BackupError(
            f"The repository {keys.place} does not open with this password, nor with one that the host had before, which is kept. "
            "Give the one that it was made with, or that it was changed to last, in backup_password."
        )
    if opener != wanted:
        keys.add_key(opener, wanted)
        if not keys.opens(wanted):
            raise BackupError(f"The repository {keys.place} does not open with the key that was just added. The old password stays in force.")
    _take_into_use(directory)
    for name in leftovers(directory):
        _refuse(directory, name, keys)
    return True


def _take_into_use(directory: str) -> None:
    """Have the next password be the one in force. The old one stays beside it."""
    following, current = os.path.join(directory, NEXT), os.path.join(directory, IN_FORCE)
    if not os.path.exists(following):
        return
    if os.path.exists(current):
        # Never none: the name of the one in force is replaced in one step.
        os.link(current, os.path.join(directory, f"{OLD}{secrets.token_hex(4)}"))
        sync_directory(directory)
    os.replace(following, current)
    sync_directory(directory)


def _refuse(directory: str, name: str, keys: Keys) -> None:
    """Remove the keys of an old password, and forget it once it is refused."""
    path = os.path.join(directory, name)
    if _read(path) != _read(os.path.join(directory, IN_FORCE)):
        for _attempt in range(MOST_KEYS):
            if not keys.opens(name):
                break
            keys.remove_key_of(IN_FORCE, name)
        else:
            raise BackupError(f"The repository {keys.place} still opens with an old password, after {MOST_KEYS} of its keys were removed.")
    os.unlink(path)
    sync_directory(directory)
