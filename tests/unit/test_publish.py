# SPDX-License-Identifier: GPL-3.0-or-later
"""What is published says by its tag what it is made of, and goes to a deploy by the lock file alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer
from ansible_collections.campaign.platform.plugins.plugin_utils.roles import requirement_problems
from program import LOADER

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/images"
CLEAN = {"rc": 0, "stdout": ""}
RIGHT = {
    "images_registry": "registry.example.com/",
    "images_lock_file": "/srv/images_lock.yml",
    "images_files": "/srv/files",
    "__images_published": ["api"],
    "__images_commit": {"rc": 0, "stdout": "0123456789ab"},
    "__images_changes": CLEAN,
    "images_publish_version": "1.0.0",
}


def role_vars() -> dict:
    found: dict = {}
    for path in sorted((ROLE / "vars/main").glob("*.yml")):
        found |= LOADER.load_from_file(str(path), trusted_as_template=True)
    return found


def rendered(name: str, **given) -> str:
    variables = {**role_vars(), **RIGHT, **given}
    return Templar(loader=LOADER, variables=variables).template(variables[name])


def problems(**given) -> list[str]:
    variables = {**role_vars(), **RIGHT, **given}
    variables = {name: value for name, value in variables.items() if value is not None}
    renderer = AnsibleRenderer(Templar(loader=LOADER, variables=variables), variables, str(ROLE))
    return requirement_problems(variables["__images_publish_requirements"], renderer, {})


def test_the_tag_is_made_of_the_version_and_the_commit():
    assert rendered("__images_publish_tag") == "1.0.0-0123456789ab"
    assert rendered("__images_publish_tag", images_publish_tag="2.0.0") == "2.0.0"


def test_the_registry_may_have_another_name_on_this_machine():
    assert rendered("__images_publish_host") == "registry.example.com"
    assert rendered("__images_publish_host", images_publish_registry="127.0.0.1:5000/team/") == "127.0.0.1:5000"
    # Beside a mirror of Docker Hub.
    assert rendered("__images_publish_host", images_registry="mirror.example.com/", images_registry_host="own.example.com:5000") == "own.example.com:5000"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, None),
        ({"images_publish_tag": "1.0.0", "__images_commit": {"skipped": True}, "__images_changes": {"skipped": True}}, None),
        ({"__images_changes": {"rc": 0, "stdout": " M app/main.ts"}}, "/srv/files has changes that are in no commit"),
        ({"__images_commit": {"rc": 128, "stdout": ""}, "__images_changes": {"rc": 128, "stdout": ""}}, "/srv/files is not in a git repository"),
        ({"images_registry": ""}, "Neither images_registry nor images_registry_host is set"),
        # It says where this machine pushes to, and nobody would know where the hosts pull from.
        ({"images_registry": "", "images_publish_registry": "127.0.0.1:5000/"}, "Neither images_registry nor images_registry_host is set"),
        ({"images_registry": "", "images_registry_host": "registry.example.com"}, None),
        ({"images_lock_file": None}, "images_lock_file is not defined"),
        ({"__images_published": []}, "there is nothing to publish"),
    ],
)
def test_what_cannot_be_published_is_refused_with_the_remedy(given, told):
    found = problems(**given)
    assert len(found) == (0 if told is None else 1), found
    assert told is None or told in found[0]


def lock_text(tmp_path, name: str, **given) -> dict:
    """Return what a task file of the role writes into the lock file, rendered with what the tasks before it returned."""
    (task,) = [task for task in LOADER.load_from_file(str(ROLE / f"tasks/{name}.yml"), trusted_as_template=True) if "__images_locked" in task.get("vars", {})]
    variables = {
        **role_vars(),
        **RIGHT,
        "images_prefix": "campaign/",
        "images_upstream": {},
        "images_lock_file": str(tmp_path / "lock.yml"),
        **given,
        **task["vars"],
    }
    return Templar(loader=LOADER, variables=variables).template(variables["__images_locked"])


def test_the_lock_file_has_the_names_and_the_digests(tmp_path):
    pushed, beside = {"digests": {"api": "sha256:1", "redis": "sha256:2"}}, {"digests": {"registry.example.com/their/s3:1": "sha256:3"}}
    assert lock_text(tmp_path, "publish", __images_pushed=pushed, __images_resolved=beside, images_upstream={"minio": "their/s3:1"}) == {
        "images_upstream": {
            "api": "registry.example.com/campaign/api:1.0.0-0123456789ab",
            "minio": "their/s3:1",
            "redis": "registry.example.com/campaign/redis:1.0.0-0123456789ab",
        },
        "images_lock": {
            "registry.example.com/campaign/api:1.0.0-0123456789ab": "sha256:1",
            "registry.example.com/campaign/redis:1.0.0-0123456789ab": "sha256:2",
            "registry.example.com/their/s3:1": "sha256:3",
        },
    }


@pytest.mark.parametrize("before", [None, "---\nimages_lock: {a: b}\n", "---\nimages_upstream: {api: campaign/api:1}\nimages_lock: {a: b}\n"])
def test_locking_again_keeps_the_names_that_were_published(tmp_path, before):
    if before:
        (tmp_path / "lock.yml").write_text(before)
    kept = {name: value for name, value in (yaml.safe_load(before or "") or {}).items() if name == "images_upstream"}
    resolved = SimpleNamespace(digests={"registry.example.com/campaign/api:1": "sha256:4"})
    assert lock_text(tmp_path, "lock", __images_resolved=vars(resolved)) == {"images_lock": resolved.digests, **kept}
