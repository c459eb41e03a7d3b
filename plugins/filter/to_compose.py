# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serialise Compose data so that Compose reads back the same types."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_compose
short_description: Serialise data as YAML that Docker Compose reads back unchanged
version_added: 0.1.0
description:
  - PyYAML writes YAML 1.1, Docker Compose reads YAML 1.2. Strings such as C(1e3), C(0o17) or C(08) are plain text
    to the first and numbers to the second.
  - This filter leaves a string bare only where no reader could take it for anything else, and double-quotes the rest.
  - Compose interpolates C($NAME) and C(${NAME}) in what it has read. A dollar sign that must stay one is written as C($$).
options:
  _input:
    description: Mappings, sequences, strings, integers, booleans and nulls, nested at will.
    type: raw
    required: true
seealso:
  - name: YAML 1.2 core schema
    description: What Compose's parser takes for a number.
    link: https://yaml.org/spec/1.2.2/#103-core-schema
"""

EXAMPLES = r"""
- name: Render a Compose file
  ansible.builtin.copy:
    dest: docker-compose.yml
    mode: "0644"
    content: "{{ {'services': {'api': {'image': 'example/api:1e3'}}} | campaign.platform.to_compose }}"
"""

RETURN = r"""
_value:
  description: The YAML document, keys in the order given, one newline at the end.
  type: str
"""

import re

import yaml
from ansible.errors import AnsibleFilterError

# A letter, a slash, a dot or a dollar first, then nothing that YAML gives a meaning to.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*\Z")
_RESERVED = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"])


class _Dumper(yaml.SafeDumper):
    """Spells out what is referred to twice, because merging Compose files by eye is hard enough without anchors."""

    def ignore_aliases(self, data):
        return data is not None

    def increase_indent(self, flow=False, **_options):
        return super().increase_indent(flow, indentless=False)


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = _PLAIN.match(value) and value.lower() not in _RESERVED
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _represent_str)


def _plain_types(value, *path):
    """Strip Ansible's tagged and lazy types, which a YAML dumper does not know, and refuse what no container can be given."""
    if isinstance(value, dict):
        return {str(key): _plain_types(item, *path, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_types(item, *path, index) for index, item in enumerate(value)]
    if isinstance(value, str):
        if "\0" in value:
            raise AnsibleFilterError(f"{'.'.join(map(str, path))} holds a NUL byte, which no container can be given.")
        return str.__str__(value)
    # A boolean is an int too, and True and False have no tagged form.
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def to_compose(value) -> str:
    """Return ``value`` as a YAML document; see DOCUMENTATION."""
    return yaml.dump(
        _plain_types(value),
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        default_flow_style=False,
        allow_unicode=True,
        width=1000,
    )


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"to_compose": to_compose}
