# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the secrets that .env.local gives."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_local_secrets
short_description: Take the secrets out of the values of .env.local
version_added: 0.1.0
description:
  - Renames the secrets to the stack's own names, and takes credentials out of C(DATABASE_URL) and C(REDIS_URL), percent-decoded.
options:
  _input:
    description: Names to values of C(.env.local).
    type: dict
    required: true
  names:
    description: Names in C(.env.local) to names among the stack's secrets.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Find the database password
  ansible.builtin.set_fact:
    example: >-
      {{ {'DATABASE_URL': 'postgres://me:a%2Fb@postgres:5432/db'} | campaign.platform.env_local_secrets(names={}) }}
  no_log: true
"""

RETURN = r"""
_value:
  description: Names of secrets to values, those only that were given.
  type: dict
"""

from urllib.parse import unquote, urlsplit

_URLS = {"DATABASE_URL": "postgres_api", "REDIS_URL": "redis_api"}


def env_local_secrets(values, names) -> dict[str, str]:
    """Return the secrets among ``values``; see DOCUMENTATION."""
    found = {secret: values[name] for name, secret in names.items() if name in values}
    for name, prefix in _URLS.items():
        try:
            parts = urlsplit(values.get(name, ""))
        except ValueError:
            # It has brackets where a host's address could stand, and the error shows them. The URL's own rule refuses it by name.
            continue
        if parts.username and parts.password:
            found[f"{prefix}_user"] = unquote(parts.username)
            found[f"{prefix}_password"] = unquote(parts.password)
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"env_local_secrets": env_local_secrets}
