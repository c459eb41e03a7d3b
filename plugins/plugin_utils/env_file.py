# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the text of an environment file. The documentation of the lookup of this name says what may stand in one."""

from __future__ import annotations

import re

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
