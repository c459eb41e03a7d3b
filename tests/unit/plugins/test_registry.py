# SPDX-License-Identifier: GPL-3.0-or-later
"""References are taken apart as the Engine does, and credentials go to their own registry only."""

import base64
import json

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.registry import image_path, registry_of, sign_in, split_reference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "registry", "repository", "version"),
    [
        ("redis:8", "docker.io", "redis", "8"),
        ("redis", "docker.io", "redis", "latest"),
        ("campaign/api:1", "docker.io", "campaign/api", "1"),
        ("docker.io/library/redis:8", "docker.io", "docker.io/library/redis", "8"),
        ("registry.example.com:5000/campaign/api", "registry.example.com:5000", "registry.example.com:5000/campaign/api", "latest"),
        (f"registry.example.com:5000/api:1@{DIGEST}", "registry.example.com:5000", "registry.example.com:5000/api", DIGEST),
        (f"localhost/api@{DIGEST}", "localhost", "localhost/api", DIGEST),
    ],
)
def test_a_reference_is_taken_apart(reference, registry, repository, version):
    assert registry_of(reference) == registry
    assert split_reference(reference) == (repository, version)
    assert image_path(reference) == f"/images/{repository}{'@' if version == DIGEST else ':'}{version}/json"


def account(registry, reference, username="me"):
    headers = sign_in({"registry": registry, "username": username, "password": "pass?>"}, reference)
    return json.loads(base64.urlsafe_b64decode(headers["X-Registry-Auth"])) if headers else None


def test_credentials_go_to_their_registry():
    assert account("r.example.com:5000", "r.example.com:5000/api:1") == {"username": "me", "password": "pass?>", "serveraddress": "r.example.com:5000"}
    assert account(None, "redis:8")["serveraddress"] == "docker.io"


@pytest.mark.parametrize(
    ("registry", "reference"), [("r.example.com", "r.example.com:5000/api:1"), ("r.example.com", "redis:8"), (None, "r.example.com/api:1")]
)
def test_credentials_go_nowhere_else(registry, reference):
    assert account(registry, reference) is None
    assert account(registry, reference, username=None) is None
