# SPDX-License-Identifier: GPL-3.0-or-later
"""A release's manifest is read whole, also one that 0.2.0 wrote, or it is said what is wrong with it."""

import json

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.manifest import ManifestError, read

ID = "0123456789ab"
OLDER = {"release": ID, "configs": ["config/a/b"], "secrets": ["secrets/c"], "services": ["api"], "images": {"api": "api:1"}}


@pytest.fixture
def release(tmp_path):
    """A release's directory, with a link to it."""
    directory = tmp_path / "releases" / ID
    directory.mkdir(parents=True)
    (tmp_path / "current").symlink_to(f"releases/{ID}")
    return directory


def written(release, manifest) -> dict:
    (release / "manifest.json").write_text(json.dumps(manifest))
    return read(str(release.parent.parent / "current/manifest.json"))


def test_paths_are_those_of_the_release_itself(release):
    found = written(release, {"project": "p", "compose_files": ["docker-compose.yml", "/srv/more.yml"], "env_file": ".env", "jobs": ["migrate"]})
    # The link may name another release by the time that they are used.
    assert found["compose_files"] == [f"{release}/docker-compose.yml", "/srv/more.yml"]
    assert found["env_file"] == f"{release}/.env"
    assert (found["project"], found["jobs"], found["release"]) == ("p", ["migrate"], ID)


def test_what_a_manifest_does_not_say_is_empty(release):
    found = written(release, {"compose_files": []})
    assert found == {
        "release": ID,
        "project": None,
        "compose_files": [],
        "env_file": None,
        "services": [],
        "first_jobs": [],
        "jobs": [],
        "last_jobs": [],
        "foundations": [],
        "restoring_jobs": [],
        "ground": "",
        "images": {},
        "job_images": {},
        "references": [],
        "networks": {},
        "ports": {},
        "start_first": [],
        "routes": {},
        "settings": [],
        "checks": [],
        "metrics": [],
        "loosened": {},
        "configs": [],
        "secrets": [],
        "stable": {},
        "earlier": [],
    }
    found["services"].append("x")
    assert written(release, {"compose_files": []})["services"] == []


@pytest.mark.parametrize("layer", ["dev", "prod"])
def test_a_manifest_of_0_2_0_is_completed_from_what_lies_beside_it(release, layer):
    for name in ("docker-compose.yml", f"docker-compose.{layer}.yml"):
        (release / name).write_text("services: {}\n")
    (release / ".env").write_text('A="COMPOSE_PROJECT_NAME=x"\nCOMPOSE_PROJECT_NAME="shop"\nCOMPOSE_FILE="/x"\n')
    found = written(release, OLDER)
    assert found["compose_files"] == [f"{release}/docker-compose.yml", f"{release}/docker-compose.{layer}.yml"]
    assert (found["env_file"], found["project"]) == (f"{release}/.env", "shop")
    assert (found["services"], found["images"], found["configs"]) == (["api"], {"api": "api:1"}, ["config/a/b"])
    assert (found["jobs"], found["checks"], found["foundations"]) == ([], [], [])


def test_nothing_is_invented_for_a_manifest_of_0_2_0(release):
    found = written(release, OLDER)
    assert (found["compose_files"], found["env_file"], found["project"]) == ([], None, None)


def test_what_lies_beside_a_newer_manifest_does_not_count(release):
    (release / "docker-compose.yml").write_text("")
    (release / ".env").write_text("COMPOSE_PROJECT_NAME=other\n")
    found = written(release, {"compose_files": ["a.yml"]})
    assert (found["compose_files"], found["env_file"], found["project"]) == ([f"{release}/a.yml"], None, None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"There is no release at {path}\. Deploy first\."),
        (b"", r"{path} is not a manifest: .+ Deploy again\."),
        (b"\xff", r"{path} is not a manifest: .+ Deploy again\."),
        (b"[]", r"{path} is not a manifest: it holds no mapping\. Deploy again\."),
    ],
)
def test_what_is_not_a_manifest_is_reported(release, content, told):
    path = release / "manifest.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=told.format(path=path)):
        read(str(path))


def test_a_file_in_the_place_of_a_release_is_not_a_release(tmp_path):
    (tmp_path / "current").write_text("")
    with pytest.raises(ManifestError, match="There is no release at"):
        read(str(tmp_path / "current/manifest.json"))


def test_a_manifest_that_cannot_be_read_is_reported(release):
    (release / "manifest.json").mkdir()
    with pytest.raises(ManifestError, match=r"cannot be read: Is a directory\. Check its owner and its mode\."):
        read(str(release / "manifest.json"))
