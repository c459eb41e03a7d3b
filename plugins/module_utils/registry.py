# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""References of images, and what the Engine is told to sign in to their registries with."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

# Docker Hub is meant where the first part of a reference is not a host.
_HOST = re.compile(r"^(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)/")

OPTIONS = {
    "registry": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "socket": {"type": "path", "default": "/var/run/docker.sock"},
}


def registry_of(reference: str) -> str:
    """Return the registry's host, with its port if it has one."""
    found = _HOST.match(reference)
    if found and ("." in found["host"] or ":" in found["host"] or found["host"] == "localhost"):
        return found["host"]
    return "docker.io"


def split_reference(reference: str) -> tuple[str, str]:
    """Return the repository's name, and the tag or digest that the Engine's pull takes beside it; a digest wins over a tag."""
    name, at, digest = reference.partition("@")
    tagged = re.match(r"(?P<name>.+):(?P<tag>[\w.-]+)\Z", name)
    repository = tagged["name"] if tagged else name
    if at:
        return repository, digest
    return repository, tagged["tag"] if tagged else "latest"


def image_path(reference: str) -> str:
    """Return the path of the Engine's API that describes an image; of a tag and a digest, the digest decides."""
    repository, version = split_reference(reference)
    return f"/images/{quote(f'{repository}@{version}' if ':' in version else f'{repository}:{version}', safe='/:@')}/json"


def sign_in(params: dict[str, Any], reference: str) -> dict[str, str]:
    """Return the headers that authorise a request for ``reference``; credentials go to their own registry only."""
    registry = registry_of(reference)
    if not params["username"] or registry != (params["registry"] or "docker.io"):
        return {}
    account = {"username": params["username"], "password": params["password"], "serveraddress": registry}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(account).encode()).decode()}
