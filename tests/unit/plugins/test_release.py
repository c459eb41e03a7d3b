# SPDX-License-Identifier: GPL-3.0-or-later
"""A release is staged whole or not at all, and only what no release names is pruned."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import socket
import subprocess
import time

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.engine import Ended
from ansible_collections.campaign.platform.plugins.modules import release as module

ONE, TWO, THREE = "1" * 12, "2" * 12, "3" * 12


class Failed(Exception):
    pass


class Host:
    """Stands in for AnsibleModule: parameters, check mode, and a Compose that accepts or refuses."""

    def __init__(self, **params):
        self.check_mode = params.pop("check", False)
        self.refusal = params.pop("refusal", "")
        self.asked, self.warnings = [], []
        self.definition = params.pop("definition", {})
        self.params = {
            "index": f"{params['directory']}-index",
            "project": None,
            "compose_version": "2.40.3",
            "verify_depth": None,
            "holder": None,
            "takeover": False,
            "ended_run": None,
            "outcome": "failed",
            "retire": False,
            "idle": False,
            "rerun": True,
            **params,
        }

    def fail_json(self, msg, **_more):
        raise Failed(msg)

    def warn(self, text):
        self.warnings.append(text)

    def run_command(self, command, cwd, pass_fds):
        """Compose reads the files where they are, on disk or not, and knows the services of one of them."""
        assert command[:2] == ["env", "-i"]
        assert (cwd, type(pass_fds)) == ("/", tuple)
        arguments = command[command.index("config") + 1 :]
        self.asked.append(arguments[0])
        if self.refusal:
            return 1, "", self.refusal
        paths = [path for flag, path in itertools.pairwise(command) if flag in ("--file", "--env-file")]
        text = "".join(pathlib.Path(path).read_text(encoding="utf-8") for path in paths)
        if arguments == ["--hash", "*"]:
            return 0, f"api {text.__hash__()}\nmigrate 2\n", ""
        assert arguments == ["--format", "json"]
        return 0, json.dumps({"services": {"api": {"image": "image:1", "command": [text], **self.definition}, "migrate": {"image": "image:job"}}}), ""


LABEL = "com.docker.compose.project"


class Engine:
    """Stands in for the Engine: containers by id, networks by id, volumes by name, and what it answers when a container is to be removed."""

    socket_path = "/run/engine.sock"

    def __init__(self, status=204, volumes=None, **services):
        self.services, self.status = services, status
        self.networks, self.volumes = {"net": "p"}, volumes or {}
        self.ports, self.bound, self.labels, self.mounts, self.done, self.removed = {}, {}, {}, {}, [], []
        self.states, self.created, self.ended, self.lingering = {}, {}, {}, []
        self.image_id = "sha256:1"
        self.declared, self.absent, self.emptied, self.ids, self.pids, self.names = None, (), [], {}, {}, {}

    def get(self, path, filters=None, **_query):
        wanted = json.loads(filters)["label"][0] if filters else None
        assert wanted in (None, f"{LABEL}=p")
        if path == "/networks":
            return [{"Id": name, "Name": name, "Labels": {LABEL: owner}} for name, owner in self.networks.items() if not filters or owner == "p"]
        if path == "/volumes":
            assert filters
            return {"Volumes": [{"Name": name, "CreatedAt": created} for name, created in self.volumes.items()] or None}
        if path.startswith("/images/"):
            name = path.removeprefix("/images/").removesuffix("/json")
            if name in self.absent:
                raise module.EngineError("image", "No such image", 404)
            found = name if name.startswith("sha256:") else self.ids.get(name, "sha256:1")
            return {"Id": found, "Config": {"Volumes": self.declared}, "RepoTags": [tag for tag, means in self.ids.items() if means == found]}
        if path.endswith("/json") and path.count("/") == 3:
            name = path.split("/")[2]
            policy = "no" if self.services[name] == "migrate" else "unless-stopped"
            return {"HostConfig": {"RestartPolicy": {"Name": policy}}, "State": {"Pid": self.pids.get(name, 0)}}
        assert path == "/containers/json"
        return [
            {
                "Id": name,
                "Names": [f"/{self.names.get(name, name)}"],
                "Created": self.created.get(name, 0),
                "State": self.states.get(name, "running"),
                "Status": self.ended.get(name, "Up 2 minutes"),
                "Image": "image:1",
                "ImageID": self.image_id,
                "Mounts": self.mounts.get(name, []),
                "Labels": {"com.docker.compose.service": service, **self.labels.get(name, {})},
                "Ports": [{"PublicPort": port} for port in self.ports.get(name, ())],
                "NetworkSettings": {"Networks": {"x": {"NetworkID": self.bound.get(name, "net")}}},
            }
            for name, service in self.services.items()
        ]

    def execute(self, container, command, environment, seconds):
        assert (environment, seconds > 1) == ({}, True)
        if command == module.routes.LINGERING:
            return Ended(self.lingering.pop(0) if self.lingering else 1, "", "")
        self.done.append(("EXEC", container, command[-1]))
        return Ended(0, "", "")

    def request(self, method, path, query=None):
        if path.endswith("/tag"):
            self.ids[f"{query['repo']}:{query['tag']}"] = path.removeprefix("/images/").removesuffix("/tag")
            return 201, b""
        if path.startswith("/images/"):
            self.removed.append((method, path))
            return (409 if "in-use" in path else 200), b"[]"
        kind, name, *verb = path.strip("/").split("/")
        self.done.append((method, name, *verb))
        if verb == ["rename"]:
            self.names[name] = query["name"]
            return 204, b""
        if method == "POST" and verb in (["stop"], ["unpause"]):
            assert query is None
            return 204, b""
        assert method == "DELETE"
        if kind == "networks":
            del self.networks[name]
            return 204, b""
        assert query["force"] == "1"
        if query["v"] == "1":
            self.emptied.append(name)
        if self.status == 204:
            del self.services[name]
        return self.status, b"no"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "stack"


def config_of(release, text="services: {}"):
    """Return the path of a release's config file, which is named after its content, and that content."""
    content = f"{text}  # {release}"
    return f"config/{hashlib.sha256(content.encode()).hexdigest()[:12]}/x.conf", content


def plan_of(root, release, text="services: {}", secret="s3cret", uid=None, ports=None):
    path, content = config_of(release, text)
    manifest = {
        "project": "p",
        "services": ["api"],
        "jobs": ["migrate"],
        "ground": "g",
        "images": {"api": "image:1"},
        "job_images": {"migrate": "image:job"},
        "restoring_jobs": [],
        "ports": ports or {},
        "compose_files": [f"{root}/releases/{release}/docker-compose.yml"],
        "env_file": f"{root}/releases/{release}/.env",
        "configs": [path],
        "secrets": [f"secrets/x_{release}"],
    }
    return {
        "project": "p",
        "manifest": manifest,
        "files": [{"name": "docker-compose.yml", "content": text}, {"name": ".env", "content": "A=1\n"}],
        "configs": [{"name": "x.conf", "path": path, "content": content}],
        "secrets": [{"path": f"{root}/secrets/x_{release}", "content": secret, "uid": os.getuid() if uid is None else uid, "gid": os.getgid()}],
    }


def stage(root, release, text="services: {}", secret="s3cret", uid=None, engine=None, ports=None, references=(), **options):
    plan = plan_of(root, release, text, secret, uid, ports)
    plan["manifest"] |= {"references": list(references)}
    staged = module.Release(Host(directory=str(root), release=release, plan=plan, **options), engine or Engine())
    staged.stage()
    return staged.result


def as_deployed(root, release):
    """Return the labels that Compose would have given the container of a release."""
    hashes = json.loads((root / "releases" / release / "hashes.json").read_text(encoding="utf-8"))["hashes"]
    return {
        "com.docker.compose.config-hash": hashes["api"],
        "com.docker.compose.image": "sha256:1",
        "com.docker.compose.project.config_files": f"{root}/releases/{release}/docker-compose.yml",
    }


def attempt(root, release, engine=None, note=True, **options):
    attempted = module.Release(Host(directory=str(root), release=release, **options), engine or Engine())
    attempted.attempt(note)
    return attempted.result


def activate(root, release, keep=3, engine=None, **options):
    activated = module.Release(Host(directory=str(root), release=release, keep=keep, **options), engine or Engine())
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
    assert (root / config_of(ONE)[0]).stat().st_mode & 0o777 == 0o444


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
    """A process that has a file open still reads its old bytes, and there is no moment without the link."""
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


def test_damage_is_repaired_and_reported(root):
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
    with pytest.raises(module.EngineError, match="the container of migrate: no"):
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
    assert {f"config/{path.name}/x.conf" for path in (root / "config").iterdir()} == {config_of(THREE)[0], config_of("4" * 12)[0]}


# --- Secrets under names that stay, and their earlier generations


