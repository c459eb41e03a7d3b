# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay out config files under names of their content."""

from __future__ import annotations

DOCUMENTATION = r"""
name: config_files
short_description: Give every config file of the catalogue a path with the digest of its content
version_added: 0.1.0
description:
  - A container keeps the bytes of a file that was replaced under it, and Docker Compose does not notice. With the digest of the
    content in the mount's source, a change recreates the consumer, and the older release still finds its own file.
options:
  _input:
    description: The catalogue. An entry's C(configs) is a list of mappings with C(service), C(target) and C(content).
    type: list
    elements: dict
    required: true
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Lay out a config file
  ansible.builtin.debug:
    msg: >-
      {{ [{'configs': [{'service': 'redis', 'target': '/etc/redis.conf', 'content': 'appendonly yes'}]}]
      | campaign.platform.config_files(directory='/opt/campaign') }}
"""

RETURN = r"""
_value:
  description: The mappings given, with C(name), C(path) (relative to the directory) and C(source) (absolute) added.
  type: list
  elements: dict
"""

import hashlib
import os


def config_files(catalogue, directory: str) -> list[dict]:
    """Return the config files of ``catalogue``; see DOCUMENTATION."""
    files = []
    for entry in catalogue:
        for config in entry.get("configs", []):
            digest = hashlib.sha256(config["content"].encode()).hexdigest()[:12]
            name = os.path.basename(config["target"])
            path = f"config/{digest}/{name}"
            files.append({**config, "name": name, "path": path, "source": f"{directory}/{path}"})
    return files


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"config_files": config_files}
