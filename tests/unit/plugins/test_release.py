# SPDX-License-Identifier: GPL-3.0-or-later
"""A release is staged whole or not at all, and only what no release names is pruned."""

import json
import os

import pytest
from ansible_collections.campaign.platform.plugins.modules import release as module

ONE, TWO, THREE = "1" * 12, "2" * 12, "3" * 12


class Failed(Exception):
    pass


class Host:
    """Stands in for AnsibleModule: parameters, check mode, and a Compose that accepts or refuses."""

    def __init__(self, **params):
        self.params = params
        self.check_mode = params.pop("check", False)
        self.refusal = params.pop("refusal", "")

    def fail_json(self, msg):
        raise Failed(msg)

    def run_command(self, command, cwd):
        assert "config" in command
        assert cwd == self.params["directory"]
        return (1, "", self.refusal) if self.refusal else (0, "", "")


class Engine:
    """Stands in for the Engine: containers by id, and what it answers when one is to be removed."""

    def __init__(self, status=204, **services):
        self.services, self.status = services, status

    def get(self, path, filters, **_query):
        assert (path, json.loads(filters)["label"][0]) == ("/containers/json", "com.docker.compose.project=p")
        return [{"Id": name, "Labels": {"com.docker.compose.service": service}} for name, service in self.services.items()]

    def request(self, method, path, query):
        assert (method, query["force"]) == ("DELETE", "1")
        if self.status == 204:
            del self.services[path.rpartition("/")[2]]
        return self.status, b"no"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "stack"


def plan_of(root, release, text="services: {}", secret="s3cret", uid=None):
    manifest = {
        "project": "p",
        "services": ["api"],
        "jobs": ["migrate"],
        "images": {"api": "image:1"},
        "compose_files": [f"{root}/releases/{release}/docker-compose.yml"],
        "configs": [f"config/{release}/x.conf"],
        "secrets": [f"secrets/x_{release}"],
    }
    return {
        "project": "p",
        "manifest": manifest,
        "files": [{"name": "docker-compose.yml", "content": text}, {"name": ".env", "content": "A=1\n"}],
        "configs": [{"path": f"config/{release}/x.conf", "content": text}],
        "secrets": [{"path": f"{root}/secrets/x_{release}", "content": secret, "uid": os.getuid() if uid is None else uid, "gid": os.getgid()}],
    }


def stage(root, release, text="services: {}", secret="s3cret", uid=None, **options):
    staged = module.Release(Host(directory=str(root), release=release, plan=plan_of(root, release, text, secret, uid), **options), Engine())
    staged.stage()
    return staged.result


def attempt(root, release, engine=None, **options):
    attempted = module.Release(Host(directory=str(root), release=release, **options), engine or Engine())
    attempted.attempt()
    return attempted.result


def activate(root, release, keep=3, **options):
    activated = module.Release(Host(directory=str(root), release=release, keep=keep, **options), Engine())
    activated.activate()
    return activated.result


# Config files belong to root, which a test that is not root's cannot give them.
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, as a deploy does")


def tree(root):
    return sorted((str(path.relative_to(root)), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")) if root.exists() else []


def test_a_second_staging_changes_nothing(root):
    assert stage(root, ONE)["changed"]
    before = tree(root)
    assert not stage(root, ONE)["changed"]
    assert tree(root) == before


def test_a_check_predicts_and_writes_nothing(root):
    result = stage(root, ONE, check=True)
    assert result["changed"]
    assert result["is_new"]
    assert not root.exists()


def test_modes_and_owners(root):
    stage(root, ONE)
    assert (root / "secrets").stat().st_mode & 0o777 == 0o700
    assert (root / f"secrets/x_{ONE}").stat().st_mode & 0o777 == 0o400
    assert (root / f"config/{ONE}/x.conf").stat().st_mode & 0o777 == 0o444


def test_the_diff_shows_the_release_and_no_secret(root):
    stage(root, ONE, text="services: {old: {}}")
    activate(root, ONE)
    diff = stage(root, TWO, text="services: {new: {}}")["diff"]
    assert any("old" in entry["before"] and "new" in entry["after"] for entry in diff)
    assert "s3cret" not in str(diff)
    assert "a secret of a new generation" in str(diff)


def test_what_compose_refuses_is_not_placed(root):
    with pytest.raises(Failed, match="refuses the rendered files"):
        stage(root, ONE, refusal="no such key")
    assert list((root / "releases").iterdir()) == []


def test_staging_writes_files_and_nothing_else(root):
    engine = Engine(one="migrate")
    staged = module.Release(Host(directory=str(root), release=ONE, plan=plan_of(root, ONE)), engine)
    staged.stage()
    assert engine.services == {"one": "migrate"}
    assert not (root / "attempted").is_symlink()
    assert not (root / "current").is_symlink()


def test_the_manifest_says_what_was_staged(root):
    staged = stage(root, ONE)["manifest"]
    assert staged["path"] == f"{root}/releases/{ONE}/manifest.json"
    written = json.loads((root / f"releases/{ONE}/manifest.json").read_text())
    assert written == {key: value for key, value in staged.items() if key != "path"} | {"release": ONE}
    assert "s3cret" not in str(written)


def test_the_previous_release_s_manifest_comes_along(root):
    assert stage(root, ONE)["previous"] is None
    activate(root, ONE)
    assert stage(root, TWO)["previous"]["compose_files"] == [f"{root}/releases/{ONE}/docker-compose.yml"]


def test_an_owner_that_differs_is_corrected(root):
    stage(root, ONE)
    os.chown(root / f"secrets/x_{ONE}", 4711, 4711)
    assert stage(root, ONE)["changed"]
    assert (root / f"secrets/x_{ONE}").stat().st_uid == os.getuid()
    assert stage(root, ONE, uid=4711)["changed"]
    assert (root / f"secrets/x_{ONE}").stat().st_uid == 4711


def test_files_and_links_are_replaced_in_one_step(root):
    """Who has a file open goes on reading its old bytes, and there is no moment without the link."""
    stage(root, ONE)
    activate(root, ONE)
    with (root / f"releases/{ONE}/.env").open() as held:
        (root / f"secrets/x_{ONE}").chmod(0o600)
        with (root / f"secrets/x_{ONE}").open() as secret:
            (root / f"secrets/x_{ONE}").chmod(0o400)
            stage(root, ONE, secret="another")
            assert secret.read() == "s3cret"
        assert held.read() == "A=1\n"
    stage(root, TWO)
    before, links = os.replace, []

    def replace(source, target):
        if os.path.islink(source):
            links.append((os.path.basename(target), os.path.lexists(target)))
        before(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.os, "replace", replace)
        activate(root, TWO)
    # The older links were there until the moment in which they were replaced.
    assert ("current", True) in links
    assert os.readlink(root / "current") == f"releases/{TWO}"


def test_damage_is_repaired_and_told(root):
    stage(root, ONE)
    (root / f"secrets/x_{ONE}").chmod(0o644)
    (root / f"releases/{ONE}/.env").write_text("A=2\n")
    assert stage(root, ONE)["changed"]
    assert (root / f"secrets/x_{ONE}").stat().st_mode & 0o777 == 0o400
    assert (root / f"releases/{ONE}/.env").read_text() == "A=1\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../x", "{root}/secrets/../../x"])