def keeping(root, release, generation, secret="s3cret"):
    """Return a release whose service reads a secret under a name that stays, and whose job gets every generation of one."""
    plan = plan_of(root, release, text=f"services: {{x: {release}}}", secret=secret)
    names = [f"secrets/api_acl_{generation}", f"secrets/finish_key_{generation}"]
    plan["secrets"] = [{"path": f"{root}/{name}", "content": f"{secret} {name}", "uid": 4711, "gid": 4712} for name in names]
    plan["manifest"] |= {
        "secrets": names,
        "references": [],
        "stable": {"secrets/stable/api_acl": names[0]},
        "earlier": [{"job": "finish", "target": "key", "uid": 4711, "gid": 4712}],
        "last_jobs": ["finish"],
    }
    staged = module.Release(Host(directory=str(root), release=release, plan=plan), Engine())
    staged.stage()
    return staged.result


def stands_for(root):
    return os.readlink(root / "secrets/stable/api_acl")


A, B, C, D = ("a" * 12, "b" * 12, "c" * 12, "d" * 12)


def test_a_name_that_stays_stands_for_the_release_that_is_started(root):
    keeping(root, ONE, A)
    # Staging changes nothing that runs.
    assert not (root / "secrets/stable").exists()
    attempt(root, ONE)
    assert stands_for(root) == f"../api_acl_{A}"
    assert (root / "secrets/stable").stat().st_mode & 0o777 == 0o700
    activate(root, ONE)
    keeping(root, TWO, B)
    assert stands_for(root) == f"../api_acl_{A}"
    attempt(root, TWO)
    assert stands_for(root) == f"../api_acl_{B}"
    # On the way back.
    attempt(root, ONE, note=False)
    assert stands_for(root) == f"../api_acl_{A}"
    activate(root, ONE)
    assert not keeping(root, ONE, A)["changed"]
    (root / "secrets/stable/api_acl").unlink()
    assert keeping(root, ONE, A)["changed"]
    assert stands_for(root) == f"../api_acl_{A}"


def test_a_check_points_no_name_elsewhere(root):
    keeping(root, ONE, A)
    attempt(root, ONE)
    activate(root, ONE)
    (root / "secrets/stable/api_acl").unlink()
    plan = json.loads((root / f"releases/{ONE}/manifest.json").read_text())
    staged = module.Release(Host(directory=str(root), release=ONE, plan=plan_of(root, ONE) | {"manifest": plan}, check=True), Engine())
    staged._renew_links(plan)
    assert staged.result["changed"]
    assert not (root / "secrets/stable/api_acl").is_symlink()


def test_a_job_gets_every_generation_that_the_host_has_and_no_other_file(root):
    assert keeping(root, ONE, A)["last_jobs"] == []
    attempt(root, ONE)
    activate(root, ONE)
    (root / f"secrets/finish_key_more_{A}").write_text("of a file whose name begins like it")
    assert keeping(root, TWO, B)["last_jobs"] == ["finish"]
    attempt(root, TWO)
    directory = root / "secrets/earlier/finish/key"
    assert sorted(path.name for path in directory.iterdir()) == [f"finish_key_{A}", f"finish_key_{B}"]
    status = (directory / f"finish_key_{A}").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o400, 4711, 4712)
    assert (directory / f"finish_key_{A}").read_text() == f"s3cret secrets/finish_key_{A}"
    for path, mode in ((directory, 0o500), (directory.parent, 0o700), (directory.parent.parent, 0o700)):
        assert path.stat().st_mode & 0o777 == mode
    assert (directory.stat().st_uid, directory.stat().st_gid) == (4711, 4712)
    assert directory.parent.stat().st_uid == 0


def test_an_earlier_generation_goes_with_its_release_and_its_directory_stays(root):
    for age, (release, generation) in enumerate(((ONE, A), (TWO, B), (THREE, C))):
        keeping(root, release, generation)
        attempt(root, release)
        activate(root, release)
        os.utime(root / f"releases/{release}", (age, age))
    keeping(root, "4" * 12, D)
    attempt(root, "4" * 12)
    assert activate(root, "4" * 12, keep=1)["pruned"] == [TWO, ONE]
    directory = root / "secrets/earlier/finish/key"
    assert sorted(path.name for path in directory.iterdir()) == [f"finish_key_{C}", f"finish_key_{D}"]
    assert stands_for(root) == f"../api_acl_{D}"
    assert sorted(path.name for path in (root / "secrets").iterdir()) == [
        *(f"api_acl_{generation}" for generation in (C, D)),
        "earlier",
        *(f"finish_key_{generation}" for generation in (C, D)),
        "stable",
    ]


# --- What was taken from under a release


