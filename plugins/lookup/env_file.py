# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read an environment file of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_file
short_description: Read an environment file such as .env.local on the controller
version_added: 0.1.0
description:
  - Returns the names and values of an environment file. A file that is not there is an empty one.
  - What different readers of such files understand differently is refused, with the line's number and the spelling to use.
    A message never shows a value.
options:
  _terms:
    description: Paths of environment files. Later files override earlier ones.
    required: true
    type: list
    elements: path
notes:
  - A line ends with a newline, or with a carriage return and a newline. Blanks are spaces and tabs. No other character separates anything.
  - C(NAME=value) is taken up to the end of the line, without surrounding blanks.
  - C(NAME='value') is taken literally.
  - In C(NAME="value") a backslash escapes the backslash, the double quote, the dollar sign, C(n) and C(r).
  - A comment stands on a line of its own.
"""

EXAMPLES = r"""
- name: Show the names that .env.local sets
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.env_file', '.env.local').keys() | list }}"
"""

RETURN = r"""
_list:
  description: One mapping of names to strings.
  type: list
  elements: dict
"""

import os
import re

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

# What Unicode counts among blanks and line ends, as \s, strip and splitlines do, may be part of a value.
_LINE = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(?P<value>.*?)\Z", re.DOTALL)
_DOUBLE = re.compile(r'"(?P<text>(?:[^"\\$]|\\[\\"$nr])*)"\Z')
_SINGLE = re.compile(r"'(?P<text>[^']*)'\Z")
_BARE_TROUBLE = re.compile(r"""\s#|[$"'\\`]""")
_UNESCAPE = {"\\": "\\", '"': '"', "$": "$", "n": "\n", "r": "\r"}


def _read_value(name: str, value: str) -> str:
    """Return what the text behind the equals sign stands for; raise ValueError on what is ambiguous."""
    if value.startswith('"'):
        quoted = _DOUBLE.match(value)
        if not quoted:
            raise ValueError(
                f"{name} is not closed by a double quote, or holds a bare $ or an unknown escape. "
                'Write \\" \\\\ \\$ \\n or \\r, or put the value in single quotes.'
            )
        return re.sub(r"\\(.)", lambda escape: _UNESCAPE[escape[1]], quoted["text"])
    if value.startswith("'"):
        quoted = _SINGLE.match(value)
        if not quoted:
            raise ValueError(f"{name} has text after the closing single quote, or none closes it.")
        return quoted["text"]
    if _BARE_TROUBLE.search(value):
        raise ValueError(
            f"{name} holds a quote, a backslash, a $ or a comment sign, which readers of such files take differently. Put the value in single quotes."
        )
    return value


def parse_env(text: str) -> dict[str, str]:
    """Return the assignments of ``text``; raise ValueError naming the line of whatever is ambiguous."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r").strip(" \t")
        if "\r" in line:
            raise ValueError(f"line {number}: a carriage return stands within the line. Write \\r in double quotes, or end lines with a newline.")
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if not match:
            raise ValueError(f"line {number}: this is no NAME=value. A comment starts with # on a line of its own.")
        name = match["name"]
        if name in values:
            raise ValueError(f"line {number}: {name} is set a second time. Keep one of the two lines.")
        try:
            values[name] = _read_value(name, match["value"])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return values


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        values: dict[str, str] = {}
        for term in terms:
            path = os.path.expanduser(str(term))
            try:
                with open(path, encoding="utf-8", newline="") as file:
                    values.update(parse_env(file.read()))
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise AnsibleLookupError(f"{path} cannot be read: {type(error).__name__}. Make it a readable UTF-8 file.") from None
            except ValueError as error:
                raise AnsibleLookupError(f"{path}, {error}") from None
        return [values]