def test_a_path_outside_is_refused(root, path):
    plan = {"project": "p", "manifest": {}, "files": [], "configs": []}
    plan["secrets"] = [{"path": path.format(root=root), "content": "x", "uid": 0, "gid": 0}]
    with pytest.raises(Failed, match="not a plain path below"):
        module.Release(Host(directory=str(root), release=ONE, plan=plan), Engine()).stage()


@pytest.mark.parametrize("name", ["", "../x", "1", "G" * 12])
def test_a_release_has_an_id(root, name):
    with pytest.raises(Failed, match="not a release id"):
        stage(root, name)


def test_activation_moves_both_links(root):
    stage(root, ONE)
    assert activate(root, ONE)["changed"]
    assert os.readlink(root / "current") == f"releases/{ONE}"
    assert (root / ".env").read_text() == "A=1\n"
    assert not activate(root, ONE)["changed"]


def test_what_was_attempted_and_not_taken_into_use_is_remembered(root):
    """Its jobs may have changed passwords, so the jobs of the release that comes next have to run, be it the current one."""
    stage(root, ONE)
    activate(root, ONE)
    assert not stage(root, ONE)["is_new"]
    stage(root, TWO)
    assert not stage(root, ONE)["is_new"]
    assert attempt(root, TWO)["changed"]
    assert os.readlink(root / "attempted") == f"releases/{TWO}"
    assert not attempt(root, TWO)["changed"]
    assert stage(root, ONE)["is_new"]
    assert activate(root, ONE)["changed"]
    assert not stage(root, ONE)["is_new"]
    assert not activate(root, ONE)["changed"]


@pytest.mark.parametrize(("check", "left"), [(False, ["one"]), (True, ["one", "two"])])
def test_an_attempt_removes_what_jobs_left_and_nothing_else(root, check, left):
    stage(root, ONE)
    engine = Engine(one="api", two="migrate")
    assert attempt(root, ONE, engine=engine, check=check)["changed"]
    assert list(engine.services) == left
    assert (root / "attempted").is_symlink() is not check


def test_a_job_that_cannot_be_removed_is_an_error(root):
    stage(root, ONE)
    attempt(root, ONE, engine=Engine(status=404, one="migrate"))
    with pytest.raises(module.EngineError, match="the job migrate: no"):
        attempt(root, ONE, engine=Engine(status=500, one="migrate"))


def test_a_job_that_is_being_removed_is_waited_for(root, monkeypatch):
    stage(root, ONE)
    engine = Engine(status=409, one="migrate")
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: setattr(engine, "status", 204))
    attempt(root, ONE, engine=engine)
    assert engine.services == {}


def test_what_is_not_staged_cannot_be_current(root):
    with pytest.raises(Failed, match="Stage it first"):
        activate(root, ONE)


def test_pruning_keeps_what_a_release_names(root):
    for age, release in enumerate([ONE, TWO, THREE]):
        stage(root, release)
        activate(root, release, keep=3)
        os.utime(root / f"releases/{release}", (age, age))
    assert sorted(path.name for path in (root / "releases").iterdir()) == [ONE, TWO, THREE]
    stage(root, "4" * 12)
    assert activate(root, "4" * 12, keep=1)["pruned"] == [TWO, ONE]
    # The one before stays to go back to, with what it names.
    assert sorted(path.name for path in (root / "releases").iterdir()) == [THREE, "4" * 12]
    assert sorted(path.name for path in (root / "secrets").iterdir()) == [f"x_{THREE}", f"x_{'4' * 12}"]
    assert sorted(path.name for path in (root / "config").iterdir()) == [THREE, "4" * 12]