@pytest.mark.parametrize(
    ("now", "is_new"),
    [
        ({"p_data": "one"}, False),
        # Removed and created again, or removed and not there yet.
        ({"p_data": "two"}, True),
        ({}, True),
        ({"p_data": "one", "p_other": "two"}, False),
    ],
)
def test_a_volume_that_is_new_since_the_release_was_activated_gets_its_jobs(root, now, is_new):
    stage(root, ONE)
    activate(root, ONE, engine=Engine(volumes={"p_data": "one"}))
    engine = Engine(volumes=now, one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    assert stage(root, ONE, engine=engine)["is_new"] is is_new
    # In check mode there are no other steps that would report it.
    assert stage(root, ONE, engine=engine, check=True)["changed"] is is_new
    # What activates it writes down what there is then.
    activate(root, ONE, engine=Engine(volumes=now))
    assert not stage(root, ONE, engine=Engine(volumes=now))["is_new"]


def test_a_damaged_record_of_the_volumes_is_none(root):
    stage(root, ONE)
    activate(root, ONE)
    (root / "volumes.json").write_text("{")
    assert stage(root, ONE)["is_new"]


def test_a_container_whose_network_was_pruned_is_removed(root):
    stage(root, ONE)
    activate(root, ONE)
    engine = Engine(one="api", two="worker")
    assert not stage(root, ONE, engine=engine)["is_new"]
    engine.bound["one"] = "pruned"
    assert stage(root, ONE, engine=engine)["is_new"]
    attempt(root, ONE, engine=engine)
    assert list(engine.services) == ["two"]
    # A container that was never started has no network yet.
    engine.bound["two"] = ""
    assert module.stale_containers(engine, engine.get("/containers/json")) == []


def test_who_holds_a_port_of_another_service_stops_and_makes_way(root):
    stage(root, ONE, ports={"store": [["127.0.0.1", 8080]], "page": [["127.0.0.1", 8081]]})
    engine = Engine(one="page", two="store", three="api")
    engine.ports = {"one": [8080], "two": [9001], "three": [3000]}
    assert attempt(root, ONE, engine=engine)["changed"]
    assert list(engine.services) == ["two", "three"]
    assert engine.done == [("POST", "one", "stop"), ("DELETE", "one")]


def test_clearing_the_way_notes_nothing(root):
    stage(root, ONE)
    engine = Engine(one="migrate", two="api")
    assert attempt(root, ONE, engine=engine, note=False)["changed"]
    assert not (root / "attempted").is_symlink()
    assert list(engine.services) == ["two"]
    assert not attempt(root, ONE, engine=engine, note=False)["changed"]


def test_plain_compose_works_after_a_first_deploy_that_failed(root):
    stage(root, ONE)
    attempt(root, ONE)
    assert (root / ".env").read_text() == "A=1\n"
    activate(root, ONE)
    assert os.readlink(root / ".env") == "current/.env"
    stage(root, TWO)
    attempt(root, TWO)
    assert os.readlink(root / ".env") == "current/.env"


# --- Docker's client


@pytest.fixture
def called(root, tmp_path, monkeypatch):
    """Call the stack's own client, with a program in the place of Docker's that prints its environment and arguments."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text('#!/bin/sh\nenv\necho "arguments: $*"\n')
    (tmp_path / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def call(**environment):
        done = subprocess.run([root / "client/docker", "compose", "a b"], env=os.environ | environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return call


def test_the_client_takes_nothing_of_its_caller(root, called):
    stage(root, ONE)
    printed = called(LOG_LEVEL="debug", COMPOSE_FILE="x", DOCKER_HOST="tcp://192.0.2.1:2375", DOCKER_CONFIG="/etc/docker", HTTP_PROXY="x", HOME="/srv")
    # A shell that is asked for its environment adds these.
    names = {line.partition("=")[0] for line in printed if "=" in line} - {"PWD", "_", "SHLVL", "OLDPWD"}
    assert names == {"PATH", "DOCKER_CONFIG", "DOCKER_HOST"}
    assert {f"DOCKER_CONFIG={root}/client", "DOCKER_HOST=unix:///run/engine.sock", "arguments: compose a b"} <= set(printed)


def test_the_client_does_nothing_for_a_run_that_has_lost_the_lock(root, called):
    stage(root, ONE, holder=HOLDER)
    assert "arguments: compose a b" in called(CAMPAIGN_RUN=HOLDER["run"])
    # Whoever calls it by hand, or for the stack itself, names no run.
    assert "arguments: compose a b" in called(CAMPAIGN_RUN="")
    for other in ("m-2-2", "m-1-11", "m-1-", ".*"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            called(CAMPAIGN_RUN=other)
        assert (refused.value.stdout, refused.value.stderr) == ("", "This run has lost the lock of the stack, so nothing was done.\n")


def test_the_client_s_configuration_is_empty_but_for_the_places_of_plugins(root, tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "cli-plugins").mkdir(parents=True)
    (own / "config.json").write_text(
        json.dumps({"proxies": {"default": {"httpProxy": "x"}}, "currentContext": "x", "cliPluginsExtraDirs": [str(tmp_path), "/nowhere"]})
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(own))
    stage(root, ONE)
    assert json.loads((root / "client/config.json").read_text()) == {"cliPluginsExtraDirs": [f"{own}/cli-plugins", str(tmp_path)]}
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    assert stage(root, ONE)["changed"]
    assert json.loads((root / "client/config.json").read_text()) == {}


def test_compose_judges_a_release_without_the_caller_s_environment(root, monkeypatch):
    commands = []
    monkeypatch.setattr(Host, "run_command", lambda _self, command, **_options: commands.append(command) or (0, "api 1\n", ""))
    monkeypatch.setenv("DOCKER_CONFIG", "/etc/own")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    stage(root, ONE)
    for command in commands:
        assert command[: command.index("docker")] == [
            "env",
            "-i",
            f"PATH={os.environ['PATH']}",
            "DOCKER_CONFIG=/etc/own",
            "DOCKER_HOST=unix:///run/engine.sock",
        ]


def test_compose_is_asked_once_for_a_release_and_its_version(root):
    plan = plan_of(root, ONE)
    asked = []
    for version in ("2.26.1", "2.26.1", "2.40.3"):
        host = Host(directory=str(root), release=ONE, plan=plan, compose_version=version)
        module.Release(host, Engine()).stage()
        asked.append(host.asked)
    # Other versions make other hashes, which Compose compares with those on the containers.
    assert asked == [["--hash"], [], ["--hash"]]
    assert json.loads((root / "releases" / ONE / "hashes.json").read_text(encoding="utf-8"))["compose"] == "2.40.3"


def test_a_check_of_a_new_release_asks_compose_about_files_that_are_nowhere(root):
    stage(root, ONE)
    activate(root, ONE)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    assert stage(root, ONE, engine=engine, check=True)["plan"] == []
    before = sorted(root.rglob("*"))
    planned = stage(root, TWO, text="services: {}  # two", engine=engine, check=True)["plan"]
    assert planned == [{"service": "api", "action": "recreate", "reasons": ["command"], "forced": False, "beside": False}]
    assert sorted(root.rglob("*")) == before


def test_a_container_that_holds_a_file_changed_by_hand_is_replaced(root):
    stage(root, ONE)
    activate(root, ONE)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    path = root / "secrets" / f"x_{ONE}"
    engine.mounts["one"] = [{"Source": str(path)}, {"Source": "/elsewhere"}]
    path.chmod(0o600)
    path.write_text("another")
    expected = [{"service": "api", "action": "recreate", "reasons": [f"{path} was changed or removed by hand"], "forced": True, "beside": False}]
    assert stage(root, ONE, engine=engine, check=True)["plan"] == expected
    assert stage(root, ONE, engine=engine)["plan"] == expected
    assert stage(root, ONE, engine=engine)["plan"] == []


def test_a_container_that_still_holds_a_file_that_was_changed_by_hand_is_replaced_later(root, tmp_path):
    """The run that put the file right was cut off before it replaced the container."""
    stage(root, ONE)
    activate(root, ONE)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    path, inside = root / "secrets" / f"x_{ONE}", tmp_path / "inside"
    engine.mounts["one"], engine.pids["one"] = [{"Source": str(path), "Destination": str(inside)}], os.getpid()
    inside.write_text("another")
    expected = [{"service": "api", "action": "recreate", "reasons": [f"{path} was changed or removed by hand"], "forced": True, "beside": False}]
    assert [stage(root, ONE, engine=engine)["plan"] for _run in range(2)] == [expected, expected]
    # Its files are older than it is, or it has started again since.
    engine.created["one"] = time.time() + 1
    assert stage(root, ONE, engine=engine)["plan"] == []
    engine.created.clear()
    inside.write_text("s3cret")
    assert stage(root, ONE, engine=engine)["plan"] == []


@pytest.mark.parametrize("check", [True, False])
def test_a_container_gets_its_own_name_that_a_killed_run_left_under_another_one(root, check):
    stage(root, ONE)
    activate(root, ONE)
    engine = Engine(one="api", two="worker", three="worker")
    engine.names = {"one": f"{'a' * 12}_p-api-1", "two": f"{'b' * 12}_p-worker-1", "three": "p-worker-1"}
    engine.labels = dict.fromkeys(engine.services, as_deployed(root, ONE))
    assert stage(root, ONE, engine=engine, check=check)["changed"] is True
    # The name of the second one is taken, so it is about to go.
    assert engine.done == ([] if check else [("POST", "one", "rename")])
    engine.services.pop("two")
    engine.services.pop("three")
    assert stage(root, ONE, engine=engine)["changed"] is check
    assert (engine.names["one"], stage(root, ONE, engine=engine)["changed"]) == ("p-api-1", False)


NEWER = "sha256:2"


def lend(root, engine, tags, **options):
    lent = module.Release(Host(directory=str(root), release=ONE, tags=tags, **options), engine)
    lent.lend()
    return lent.result["changed"]


def test_a_name_that_means_another_image_is_a_release_to_start_with_its_jobs(root):
    engine = Engine(one="api")
    stage(root, ONE, engine=engine, holder=HOLDER)
    activate(root, ONE, engine=engine, holder=HOLDER)
    note = json.loads((root / "releases" / ONE / module.image_names.DEPLOYED).read_text(encoding="utf-8"))
    assert (note["images"], note["result"], note["user"]) == ({"image:1": "sha256:1", "image:job": "sha256:1"}, "succeeded", HOLDER["user"])
    engine.labels["one"] = as_deployed(root, ONE)
    staged = stage(root, ONE, engine=engine)
    assert (staged["is_new"], staged["moved"]) == (False, {})
    engine.ids["image:1"] = NEWER
    staged = stage(root, ONE, engine=engine)
    assert (staged["is_new"], staged["jobs"], staged["moved"]) == (True, ["migrate"], {"image:1": "sha256:1"})
    # The image of before is gone, or somebody has started the newer one by hand: there is nothing to go back to, and the jobs have to run all the same.
    engine.absent = ("sha256:1",)
    assert [stage(root, ONE, engine=engine)[key] for key in ("is_new", "moved")] == [True, {}]
    engine.absent = ()
    engine.labels["one"] |= {"com.docker.compose.image": NEWER}
    engine.image_id = NEWER
    assert [stage(root, ONE, engine=engine)[key] for key in ("is_new", "moved")] == [True, {}]


def test_a_release_of_before_is_taken_into_use_once_more(root):
    """Which writes down what it runs with."""
    engine = Engine(one="api")
    stage(root, ONE, engine=engine)
    activate(root, ONE, engine=engine)
    engine.labels["one"] = as_deployed(root, ONE)
    note = root / "releases" / ONE / module.image_names.DEPLOYED
    note.unlink()
    assert stage(root, ONE, engine=engine, verify_depth="basic")["is_verified"] is False
    assert (activate(root, ONE, engine=engine, idle=True)["changed"], note.exists()) == (True, True)


@pytest.mark.parametrize("end", ["activate", "end", "stage", "choose"])
def test_a_name_that_is_lent_means_afterwards_what_it_meant_before(root, end):
    engine = Engine()
    for release in (TWO, ONE):
        stage(root, release, engine=engine, holder=HOLDER)
        activate(root, release, engine=engine, holder=HOLDER)
    stage(root, ONE, engine=engine, holder=HOLDER)
    engine.ids["image:1"] = NEWER
    assert (lend(root, engine, {"image:1": "sha256:1"}, check=True), engine.ids["image:1"]) == (False, NEWER)
    assert (lend(root, engine, {"image:1": "sha256:1"}), engine.ids["image:1"]) == (True, "sha256:1")
    assert lend(root, engine, {"image:1": "sha256:1"}) is False
    # Again, to another one: what it meant in the beginning counts.
    assert lend(root, engine, {"image:1": "sha256:3"}) is True
    if end == "activate":
        activate(root, ONE, engine=engine, holder=HOLDER)
    elif end == "choose":
        choose(root, TWO, engine=engine, holder=HOLDER)
    else:
        host = Host(directory=str(root), release=ONE, plan=plan_of(root, ONE), holder=HOLDER)
        host.params["plan"]["manifest"] |= {"references": []}
        getattr(module.Release(host, engine), end)()
    assert engine.ids["image:1"] == NEWER
    assert not (root / module.image_names.LENT).exists()


def test_a_name_that_somebody_took_meanwhile_stays_theirs(root):
    engine = Engine()
    stage(root, ONE, engine=engine)
    engine.ids["image:1"] = NEWER
    lend(root, engine, {"image:1": "sha256:1"})
    engine.ids["image:1"] = "sha256:4"
    stage(root, ONE, engine=engine)
    assert engine.ids["image:1"] == "sha256:4"


def test_going_back_to_a_release_is_going_back_to_its_images(root):
    engine = Engine(one="api")
    for release, means in ((ONE, "sha256:1"), (TWO, NEWER)):
        engine.ids["image:1"] = means
        stage(root, release, engine=engine, holder=HOLDER)
        activate(root, release, engine=engine, holder=HOLDER)
    engine.labels["one"] = {**as_deployed(root, ONE), "com.docker.compose.image": NEWER}
    chosen = choose(root, ONE, engine=engine)
    # Its definition is the same, and what runs is not what it ran with. Where going back fails the other one has its own again.
    assert (chosen["tags"], chosen["moved"]) == ({"image:1": "sha256:1"}, {"image:1": NEWER})
    assert chosen["plan"][0]["reasons"] == ["image image:1 has other content: 2 -> 1"]
    # An image that is gone is no reason to stay with what does not work.
    engine.absent = ("sha256:1",)
    host = Host(directory=str(root), release=ONE)
    chosen = module.Release(host, engine)
    chosen.choose()
    assert (chosen.result["tags"], chosen.result["moved"]) == ({}, {})
    assert "The image that 111111111111 ran with as image:1 is not on the host any more" in host.warnings[0]


def test_going_back_to_another_image_runs_the_jobs_of_that_image(root):
    """All else that jobs work on is the same, and those of the release in use have ended well."""
    engine = Engine(api="api", job="migrate")
    for release, means in ((ONE, "sha256:1"), (TWO, NEWER)):
        engine.ids["image:1"] = means
        plan = plan_of(root, release)
        plan["manifest"] |= {"references": ["image:1"], "start_first": ["api"]}
        module.Release(Host(directory=str(root), release=release, plan=plan, holder=HOLDER), engine).stage()
        activate(root, release, engine=engine, holder=HOLDER)
    image = {"com.docker.compose.image": NEWER}
    engine.labels = {"api": {**as_deployed(root, TWO), **image}, "job": {"com.docker.compose.config-hash": "2", **image}}
    engine.states, engine.ended = {"job": "exited"}, {"job": "Exited (0) 2 minutes ago"}
    chosen = choose(root, ONE, engine=engine)
    assert (chosen["beside"], chosen["others"], chosen["jobs"]) == (["api"], [], ["migrate"])


@pytest.mark.parametrize(("tags", "removed"), [({}, [("DELETE", "/images/sha256:1")]), ({"mine:1": "sha256:1"}, [])])
def test_an_image_that_lost_its_name_goes_with_the_release_that_ran_with_it(root, tags, removed):
    engine = Engine()
    engine.ids = {"image:1": "sha256:1", "image:job": "sha256:9", **tags}
    stage(root, ONE, references=["image:1"], engine=engine)
    activate(root, ONE, engine=engine)
    engine.ids["image:1"] = NEWER
    stage(root, ONE, references=["image:1"], engine=engine)
    activate(root, ONE, engine=engine)
    # Not what somebody else has given a name.
    assert engine.removed == removed


def test_an_image_that_a_kept_release_ran_with_stays(root):
    engine = Engine()
    engine.ids["image:job"] = "sha256:9"
    for release, means in ((ONE, "sha256:1"), (TWO, NEWER)):
        engine.ids["image:1"] = means
        stage(root, release, references=["image:1"], engine=engine)
        activate(root, release, engine=engine, keep=1)
    assert engine.removed == []
    engine.ids["image:1"] = "sha256:3"
    stage(root, THREE, references=["image:1"], engine=engine)
    assert activate(root, THREE, engine=engine, keep=1)["pruned"] == [ONE]
    assert engine.removed == [("DELETE", "/images/sha256:1")]


@pytest.mark.parametrize(("state", "words"), [("staged", "No service was changed"), ("switched", "step `switched`, which may have changed containers")])
def test_an_error_says_whether_something_was_changed(state, words):
    refused, absent = module.EngineError("stopping", "busy", 500), module.EngineError("stopping", "no such file")
    for error in (refused, absent, OSError(28, "No space left on device", "/x"), module.manifests.ManifestError("no manifest")):
        assert words in module.failure(error, state, "/opt/campaign")
    assert "Is it running" in module.failure(absent, state, "/opt/campaign")
    # One that answers runs.
    assert "Is it running" not in module.failure(refused, state, "/opt/campaign")


@pytest.mark.parametrize("own", [True, False])
def test_a_port_that_something_else_has_taken_is_no_port_to_go_back_to(root, own):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for release, ports in ((ONE, {"api": [["127.0.0.1", port]]}), (TWO, {})):
            stage(root, release, ports=ports)
            activate(root, release)
        engine = Engine(one="api")
        engine.ports["one"] = [port] if own else []
        with contextlib.nullcontext() if own else pytest.raises(Failed, match=f"something else listens on port {port} of 127.0.0.1"):
            assert choose(root, ONE, engine=engine)["release"] == ONE


def test_a_check_of_what_runs_leaves_out_what_writes(root, monkeypatch):
    asked = []
    monkeypatch.setattr(module.verification.Stack, "verify", lambda stack: asked.append(len(stack.params["checks"])) or (1, []))
    plan = plan_of(root, ONE)
    plan["manifest"] |= {"references": [], "checks": [{"service": "api", "name": "n", "kind": "tcp", "port": 1}]}
    engine = Engine(one="api")
    stage(root, ONE)
    activate(root, ONE)
    engine.labels["one"] = as_deployed(root, ONE)
    for check in (False, True):
        staged = module.Release(Host(directory=str(root), release=ONE, plan=plan, check=check, verify_depth="full"), engine)
        staged.stage()
    assert asked == [1, 0]


def test_a_config_file_that_was_changed_by_hand_is_not_gone_back_to(root):
    for release in (ONE, TWO):
        stage(root, release)
        activate(root, release)
    path = root / config_of(ONE)[0]
    path.chmod(0o644)
    path.write_text("mine")
    with pytest.raises(Failed, match=rf"the file {config_of(ONE)[0]} was changed by hand"):
        choose(root, ONE)


def test_images_that_only_removed_releases_name_are_removed(root, tmp_path):
    engine = Engine()
    other = tmp_path / "other"
    images = {ONE: ["one:1", "shared:1", "elsewhere:1", "in-use:1"], TWO: ["two:1"], THREE: ["three:1", "shared:1"]}
    stage(other, "9" * 12, references=["elsewhere:1"])
    (other / "releases" / ("9" * 12) / "manifest.json").write_text(json.dumps({"project": "q", "references": ["elsewhere:1"]}))
    (tmp_path / "stack-index").mkdir()
    (tmp_path / "stack-index" / "q").symlink_to(other)
    for release, references in images.items():
        stage(root, release, references=references)
        done = activate(root, release, engine=engine, keep=1)
    assert done["pruned"] == [ONE]
    # The Engine refuses what somebody's container was made from; that of a kept release and of another stack is not asked for.
    assert engine.removed == [("DELETE", "/images/in-use:1"), ("DELETE", "/images/one:1")]
    assert done["pruned_images"] == ["one:1"]
    # Both name it, whichever goes first.
    assert "image:1" not in str(engine.removed)


def test_no_image_is_removed_beside_a_release_that_nobody_can_read(root):
    engine = Engine()
    for release in (ONE, TWO):
        stage(root, release, references=[f"{release}:1"])
        activate(root, release, engine=engine, keep=1)
    (root / "releases" / ".0123-new").mkdir()
    stage(root, THREE)
    assert activate(root, THREE, engine=engine, keep=1)["pruned_images"] == []
    assert engine.removed == []


@pytest.mark.parametrize("check", [False, True])
def test_a_paused_container_goes_on_before_anything_is_started(root, check):
    stage(root, ONE)
    engine = Engine(one="api", two="api")
    engine.states["one"] = "paused"
    assert attempt(root, ONE, engine=engine, note=False, check=check)["changed"] is True
    assert engine.done == ([] if check else [("POST", "one", "unpause")])
    engine.states.clear()
    assert attempt(root, ONE, engine=engine, note=False)["changed"] is False


def test_a_lock_that_cannot_be_taken_is_said_to_be_in_the_way(root):
    (root / "lock.json").mkdir(parents=True)
    with pytest.raises(Failed, match=r"lock\.json cannot be taken: Is a directory\. Nothing was changed\."):
        stage(root, ONE, holder=HOLDER)


def test_a_check_of_going_back_asks_compose_itself(root):
    for release in (ONE, TWO):
        stage(root, release)
        activate(root, release)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, TWO)
    planned = choose(root, engine=engine, check=True, compose_version=None)["plan"]
    assert [(change["service"], change["action"], change["reasons"]) for change in planned] == []


HOLDER = {"user": "ada", "controller": "desk", "machine": "m", "pid": 1, "run": "m-1-1", "commit": None}


def choose(root, release=None, engine=None, **options):
    chosen = module.Release(Host(directory=str(root), release=release, plan=None, **options), engine or Engine())
    chosen.choose()
    return chosen.result


ROUTES = {"frontend": {"api": 3000}}
SERVICES = ["api", "frontend"]


def routed(root, release):
    plan = plan_of(root, release)
    plan["manifest"].update(routes=ROUTES, services=SERVICES, images={"api": "image:1", "frontend": "image:1"}, start_first=["api"])
    return plan


def two_of_the_api():
    """An old and a new container of the api, behind a proxy."""
    engine = Engine(old="api", new="api", proxy="frontend")
    engine.created = {"old": 1, "new": 2}
    return engine


def switch(root, release, engine, **options):
    host = Host(directory=str(root), release=release, plan=None, **options)
    staged = module.Release(host, engine)
    staged.switch()
    return staged.result


@pytest.fixture
def route(root, monkeypatch):
    monkeypatch.setattr(module.routes, "DRAIN_SECONDS", 0)
    host = Host(directory=str(root), release=ONE, plan=routed(root, ONE))
    module.Release(host, Engine()).stage()
    return root / "routes/frontend/api.conf"


def test_a_release_begins_with_the_services_own_names(root, route):
    assert route.read_text() == module.routes.text("api", 3000)
    route.write_text(module.routes.text("api", 3000, "new"))
    module.Release(Host(directory=str(root), release=TWO, plan=routed(root, TWO)), Engine()).stage()
    assert module.routes.container_in(route.read_bytes()) == "new"


def test_a_check_writes_no_route(root):
    module.Release(Host(directory=str(root), release=ONE, plan=routed(root, ONE), check=True), Engine()).stage()
    assert not root.exists()


@pytest.mark.parametrize("check", [False, True])
def test_requests_go_to_the_new_container_and_the_old_one_stays(root, route, check):
    engine = two_of_the_api()
    assert switch(root, ONE, engine, check=check)["changed"]
    assert module.routes.container_in(route.read_bytes()) == (None if check else "new")
    assert engine.done == ([] if check else [("EXEC", "proxy", "kill -HUP 1")])
    if not check:
        assert not switch(root, ONE, engine)["changed"]
        assert engine.done == [("EXEC", "proxy", "kill -HUP 1")]


def test_who_goes_back_is_sent_to_the_container_of_that_release(root, route):
    engine = two_of_the_api()
    hashes = json.loads((root / f"releases/{ONE}/hashes.json").read_text())["hashes"]
    engine.labels = {"old": {"com.docker.compose.config-hash": hashes["api"], "com.docker.compose.image": "sha256:1"}}
    switch(root, ONE, engine)
    assert module.routes.container_in(route.read_bytes()) == "old"


def test_what_was_replaced_goes_before_compose_is_called_for_others(root, route):
    engine = two_of_the_api()
    switch(root, ONE, engine, retire=True)
    assert module.routes.container_in(route.read_bytes()) == "new"
    assert set(engine.services) == {"new", "proxy"}


def test_the_way_back_removes_what_failed(root, route):
    engine = two_of_the_api()
    activate(root, ONE, engine=Engine(old="api", proxy="frontend"))
    hashes = json.loads((root / f"releases/{ONE}/hashes.json").read_text())["hashes"]
    engine.labels = {"old": {"com.docker.compose.config-hash": hashes["api"], "com.docker.compose.image": "sha256:1"}}
    switch(root, ONE, engine)
    assert module.routes.container_in(route.read_bytes()) == "old"
    assert set(engine.services) == {"old", "proxy"}


@pytest.mark.parametrize(
    ("serving", "states", "left"),
    [
        ("new", {}, "new"),
        ("old", {}, "old"),
        # Nothing says which, so the one that was there first serves; what does not run does not.
        (None, {}, "old"),
        (None, {"old": "exited"}, "new"),
        ("old", {"old": "exited"}, "new"),
    ],
)
def test_what_was_interrupted_leaves_the_container_that_serves(root, route, serving, states, left):
    route.write_text(module.routes.text("api", 3000, serving))
    engine = two_of_the_api()
    engine.states = states
    attempt(root, ONE, engine)
    assert set(engine.services) == {left, "proxy"}


def test_one_container_needs_no_route(root, route):
    engine = Engine(only="api", proxy="frontend")
    assert not switch(root, ONE, engine)["changed"]
    assert engine.done == []
    assert module.routes.container_in(route.read_bytes()) is None


@pytest.mark.usefixtures("route")
def test_it_is_waited_until_nobody_is_sent_to_the_old_container(root, monkeypatch):
    waited = []
    monkeypatch.setattr(module.routes, "DRAIN_SECONDS", 3)
    monkeypatch.setattr(module.time, "sleep", waited.append)
    switch(root, ONE, two_of_the_api())
    assert waited == [3]


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("retire", [True, False])
def test_an_upload_that_the_proxy_still_takes_has_its_container_until_then(root, monkeypatch, retire):
    engine, waited = two_of_the_api(), []
    engine.lingering = [0, 0, 1]

    def sleep(seconds):
        waited.append(seconds)
        assert "old" in engine.services

    monkeypatch.setattr(module.routes.time, "sleep", sleep)
    switch(root, ONE, engine, retire=retire)
    assert waited == [0, module.routes.INTERVAL, module.routes.INTERVAL]
    assert ("old" in engine.services) is not retire


def test_what_was_replaced_goes_when_the_release_is_taken_into_use(root, route):
    engine = two_of_the_api()
    switch(root, ONE, engine)
    engine.done.clear()
    activate(root, ONE, engine=engine)
    assert engine.done == [("POST", "old", "stop"), ("DELETE", "old")]
    assert set(engine.services) == {"new", "proxy"}
    assert module.routes.container_in(route.read_bytes()) == "new"


@pytest.mark.parametrize("content", [module.routes.text("api", 3000), module.routes.text("api", 3000, "gone"), module.routes.text("api", 3000, "only")])
@pytest.mark.parametrize("when", [attempt, activate])
def test_the_container_is_named_before_there_is_a_second_one(root, route, content, when):
    route.write_text(content)
    engine = Engine(only="api", proxy="frontend")
    when(root, ONE, engine=engine)
    assert route.read_text() == module.routes.text("api", 3000, "only")
    assert engine.done == ([] if "only" in content else [("EXEC", "proxy", "kill -HUP 1")])
    assert set(engine.services) == {"only", "proxy"}


def test_a_service_without_a_container_has_no_route_of_its_own(root, route):
    activate(root, ONE, engine=Engine(proxy="frontend"))
    attempt(root, ONE, engine=Engine(proxy="frontend"))
    assert route.read_text() == module.routes.text("api", 3000)


@pytest.fixture
def three(root):
    """Three releases that were in use one after the other, and one that was not."""
    for release in (ONE, TWO, THREE):
        stage(root, release, holder=HOLDER)
        activated = module.Release(Host(directory=str(root), release=release, keep=9, holder=HOLDER), Engine())
        activated.activate()
    stage(root, "4" * 12)


@pytest.mark.usefixtures("three")
def test_without_a_name_it_goes_back_to_the_release_before(root):
    chosen = choose(root)
    assert (chosen["release"], chosen["current"], chosen["is_new"], chosen["jobs"]) == (TWO, THREE, True, ["migrate"])
    assert chosen["manifest"]["path"] == f"{root}/releases/{TWO}/manifest.json"
    assert [change["action"] for change in chosen["plan"]] == ["create"]
    assert choose(root, ONE)["release"] == ONE


def test_releases_of_before_there_was_a_history_can_be_gone_back_to(root):
    for age, release in ((30, ONE), (20, TWO), (10, THREE)):
        stage(root, release)
        activate(root, release)
        os.utime(root / "releases" / release, (time.time() - age,) * 2)
    assert choose(root)["release"] == TWO


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (THREE, f"The release {THREE} is the one in use. Nothing was changed. Those that were in use and are kept are: {TWO}, {ONE}."),
        (THREE, "/client/resume` on the host, as root, starts it again where a deploy failed"),
        ("4" * 12, "There is no release 444444444444 to go back to. Nothing was changed."),
        ("../x", "There is no release ../x to go back to."),
    ],
)
@pytest.mark.usefixtures("three")
def test_what_cannot_be_gone_back_to_is_refused(root, release, words):
    with pytest.raises(Failed) as refused:
        choose(root, release, holder=HOLDER)
    assert words in str(refused.value)


@pytest.mark.usefixtures("three")
def test_a_release_that_cannot_read_what_is_stored_is_not_gone_back_to(root):
    (root / "releases" / TWO / module.replaced.UNUSABLE).write_text("17\nIt has PostgreSQL 17.\n")
    for release in (None, TWO):
        with pytest.raises(Failed, match=f"The release {TWO} cannot be gone back to. Nothing was changed. It has PostgreSQL 17."):
            choose(root, release)
    assert choose(root, ONE)["release"] == ONE


@pytest.mark.usefixtures("three")
def test_a_release_that_old_data_belongs_to_is_kept_as_long_as_that(root):
    records = root / module.replaced.RECORDS
    records.mkdir(parents=True)
    record = records / "1.json"
    record.write_text(json.dumps({"volumes": [{"new": "v"}], "upgrade": {"release": ONE, "at": "2026"}}))
    # What a restore replaced belongs to no release.
    (records / "2.json").write_text(json.dumps({"volumes": [{"new": "v"}]}))
    assert activate(root, "4" * 12, keep=0)["pruned"] == [TWO]
    record.unlink()
    assert ONE in activate(root, "4" * 12, keep=0)["pruned"]


def test_a_first_release_has_none_before_it(root):
    stage(root, ONE)
    activate(root, ONE)
    with pytest.raises(Failed, match=r"There is no release to go back to\. Nothing was changed\. Those that were in use and are kept are: none"):
        choose(root)


@pytest.mark.usefixtures("three")
def test_a_release_that_lacks_something_is_refused_before_anything_is_touched(root):
    class Without(Engine):
        def get(self, path, **query):
            if path.startswith("/images/"):
                raise module.EngineError(path, "no such image", 404)
            return super().get(path, **query)

    (root / "secrets" / f"x_{TWO}").unlink()
    with pytest.raises(Failed, match=f"cannot run again.*\n- the file secrets/x_{TWO} is gone\n- the image image:1 is not on the host"):
        choose(root, TWO, engine=Without())


def held(root):
    return bool((root / "lock.json").read_text(encoding="utf-8"))


def test_the_lock_is_held_from_staging_to_the_end(root):
    other = {**HOLDER, "run": "m-2-2", "user": "bob"}
    stage(root, ONE, holder=HOLDER)
    assert held(root)
    with pytest.raises(Failed, match="Another run works on this stack: ada@desk, process 1"):
        stage(root, TWO, holder=other)
    assert not (root / "releases" / TWO).exists()
    # A check changes nothing, so it needs no lock.
    stage(root, TWO, holder=other, check=True)
    with pytest.raises(Failed, match=r"lost the lock .* ada@desk, process 1, works on it since then"):
        attempt(root, ONE, holder=other)
    attempt(root, ONE, holder=HOLDER)
    assert json.loads((root / "lock.json").read_text(encoding="utf-8"))["release"] == ONE
    ended = module.Release(Host(directory=str(root), release=ONE, holder=HOLDER, outcome="rolled_back"), Engine())
    ended.end()
    assert not held(root)
    events = [json.loads(line) for line in (root / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["release"]) for line in events] == [("started", ONE), ("rolled_back", ONE)]


def test_the_lock_is_given_back_where_there_was_nothing_to_do(root, monkeypatch):
    monkeypatch.setattr(module.verification.Stack, "verify", lambda _stack: (1, []))
    stage(root, ONE, holder=HOLDER)
    module.Release(Host(directory=str(root), release=ONE, keep=9, holder=HOLDER), Engine()).activate()
    assert not held(root)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    assert stage(root, ONE, engine=engine, holder=HOLDER, verify_depth="basic")["is_verified"]
    assert not held(root)


def test_the_lock_is_given_back_where_staging_fails(run_module, root, engine):
    plan = plan_of(root, "no id")
    answer = run_module(module, plan={**plan, "release": "no id", "directory": str(root)}, holder=HOLDER, socket=engine.path)
    assert "is not a release id" in answer["msg"]
    # It was asked for after that.
    assert not (root / "lock.json").exists()
    plan = {**plan_of(root, ONE), "release": ONE, "directory": str(root)}
    plan["files"][0]["content"] = "services: ["
    answer = run_module(module, plan=plan, holder=HOLDER, socket=engine.path)
    assert "Docker Compose refuses the rendered files" in answer["msg"]
    assert not held(root)


@pytest.mark.parametrize(
    ("current", "volumes", "jobs"), [(ONE, {"p_data": "1"}, ["logins"]), (ONE, {"p_data": "2"}, ["migrate", "logins"]), (TWO, {}, ["migrate", "logins"])]
)
def test_migrations_run_once_for_a_release(root, current, volumes, jobs):
    # What runs can be deployed again, whatever a newer release that failed made of the schema.
    for release in (current,):
        plan = plan_of(root, release)
        plan["manifest"] |= {"jobs": ["migrate", "logins"], "restoring_jobs": ["logins"]}
        module.Release(Host(directory=str(root), release=release, plan=plan), Engine()).stage()
        activate(root, release, engine=Engine(volumes={"p_data": "1"}))
    plan = plan_of(root, ONE)
    plan["manifest"] |= {"jobs": ["migrate", "logins"], "restoring_jobs": ["logins"]}
    staged = module.Release(Host(directory=str(root), release=ONE, plan=plan), Engine(volumes=volumes))
    staged.stage()
    assert staged.result["jobs"] == jobs


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def done(root):
    """A release is in use whose job ended well; the next one replaces the api beside it. The stand-in's hash of the job stays the same."""
    stage(root, ONE, references=["image:1"])
    activate(root, ONE)
    engine = Engine(api="api", job="migrate")
    engine.labels = {"api": as_deployed(root, ONE), "job": {"com.docker.compose.config-hash": "2"}}
    engine.states, engine.ended = {"job": "exited"}, {"job": "Exited (0) 2 minutes ago"}

    def again(**changed):
        plan = plan_of(root, TWO, text="services: {new: }")
        plan["manifest"] |= {"references": ["image:1"], "start_first": ["api"], "first_jobs": ["migrate"], "ground": "g", **changed}
        staged = module.Release(Host(directory=str(root), release=TWO, plan=plan), engine)
        staged.stage()
        assert staged.result["is_new"]
        return staged.result["first_jobs"], staged.result["jobs"]

    return engine, again


def test_jobs_that_are_done_do_not_run_again_for_what_is_replaced_beside_what_serves(done):
    _engine, again = done
    assert again() == ([], [])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda engine, _root: engine.ended.update(job="Exited (1) 2 minutes ago"),
        lambda engine, _root: engine.ended.update(job="Up 2 seconds"),
        lambda engine, _root: engine.services.pop("job"),
        lambda engine, _root: engine.labels["job"].update({"com.docker.compose.config-hash": "3"}),
        lambda engine, _root: engine.labels["job"].update({"com.docker.compose.image": "sha256:0"}),
        lambda engine, _root: engine.bound.update(job="gone"),
        lambda engine, _root: engine.services.pop("api"),
        lambda _engine, root: (root / "attempted").symlink_to("releases/x"),
        lambda _engine, root: (root / "current").unlink(),
        lambda _engine, root: (root / "current/hashes.json").write_text('{"compose": "2", "hashes": {"migrate": "1"}}'),
        lambda _engine, root: (root / "current/hashes.json").unlink(),
        lambda _engine, root: (root / "volumes.json").write_text('{"p_data": "1"}'),
        # Of a release of before there was such a digest, or one with an external server.
        lambda _engine, root: change(root / "current/manifest.json", ground=""),
    ],
)
def test_where_anything_speaks_against_it_the_jobs_run(done, root, spoil):
    engine, again = done
    spoil(engine, root)
    assert again() == (["migrate"], ["migrate"])


