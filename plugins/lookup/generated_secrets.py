# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate secrets once and keep them on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: generated_secrets
short_description: Generate named secrets once, keep them in a file of the controller, and return them
version_added: 0.1.0
description:
  - Returns a random value for every name. A value that the file holds is returned as it is, a missing one is generated
    and added. Nothing is ever changed or removed.
  - The file is written atomically with mode 0600, under a lock, in a directory of mode 0700.
options:
  _terms:
    description: The names wanted.
    required: true
    type: list
    elements: str
  path:
    description: The file, JSON of names to values.
    required: true
    type: path
  persist:
    description:
      - Whether a generated value is kept. Without it (a check run) values that the file does not hold are made up
        anew in every process, and nothing is written.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Use a generated password
  ansible.builtin.set_fact:
    example: "{{ lookup('campaign.platform.generated_secrets', 'jwt_secret', path='~/.local/state/example/secrets.json') }}"
  no_log: true
"""

RETURN = r"""
_list:
  description: One mapping of the names to their values, 43 characters of A-Z, a-z, 0-9, C(-) and C(_) (256 bits) each.
  type: list
  elements: dict
"""

import fcntl
import json
import os
import secrets
import tempfile

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

# A check run asks for the same names many times in one process and must get one answer.
_made_up: dict[str, dict[str, str]] = {}


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AnsibleLookupError(
            f"{path}, which keeps the generated secrets, cannot be read ({type(error).__name__}). The stack's data is locked "
            "with these values: restore the file from a copy rather than removing it."
        ) from None
    if not isinstance(kept, dict) or not all(isinstance(value, str) and value for value in kept.values()):
        raise AnsibleLookupError(f"{path} does not hold a JSON object of non-empty strings. Restore it from a copy.")
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


def generated_secrets(names: list[str], path: str, persist: bool) -> dict[str, str]:
    """Return a value for each of ``names``; see DOCUMENTATION."""
    kept = _read(path)
    if all(name in kept for name in names):
        return {name: kept[name] for name in names}
    if not persist:
        made_up = _made_up.setdefault(path, {})
        return {name: kept.get(name) or made_up.setdefault(name, secrets.token_urlsafe(32)) for name in names}
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(f"{path}.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _read(path)
        kept.update({name: secrets.token_urlsafe(32) for name in names if name not in kept})
        _write(path, kept)
    return {name: kept[name] for name in names}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        path = os.path.abspath(os.path.expanduser(self.get_option("path")))
        return [generated_secrets([str(term) for term in terms], path, self.get_option("persist"))]
