# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay out secrets as one file per consumer and generation."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret_files
short_description: Give every secret of every consumer its own file name, which changes when the value does
version_added: 0.1.0
description:
  - Docker Compose does not recreate a container whose secret file changed, so a changed value needs a changed name.
  - The generation in the name is an HMAC-SHA-256 of the value under a key of the stack. A plain digest could be guessed at by
    whoever reads labels or names over the Engine's socket.
options:
  _input:
    description: Compose service name to a mapping of file name below C(/run/secrets) to value.
    type: dict
    required: true
  services:
    description: The Compose services, for the C(user) that each consumer runs as.
    type: dict
    required: true
  key:
    description: The stack's generation key.
    type: str
    required: true
  directory:
    description: Absolute path on the host below which secret files lie.
    type: path
    required: true
seealso:
  - name: A changed file does not recreate its container
    description: The discussion in Docker Compose.
    link: https://github.com/docker/compose/issues/10081
"""

EXAMPLES = r"""
- name: Lay out the api's secrets
  ansible.builtin.set_fact:
    example: >-
      {{ {'api': {'jwt_secret': 'value'}}
      | campaign.platform.secret_files(services={'api': {'user': '10001:10001'}}, key='k', directory='/opt/campaign/secrets') }}
  no_log: true
"""

RETURN = r"""
_value:
  description:
    - One mapping for each file with C(consumer), C(target), C(source) (the Compose secret's name), C(path), C(uid), C(gid) and
      C(content).
  type: list
  elements: dict
"""

import hashlib
import hmac
import re

from ansible.errors import AnsibleFilterError

_USER = re.compile(r"(\d+):(\d+)\Z")


def secret_files(secrets, services, key: str, directory: str) -> list[dict]:
    """Return the files of ``secrets``; see DOCUMENTATION."""
    files = []
    for consumer, targets in secrets.items():
        user = _USER.match(str(services.get(consumer, {}).get("user", "")))
        if not user:
            raise AnsibleFilterError(f"The service {consumer} takes secrets, so it needs a numeric user, such as user: '10001:10001'.")
        for target, content in targets.items():
            # Length-prefixed, so that no two triples run together into the same text.
            message = "".join(f"{len(part)}:{part}" for part in (str(consumer), str(target), str(content)))
            generation = hmac.new(str(key).encode(), message.encode(), hashlib.sha256).hexdigest()[:12]
            source = f"{consumer}_{target}_{generation}"
            files.append(
                {
                    "consumer": consumer,
                    "target": target,
                    "source": source,
                    "path": f"{directory}/{source}",
                    "uid": int(user[1]),
                    "gid": int(user[2]),
                    "content": content,
                }
            )
    return files


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"secret_files": secret_files}