@pytest.mark.parametrize(
    "changed",
    [
        {"stable": {"secrets/stable/x": "secrets/x_2"}},
        {"secrets": ["secrets/migrate_url_2"]},
        {"start_first": []},
        {"references": []},
        {"ground": "h"},
        {"ground": ""},
    ],
)
def test_where_the_release_asks_for_something_else_the_jobs_run(done, changed):
    _engine, again = done
    assert again(**changed) == (["migrate"], ["migrate"])


def test_where_the_release_runs_already_nobody_looks_for_what_its_jobs_did(done, root, monkeypatch):
    def never(*_arguments):
        raise AssertionError

    engine, _again = done
    monkeypatch.setattr(module.Release, "_has_done_jobs", never)
    assert stage(root, ONE, references=["image:1"], engine=engine)["is_new"] is False


def test_with_an_external_server_the_jobs_run_each_time(done, root):
    # Neither release says what its jobs work on.
    change(root / "current/manifest.json", ground="")
    _engine, again = done
    assert again(ground="") == (["migrate"], ["migrate"])


def test_jobs_that_do_not_run_again_keep_their_containers(root):
    stage(root, ONE)
    engine = Engine(job="migrate")
    attempt(root, ONE, engine, rerun=False)
    assert engine.services == {"job": "migrate"}


