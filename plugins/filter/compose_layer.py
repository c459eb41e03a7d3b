# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slice the service catalogue by layer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: compose_layer
short_description: Merge one layer of every service of the catalogue into one Compose file
version_added: 0.1.0
description:
  - Mappings merge, sequences append, anything else of a later fragment wins, as Docker Compose itself merges files.
options:
  _input:
    description: The catalogue, a list of mappings that may have a Compose fragment under the layer's name.
    type: list
    elements: dict
    required: true
  layer:
    description: Name of the layer.
    type: str
    required: true
  common:
    description: Keys that every service of this layer has unless its fragment says otherwise.
    type: dict
    default: {}
  secrets:
    description: Secret files as P(campaign.platform.secret_files#filter) returns them, mounted into their consumers.
    type: list
    elements: dict
    default: []
  configs:
    description: Config files with C(service), C(source) (absolute path on the host) and C(target), mounted read-only.
    type: list
    elements: dict
    default: []
seealso:
  - name: Merge Compose files
    description: The rules that this filter follows.
    link: https://docs.docker.com/reference/compose-file/merge/
"""

EXAMPLES = r"""
- name: Assemble the base layer
  ansible.builtin.debug:
    msg: "{{ [{'base': {'services': {'api': {'image': 'a'}}}}] | campaign.platform.compose_layer('base', common={'init': true}) }}"
"""

RETURN = r"""
_value:
  description: The Compose file as data.
  type: dict
"""


def _merge(left, right):
    if isinstance(left, dict) and isinstance(right, dict):
        merged = dict(left)
        for key, value in right.items():
            merged[key] = _merge(left[key], value) if key in left else value
        return merged
    if isinstance(left, list) and isinstance(right, list):
        return [*left, *right]
    return right


def _mounts(secrets, configs) -> dict:
    """Return the fragment that mounts secret and config files."""
    fragment: dict = {}
    for file in configs:
        # Without create_host_path a missing file is an error; with it, Docker would make a directory of that name.
        volume = {"type": "bind", "source": file["source"], "target": file["target"], "read_only": True, "bind": {"create_host_path": False}}
        fragment = _merge(fragment, {"services": {file["service"]: {"volumes": [volume]}}})
    for file in secrets:
        mount = {"source": file["source"], "target": file["target"]}
        fragment = _merge(fragment, {"services": {file["consumer"]: {"secrets": [mount]}}, "secrets": {file["source"]: {"file": file["path"]}}})
    return fragment


def compose_layer(catalogue, layer: str, common=None, secrets=(), configs=()) -> dict:
    """Return the Compose file of ``layer``; see DOCUMENTATION."""
    merged: dict = {}
    for entry in catalogue:
        merged = _merge(merged, entry.get(layer, {}))
    if common:
        services = {name: {**common, **service} for name, service in merged.get("services", {}).items()}
        merged = {**merged, "services": services}
    return _merge(merged, _mounts(secrets, configs))


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"compose_layer": compose_layer}
