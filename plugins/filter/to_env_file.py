# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render an environment file that Docker Compose reads back byte for byte."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_env_file
short_description: Render a mapping as the text of a Compose environment file
version_added: 0.1.0
description:
  - Every value is double-quoted, with the backslash, the double quote, the dollar sign, newline and carriage return escaped.
    Of the spellings that Compose accepts this is the one that brings every value through, on Compose 2.26 as on 2.40.
options:
  _input:
    description: Names to values. A value is written as its string.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Render .env
  ansible.builtin.debug:
    msg: "{{ {'API_PORT': 3000} | campaign.platform.to_env_file }}"
"""

RETURN = r"""
_value:
  description: One C(NAME="value") a line, in the order given.
  type: str
"""

import re

from ansible.errors import AnsibleFilterError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r"})


def to_env_file(values) -> str:
    """Return ``values`` as environment file text; raise on a name no shell would accept and on NUL."""
    lines = []
    for name, value in values.items():
        if not _NAME.match(name):
            raise AnsibleFilterError(f"{name!r} cannot be the name of an environment variable: use letters, digits and _.")
        text = str(value)
        if "\0" in text:
            raise AnsibleFilterError(f"{name} holds a NUL byte, which no environment variable can carry.")
        lines.append(f'{name}="{text.translate(_ESCAPES)}"\n')
    return "".join(lines)


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"to_env_file": to_env_file}
