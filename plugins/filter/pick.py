# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reduce mappings to some of their keys."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pick
short_description: Reduce each mapping of a list to the keys named
version_added: 0.1.0
description:
  - What P(community.general.keep_keys#filter) does, without a dependency on that collection.
positional: keys
options:
  _input:
    description: The mappings.
    type: list
    elements: dict
    required: true
  keys:
    description: The keys to keep, given one by one. Each must be there.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Keep the paths
  ansible.builtin.debug:
    msg: "{{ [{'path': 'a', 'content': 'b'}] | campaign.platform.pick('path') }}"
"""

RETURN = r"""
_value:
  description: The reduced mappings.
  type: list
  elements: dict
"""


def pick(mappings, *keys: str) -> list[dict]:
    """Return ``mappings`` with ``keys`` only; raise KeyError where one is missing."""
    return [{key: mapping[key] for key in keys} for mapping in mappings]


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"pick": pick}
