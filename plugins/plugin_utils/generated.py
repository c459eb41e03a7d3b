# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate secrets once, and keep them in a file of the controller."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping


class GeneratedSecretsError(ValueError):
    """The file that keeps the values cannot be used. The message says which file, and what to do."""


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise GeneratedSecretsError(
            f"{path}, which keeps the generated secrets, cannot be read ({type(error).__name__}). The stack's data is locked "
            "with these values: restore the file from a copy rather than removing it."
        ) from None
    if not isinstance(kept, dict) or not all(isinstance(value, str) and value for value in kept.values()):
        raise GeneratedSecretsError(f"{path} does not hold a JSON object of non-empty strings. Restore it from a copy.")
    return kept


def _write(path: str, values: dict[str, str]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".secrets-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Let one process at a time change the file."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(f"{path}.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace(path: str, values: Mapping[str, str]) -> None:
    """Give secrets other values than the file has. Raises GeneratedSecretsError when the file cannot be used."""
    path = os.path.abspath(os.path.expanduser(path))
    with _locked(path):
        _write(path, {**_read(path), **values})


def generated_secrets(names: Iterable[str], path: str, *, persist: bool, optional: Iterable[str] = ()) -> dict[str, str]:
    """Return a value for each of ``names``: the one in the file, or a new one of 256 bits where the file has none. Of ``optional``, those that it has.

    With ``persist`` new values are added to the file, which is written atomically with mode 0600, under a lock, in a directory of mode 0700. Nothing in it is
    changed or removed here. Without ``persist`` (check mode) nothing is written. Raises GeneratedSecretsError when the file cannot be used.
    """
    path = os.path.abspath(os.path.expanduser(path))
    names = list(names)
    kept = _read(path)
    asked = [*names, *(name for name in optional if name in kept)]
    if all(name in kept for name in names):
        return {name: kept[name] for name in asked}
    if not persist:
        return {name: kept.get(name) or secrets.token_urlsafe(32) for name in asked}
    with _locked(path):
        kept = _read(path)
        kept.update({name: secrets.token_urlsafe(32) for name in names if name not in kept})
        _write(path, kept)
    return {name: kept[name] for name in asked}