@pytest.mark.parametrize("ill", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_release_that_needs_nothing_done_is_verified_in_the_same_step(root, monkeypatch, ill, stopped):
    asked = []

    def verify(stack):
        asked.append({name: stack.params[name] for name in ("project", "services", "images", "depth", "timeout")})
        stack.answers.append({"query": "status"})
        return 1, [{"service": "api"}] if ill else []

    monkeypatch.setattr(module.verification.Stack, "verify", verify)
    engine = Engine(one="api")
    assert stage(root, ONE, engine=engine, verify_depth="full")["is_verified"] is False
    activate(root, ONE)
    engine.labels["one"] = {} if stopped else as_deployed(root, ONE)
    assert stage(root, ONE, engine=engine)["is_verified"] is False
    assert asked == []
    staged = stage(root, ONE, engine=engine, verify_depth="full")
    assert staged["is_verified"] is not (ill or stopped)
    # For the action to judge.
    assert staged.get("answers") == (None if stopped else [{"query": "status"}])
    assert asked == ([] if stopped else [{"project": "p", "services": ["api"], "images": {"api": "image:1"}, "depth": "full", "timeout": 0}])


@pytest.mark.parametrize(("version", "reason"), [(None, "there is no Docker Compose yet to be asked"), ("2.26.1", "the Docker Engine does not run")])
def test_on_a_host_that_is_not_prepared_everything_would_be_created(root, version, reason):
    class Silent(Engine):
        def get(self, path, **query):
            raise module.EngineError(f"{self.socket_path}: {path} {query}", "No such file or directory")

    assert stage(root, ONE, engine=Silent(), check=True, compose_version=version)["plan"] == [
        {"service": "api", "action": "create", "reasons": [reason], "forced": False, "beside": False}
    ]
    with pytest.raises(module.EngineError):
        stage(root, ONE, engine=Silent(), compose_version=version)


def test_without_its_client_a_check_asks_compose_nothing(root):
    stage(root, ONE)
    activate(root, ONE)
    (root / "client/docker").unlink()
    assert stage(root, ONE, check=True)["is_new"]
    assert not stage(root, ONE)["is_new"]


# --- Taking a stack down


def down(root, engine, check=False):
    return module.take_down(engine, "p", str(root), check_mode=check)


def stack(root):
    engine = Engine(one="store", two="api", three="page", four="migrate")
    needs = {"two": "store:service_healthy:false", "three": "api:service_started:false,store:service_started:true", "four": "store:service_healthy:false"}
    for name in engine.services:
        engine.labels[name] = {f"{LABEL}.working_dir": str(root), "com.docker.compose.depends_on": needs.get(name, "")}
    engine.networks = {"net": "p", "old": "p", "other": "q"}
    return engine


def test_everything_of_the_project_goes_and_what_others_need_goes_last(root):
    engine = stack(root)
    assert down(root, engine) == (True, None)
    assert (engine.services, list(engine.networks)) == ({}, ["other"])
    stopped = [name for method, name, *_verb in engine.done if method == "POST"]
    assert sorted(stopped[:2]) == ["four", "three"]
    assert stopped[2:] == ["two", "one"]
    assert down(root, engine) == (False, None)


def test_services_that_depend_on_each_other_go_too(root):
    engine = stack(root)
    engine.labels["one"]["com.docker.compose.depends_on"] = "api:service_started:false"
    assert down(root, engine) == (True, None)
    assert engine.services == {}


def test_a_check_of_taking_down_touches_nothing(root):
    engine = stack(root)
    assert down(root, engine, check=True) == (True, None)
    assert engine.done == []


@pytest.mark.parametrize(
    ("labels", "is_ours"),
    [
        ({"working_dir": "{root}"}, True),
        # Typed in the stack's directory, where .env names the release's files.
        ({"working_dir": "{root}/releases/1"}, True),
        ({"working_dir": "/srv/x", "config_files": "/srv/x/a.yml,{root}/releases/1/docker-compose.yml"}, True),
        ({"working_dir": "/srv/x"}, False),
        ({"working_dir": "{root}2"}, False),
        ({"working_dir": "{root}/../x", "config_files": "compose.yml"}, False),
        ({}, False),
    ],
)
def test_a_project_of_the_same_name_from_elsewhere_is_not_taken_down(root, labels, is_ours):
    engine = stack(root)
    engine.labels["two"] = {f"com.docker.compose.project.{key}": value.format(root=root) for key, value in labels.items()}
    changed, elsewhere = down(root, engine)
    assert (changed, elsewhere is None) == (is_ours, is_ours)
    assert bool(engine.done) is is_ours


def test_the_refusal_names_the_other_directory(run_module, engine, root):
    labels = {"com.docker.compose.service": "web", "com.docker.compose.project.working_dir": "/srv/other"}
    engine.on("GET", "/containers/json", [{"Id": "a", "Labels": labels}])
    answer = run_module(module, state="down", project="p", directory=str(root), socket=engine.path)
    assert answer["failed"]
    assert "/srv/other" in answer["msg"]
    assert "stack_project" in answer["msg"]
    assert engine.asked("POST", ".*") + engine.asked("DELETE", ".*") == []


def test_an_engine_that_does_not_answer_is_not_an_empty_one(run_module, root):
    answer = run_module(module, state="down", project="p", directory=str(root), socket="/nowhere/s")
    assert answer["failed"]
    assert "The Docker Engine did not do it" in answer["msg"]


def test_a_volume_is_known_by_the_birth_of_its_directory(tmp_path):
    """The Engine's own time changes with the volume's content; a volume that was removed and created again is another one."""
    directory = tmp_path / "_data"
    directory.mkdir()

    class Volumes:
        def get(self, path, filters):
            assert (path, json.loads(filters)) == ("/volumes", {"label": ["com.docker.compose.project=p"]})
            changed = str(directory.stat().st_ctime_ns)
            return {
                "Volumes": [
                    {"Name": "data", "Mountpoint": str(directory), "CreatedAt": changed},
                    {"Name": "far", "Mountpoint": "/nowhere", "CreatedAt": "then"},
                ]
            }

    before = module.volumes_of(Volumes(), "p")
    assert before["far"] == "then"
    (directory / "bucket").mkdir()
    assert module.volumes_of(Volumes(), "p") == before
    (directory / "bucket").rmdir()
    directory.rmdir()
    time.sleep(0.02)
    directory.mkdir()
    assert module.volumes_of(Volumes(), "p") != before


@pytest.mark.parametrize("check", [False, True])
def test_what_is_put_right_in_the_current_release_may_be_cut_off_too(root, check):
    engine = Engine(one="api")
    stage(root, ONE, engine=engine)
    activate(root, ONE, engine=engine)
    engine.labels["one"], engine.states["one"] = as_deployed(root, ONE), "exited"
    assert stage(root, ONE, engine=engine, holder=HOLDER, check=check)["plan"] != []
    assert os.path.lexists(root / "attempted") is not check
    assert [line["event"] for line in module.lock.history(str(root))] == ([] if check else ["started"])
    activate(root, ONE, engine=engine)
    assert not os.path.lexists(root / "attempted")


@pytest.fixture
def starter(tmp_path, monkeypatch):
    """A machine with systemd, which knows no unit yet."""
    for name in ("BOOTED", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module.boot, name, str(tmp_path / name))
    monkeypatch.setattr(module.boot, "_run", lambda *_command: None)
    return module.boot.Starter("p")


def stage_with_boot(root, text, **options):
    plan = {**plan_of(root, ONE), "boot": {"systemd": text}}
    staged = module.Release(Host(directory=str(root), release=ONE, plan=plan, **options), Engine())
    staged.stage()
    return staged.result["changed"]


def test_the_machine_runs_what_a_release_needs_after_each_start(root, starter):
    assert stage_with_boot(root, "[Unit]\n", check=True)
    assert not starter.is_there()
    assert stage_with_boot(root, "[Unit]\n")
    assert starter.is_right({"systemd": "[Unit]\n"})
    assert not stage_with_boot(root, "[Unit]\n")
    assert stage_with_boot(root, "[Unit]\n# of a later version\n", check=True)
    assert starter.is_right({"systemd": "[Unit]\n"})
    assert stage_with_boot(root, "[Unit]\n# of a later version\n")
    assert not starter.is_right({"systemd": "[Unit]\n"})


def test_who_takes_a_stack_down_takes_that_away_too(run_module, engine, root, starter):
    stage_with_boot(root, "[Unit]\n")
    engine.on("GET", "/networks", [])

    def down(**more):
        return run_module(module, state="down", project="p", directory=str(root), socket=engine.path, **more)

    assert down(check_mode=True)["changed"]
    assert starter.is_there()
    assert down()["changed"]
    assert not starter.is_there()
    assert not down()["changed"]


def test_the_program_that_is_run_lies_in_the_stack_s_directory(root):
    stage(root, ONE)
    for name, text in module.resume.program_files().items():
        assert (root / name).read_text(encoding="utf-8") == text


# --- What other people's hosts and hands do


def go_on(root, method, release, holder=HOLDER, **options):
    one = module.Release(Host(directory=str(root), release=release, holder=holder, keep=3, **options), Engine())
    getattr(one, method)()
    return one


@pytest.mark.parametrize("method", ["attempt", "switch", "activate", "hold", "stop"])
@pytest.mark.parametrize("other", [None, {**HOLDER, "run": "m-2-2", "user": "bob"}])
def test_who_has_lost_the_lock_changes_nothing_more(root, method, other):
    """Silent for longer than the lease: stopped, asleep, or waiting for another host of the inventory."""
    stage(root, ONE, holder=HOLDER)
    os.utime(root / "lock.json", (1, 1))
    bob = {**HOLDER, "run": "m-2-2", "user": "bob"}
    stage(root, TWO, holder=bob)
    if other is None:
        go_on(root, "activate", TWO, holder=bob)
    before = tree(root)
    with pytest.raises(Failed, match="bob@desk, process 1, works on it" if other else "Another run has worked on it since then"):
        go_on(root, method, ONE)
    assert tree(root) == before


def test_where_nothing_was_to_be_done_the_lock_is_free_again_and_nobody_has_lost_it(root, monkeypatch):
    """An answer that the controller judges afterwards has the services asked again, and then the release is in use as before."""
    monkeypatch.setattr(module.verification.Stack, "verify", lambda _stack: (1, []))
    stage(root, ONE, holder=HOLDER)
    go_on(root, "activate", ONE)
    engine = Engine(one="api")
    engine.labels["one"] = as_deployed(root, ONE)
    assert stage(root, ONE, engine=engine, holder=HOLDER, verify_depth="basic")["is_verified"]
    with pytest.raises(Failed, match="lost the lock"):
        go_on(root, "activate", ONE)
    go_on(root, "activate", ONE, idle=True)
    assert not held(root)


def test_what_fails_after_a_release_is_in_use_is_told_and_does_not_go_back(root, monkeypatch):
    stage(root, ONE, holder=HOLDER)
    host = Host(directory=str(root), release=ONE, keep=3, holder=HOLDER)
    activated = module.Release(host, Engine())
    monkeypatch.setattr(activated, "_enter_index", lambda: (_ for _ in ()).throw(PermissionError(13, "Permission denied", "/var/lib")))
    activated.activate()
    assert os.readlink(root / "current") == f"releases/{ONE}"
    assert not held(root)
    assert "in use and serves" in host.warnings[0]
    assert "Permission denied" in host.warnings[0]
    assert json.loads((root / "history.jsonl").read_text().splitlines()[-1])["event"] == "succeeded"


def test_what_fails_before_leaves_the_release_before_in_use(root, monkeypatch):
    stage(root, ONE)
    activate(root, ONE)
    stage(root, TWO)
    real = module.write

    def full(path, *given):
        if path.endswith(module.VOLUMES):
            raise OSError(28, "No space left on device", path)
        real(path, *given)

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(OSError, match="No space left"):
        activate(root, TWO, engine=Engine(volumes={"p_data": "later"}))
    assert os.readlink(root / "current") == f"releases/{ONE}"


def test_releases_that_failed_make_no_room_at_the_expense_of_those_that_served(root):
    """Three that failed since, the newest last, and the one in use is deployed again."""
    failed = ["4" * 12, "5" * 12, "6" * 12]
    for release in (ONE, TWO):
        stage(root, release, holder=HOLDER)
        activate(root, release, holder=HOLDER)
    for number, release in enumerate(failed):
        stage(root, release, holder=HOLDER)
        module.Release(Host(directory=str(root), release=release, holder=HOLDER), Engine()).end()
        os.utime(root / "releases" / release, (time.time() + number + 1,) * 2)
    stage(root, TWO, holder=HOLDER)
    assert activate(root, TWO, holder=HOLDER)["pruned"] == [failed[0]]
    assert choose(root)["release"] == ONE


def test_what_a_hardened_host_s_umask_shut_is_opened(root):
    plan = plan_of(root, ONE)
    plan["manifest"]["routes"] = {"frontend": {"api": 3000}}
    for mode in (0o755, 0o750):
        module.Release(Host(directory=str(root), release=ONE, plan=plan), Engine()).stage()
        assert (root / "routes/frontend").stat().st_mode & 0o777 == 0o755
        (root / "routes/frontend").chmod(mode)
    again = module.Release(Host(directory=str(root), release=ONE, plan=plan), Engine())
    again.stage()
    assert again.result["changed"]
    assert (root / "routes/frontend").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_umask_of_the_host_shuts_nobody_out(run_module, root, engine, mask):
    before = os.umask(mask)
    try:
        plan = plan_of(root, ONE)
        run_module(module, plan={**plan, "release": ONE, "directory": str(root)}, socket=engine.path, check=False)
    finally:
        os.umask(before)
    shut = [path for path in [root, *root.rglob("*")] if path.is_dir() and path.name != "secrets" and path.stat().st_mode & 0o055 != 0o055]
    assert shut == []


def test_jobs_of_a_failed_release_are_stopped_and_nothing_is_created(root):
    stage(root, ONE)
    engine = Engine(one="migrate", two="api")
    module.Release(Host(directory=str(root), release=ONE), engine).stop()
    assert engine.done == [("POST", "one", "stop")]
    module.Release(Host(directory=str(root), release=ONE, retire=True), engine).stop()
    assert sorted(engine.done[1:]) == [("POST", "one", "stop"), ("POST", "two", "stop")]


def test_what_a_kill_left_under_construction_goes_with_the_next_release(root):
    stage(root, ONE)
    left = root / "releases" / f".{TWO}-abcd"
    left.mkdir()
    stage(root, TWO)
    assert not left.exists()


@pytest.mark.parametrize(("age", "pruned"), [(10, []), (7200, ["old:1"])])
def test_what_a_kill_left_of_another_stack_keeps_images_no_longer_than_an_hour(root, tmp_path, age, pruned):
    other = tmp_path / "other"
    left = other / "releases" / f".{TWO}-abcd"
    left.mkdir(parents=True)
    os.utime(left, (time.time() - age,) * 2)
    (tmp_path / "stack-index").mkdir()
    (tmp_path / "stack-index" / "q").symlink_to(other)
    for release, references in ((ONE, ["old:1"]), (TWO, []), (THREE, [])):
        stage(root, release, references=references)
        result = activate(root, release, keep=1)
    assert result["pruned_images"] == pruned


def test_a_project_of_another_name_is_refused_in_the_same_directory(root):
    stage(root, ONE)
    activate(root, ONE)
    plan = {**plan_of(root, TWO), "project": "shop"}
    before = tree(root)
    with pytest.raises(Failed, match="holds the project p, and stack_project is shop"):
        module.Release(Host(directory=str(root), release=TWO, plan=plan), Engine()).stage()
    assert tree(root) == before
    activate(root, stage(root, THREE)["release"])
    with pytest.raises(Failed, match="holds the project p, and stack_project is shop"):
        choose(root, project="shop")
    assert os.readlink(root / "current") == f"releases/{THREE}"
    # A release of before the name was changed, which an earlier version of this collection let pass.
    change(root / "current/manifest.json", project="shop")
    with pytest.raises(Failed, match="holds the project p, and stack_project is shop"):
        choose(root, ONE, project="shop")


@pytest.mark.usefixtures("three")
def test_a_release_whose_jobs_have_no_image_is_not_gone_back_to(root):
    engine = Engine()
    engine.absent = ("image:job",)
    with pytest.raises(Failed, match="the image image:job is not on the host"):
        choose(root, engine=engine)


@pytest.mark.parametrize(
    ("definition", "is_refused"),
    [
        ({}, True),
        ({"volumes": [{"type": "volume", "source": "x", "target": "/elsewhere"}]}, True),
        ({"volumes": [{"type": "volume", "source": "x", "target": "/data2"}]}, True),
        ({"volumes": [{"type": "volume", "source": "x", "target": "/data/db/"}]}, False),
        # Docker puts a volume of its own there all the same.
        ({"volumes": [{"type": "volume", "source": "x", "target": "/data"}]}, True),
        ({"tmpfs": ["/data/db:size=1m"]}, False),
    ],
)
def test_data_in_a_volume_without_a_name_is_refused_before_it_is_lost(root, definition, is_refused):
    engine = Engine()
    engine.declared = {"/data/db": {}}
    if is_refused:
        with pytest.raises(Failed, match=r"the image image:1 of api keeps its data in /data/db\. Nothing was changed"):
            stage(root, ONE, engine=engine, definition=definition)
        assert not (root / "releases" / ONE).exists()
    else:
        stage(root, ONE, engine=engine, definition=definition)
        assert (root / "releases" / ONE).exists()


def test_only_jobs_lose_their_volumes_without_a_name(root):
    engine = stack(root)
    engine.services["job"] = "migrate"
    engine.labels["job"] = {"com.docker.compose.project.working_dir": str(root)}
    assert down(root, engine) == (True, None)
    # There is another one, which was of the stack already.
    assert sorted(engine.emptied) == ["four", "job"]


def test_a_port_of_another_protocol_is_no_obstacle(root):
    engine = Engine(one="dns")
    engine.ports["one"] = [5353]
    stage(root, ONE, ports={"api": [["0.0.0.0", 5353]]})
    real = engine.get
    engine.get = lambda path, **query: (
        [{**one, "Ports": [{"PublicPort": 5353, "Type": "udp"}]} for one in real(path, **query)] if "containers" in path else real(path, **query)
    )
    attempt(root, ONE, engine=engine)
    assert engine.services == {"one": "dns"}


def test_births_are_told_the_same_to_everybody(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    seen = {}
    monkeypatch.setattr(module.subprocess, "run", lambda *_given, **named: seen.update(named) or subprocess.CompletedProcess([], 0, "", ""))
    module.births([str(tmp_path)])
    assert seen["env"]["LC_ALL"] == "C"
