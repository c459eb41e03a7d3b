# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that other programs read back as they were meant: Compose's YAML, environment files, URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import yaml

# A letter, a slash, a dot or a dollar sign first, then nothing that YAML gives a meaning to.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*\Z")
_RESERVED = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"])
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r"})


class TextError(ValueError):
    """A value that cannot stand in the text. The message names the value and does not show it."""


class _Dumper(yaml.SafeDumper):
    """Writes what is referred to twice in full, because Compose files are easier to read without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return data is not None

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        # A list is indented below its key.
        del indentless
        return super().increase_indent(flow, indentless=False)


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = _PLAIN.match(value) and value.lower() not in _RESERVED
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _represent_str)


def plain(value: Any) -> Any:
    """Return data without the caller's subclasses of str, int, list and dict, which a YAML dumper does not know."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    # A boolean is an int too, and True and False have no subclass.
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def nul_problems(value: Any, *path: object) -> Iterator[str]:
    """Yield a message for every text in data that holds a NUL byte, by its path below ``path``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from nul_problems(item, *path, key)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from nul_problems(item, *path, index)
    elif isinstance(value, str) and "\0" in value:
        yield f"{'.'.join(map(str, path))} holds a NUL byte, which no container can be given. Remove it."


def to_compose(value: Mapping[str, Any]) -> str:
    """Return data as a YAML document that Docker Compose reads back with the same types.

    PyYAML writes YAML 1.1, Compose reads YAML 1.2: 1e3, 0o17 or 08 are text to the first and numbers to the second
    (https://yaml.org/spec/1.2.2/#103-core-schema). So a string stays bare only where no reader takes it for anything else. Compose fills in
    $NAME and ${NAME}; a dollar sign that stays one is written as $$. Raises TextError on NUL.
    """
    if problem := next(nul_problems(value), None):
        raise TextError(problem)
    document: str = yaml.dump(plain(value), Dumper=_Dumper, sort_keys=False, explicit_start=True, default_flow_style=False, allow_unicode=True, width=1000)
    return document


def to_env_file(values: Mapping[str, object]) -> str:
    """Return names and values as an environment file, one NAME="value" a line, that Compose 2.26 and 2.40 read back byte for byte.

    Raises TextError on a name that no shell would accept, and on NUL.
    """
    lines = []
    for name, value in values.items():
        if not _NAME.match(name):
            raise TextError(f"{name!r} cannot be the name of an environment variable: use letters, digits and _.")
        text = str(value)
        if "\0" in text:
            raise TextError(f"{name} holds a NUL byte, which no environment variable can hold.")
        lines.append(f'{name}="{text.translate(_ESCAPES)}"\n')
    return "".join(lines)


def service_url(scheme: str, user: str, password: str, location: str) -> str:
    """Return a URL with credentials of any characters, percent-encoded as RFC 3986 (3.2.1) asks for in the userinfo part."""
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{location}"


def url_host(host: str) -> str:
    """Return a host as a URL has it: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def url_path(name: str) -> str:
    """Return a name as the path of a URL. What may stand there stays as it is, because not every client decodes it: pg decodes with decodeURI."""
    return quote(name, safe="/:@;&=+$,")
