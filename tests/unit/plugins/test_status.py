# SPDX-License-Identifier: GPL-3.0-or-later
"""The status tells what is on a host, whatever state that is in: a stack that is well, one that is not, half of one, and none."""

import datetime
import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import certificate, host, lock
from ansible_collections.campaign.platform.plugins.module_utils import status as gathering
from ansible_collections.campaign.platform.plugins.modules import status as module
from ansible_collections.campaign.platform.plugins.plugin_utils import status as texts
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONFIG = "port 6379\n"
CONFIG_PATH = f"config/{hashlib.sha256(CONFIG.encode()).hexdigest()[:12]}/redis.conf"
SECRET_PATH = "secrets/api_jwt_secret_0123456789ab"
STARTED = "2026-11-26T10:00:00.123456789Z"
RUNNING = {"Status": "running", "ExitCode": 0, "StartedAt": STARTED, "Pid": 4711, "Health": {"Status": "healthy", "Log": [{"Output": "fine\n"}]}}
NOW = datetime.datetime(2026, 11, 26, 12, 0, 0, tzinfo=datetime.UTC).timestamp()
MANIFEST = {
    "project": "p",
    "layer": "prod",
    "compose_files": ["docker-compose.yml"],
    "env_file": ".env",
    "services": ["api", "rules-engine"],
    "jobs": ["api-migrate"],
    "first_jobs": ["volume"],
    "images": {"api": "api:1", "rules-engine": "worker:1"},
    "ports": {"api": [["127.0.0.1", 3000]]},
    "checks": [],
    "metrics": [],
    "configs": [CONFIG_PATH],
    "secrets": [SECRET_PATH],
}


class Stack:
    """A stack's directory, and the containers of its project."""

    def __init__(self, directory: Path, engine, run_module):
        self.directory, self.engine, self.run_module = directory, engine, run_module
        self.release("aaaaaaaaaaaa", MANIFEST)
        (directory / "current").symlink_to("releases/aaaaaaaaaaaa")
        self.file(CONFIG_PATH, CONFIG, 0o444)
        self.file(SECRET_PATH, "a secret of the test", 0o400)
        (directory / "secrets").chmod(0o700)

    def file(self, name: str, content: str, mode: int) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        return path

    def release(self, name: str, manifest: dict) -> None:
        self.file(f"releases/{name}/manifest.json", json.dumps({"release": name, **manifest}), 0o644)
        for file in ("docker-compose.yml", ".env"):
            self.file(f"releases/{name}/{file}", "", 0o644)

    def manifest(self, **changed) -> None:
        self.release("aaaaaaaaaaaa", {**MANIFEST, **changed})

    def listed(self) -> list[dict]:
        """The containers as the Engine lists them."""
        rows = []
        for container in self.engine.containers.values():
            labels = container["Config"]["Labels"]
            row = {"Id": container["Id"], "Labels": labels, "State": container["States"][0]["Status"], "ImageID": container["Image"], "Mounts": []}
            rows.append(row | {"NetworkSettings": {"Networks": {"backend": {"NetworkID": "net"}}}})
        return rows

    def hashes(self, compose: str = "2.26.1", **hashes: str) -> None:
        services = [*MANIFEST["services"], *MANIFEST["jobs"], *MANIFEST["first_jobs"]]
        noted = {"compose": compose, "hashes": {**dict.fromkeys(services, "h1"), **hashes}}
        self.file("releases/aaaaaaaaaaaa/hashes.json", json.dumps(noted), 0o644)

    def container(self, service: str, *states: dict, **more) -> None:
        directory = f"{self.directory}/releases/aaaaaaaaaaaa"
        labels = {"com.docker.compose.project": "p", "com.docker.compose.service": service, "com.docker.compose.config-hash": "h1"}
        labels |= {"com.docker.compose.project.config_files": f"{directory}/docker-compose.yml"}
        user = f"{os.getuid()}:{os.getgid()}"
        config = {"Labels": labels, "User": user}
        self.engine.container(service, *(states or [RUNNING]), **{"Name": f"/p-{service}-1", "Config": config, "RestartCount": 0, "Mounts": [], **more})

    def status(self, **params) -> dict:
        return self.run_module(module, **{"directory": str(self.directory), "socket": self.engine.path, **params})["status"]

    def of(self, service: str) -> dict:
        return next(row for row in self.status()["services"] if row["name"] == service)

    def drift(self) -> list[tuple[str | None, str, str]]:
        return [(row["service"], row["kind"], row["what"]) for row in self.status()["drift"]]


@pytest.fixture
def stack(tmp_path, engine, run_module, monkeypatch):
    """A stack that is well. Its tools and its kernel are the test's own."""
    monkeypatch.setattr(host, "tool_version", lambda *_command: "2.26.1")
    monkeypatch.setattr(module.time, "time", lambda: NOW)
    monkeypatch.setattr(host, "accepts", lambda _address, _port: True)
    monkeypatch.setattr(host, "PROC", str(tmp_path / "proc"))
    engine.on("GET", "/info", {"DockerRootDir": str(tmp_path)})
    engine.on("GET", "/volumes", {"Volumes": None})
    engine.on("GET", "/networks", [{"Id": "net"}])
    engine.on("GET", "/containers/[^/]+/stats", {"memory_stats": {"usage": 300, "stats": {"inactive_file": 100}}})
    found = Stack(tmp_path / "stack", engine, run_module)
    engine.on("GET", "/containers/json", lambda _request: found.listed())
    found.hashes()
    ports = {"Networks": {}, "Ports": {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "3000"}], "9/tcp": None}}
    found.container("api", HostConfig={"Memory": 1000}, NetworkSettings=ports)
    found.container("rules-engine")
    found.container("api-migrate", {"Status": "exited", "ExitCode": 0, "FinishedAt": STARTED})
    return found


# --- A stack that is well


def test_a_stack_that_is_well(stack):
    found = stack.status()
    assert (found["schema"], found["at"], found["project"]) == (1, "2026-11-26T12:00:00Z", "p")
    assert (found["release"]["id"], found["release"]["variant"], found["release"]["error"]) == ("aaaaaaaaaaaa", "prod", None)
    assert (found["attempted"], found["drift"], found["not_known"], found["kept"]) == (None, [], [], [])
    assert found["engine"] == {"version": "29.0.0", "api_version": "1.52", "data_root": str(stack.directory.parent)}
    assert [row["name"] for row in found["services"]] == ["api", "rules-engine"]
    assert found["services"][0] == {
        "name": "api",
        "state": "running",
        "health": "healthy",
        "health_output": "fine",
        "container": "p-api-1",
        "image": "api:1",
        "image_id": "sha256:a",
        "image_wanted": "sha256:a",
        "image_matches": True,
        "started": "2026-11-26T10:00:00Z",
        "up_seconds": 7199,
        "exit_code": None,
        "error": "",
        "restarts": 0,
        "oom_killed": False,
        "oom_kills": None,
        "memory_bytes": 200,
        "memory_limit_bytes": 1000,
    }
    assert found["jobs"] == [{"name": "api-migrate", "state": "exited", "exit_code": 0, "finished": "2026-11-26T10:00:00Z"}]
    assert found["ports"] == [{"service": "api", "address": "127.0.0.1", "port": 3000, "published": True, "accepts": True}]


def test_nothing_but_questions_goes_to_the_engine(stack):
    stack.status(sizes=False)
    assert {request.method for request in stack.engine.requests} == {"GET"}
    assert stack.engine.asked("GET", "/system/df") == []


def test_the_activation_is_when_the_link_was_made(stack):
    os.utime(stack.directory / "current", (NOW - 60, NOW - 60), follow_symlinks=False)
    assert stack.status()["release"]["since"] == "2026-11-26T11:59:00Z"


def test_other_releases_are_listed_the_newest_first(stack):
    for age, name in enumerate(["bbbbbbbbbbbb", "cccccccccccc"]):
        stack.release(name, MANIFEST)
        os.utime(stack.directory / "releases" / name, (NOW - age, NOW - age))
    (stack.directory / "releases/.new-x").mkdir()
    assert [row["id"] for row in stack.status()["kept"]] == ["bbbbbbbbbbbb", "cccccccccccc"]


def test_a_deploy_that_did_not_end_is_told(stack):
    stack.release("bbbbbbbbbbbb", {**MANIFEST, "layer": "dev"})
    (stack.directory / "attempted").symlink_to("releases/bbbbbbbbbbbb")
    found = stack.status()
    assert (found["attempted"]["id"], found["attempted"]["variant"]) == ("bbbbbbbbbbbb", "local")
    assert found["release"]["id"] == "aaaaaaaaaaaa"


def test_a_first_deploy_that_failed_is_looked_at(stack):
    (stack.directory / "current").rename(stack.directory / "attempted")
    found = stack.status()
    assert (found["release"], found["attempted"]["id"]) == (None, "aaaaaaaaaaaa")
    assert [row["state"] for row in found["services"]] == ["running", "running"]


def test_a_host_without_a_stack_has_a_status(stack):
    found = stack.status(directory=str(stack.directory / "nowhere/else"))
    assert (found["project"], found["release"], found["services"], found["drift"]) == (None, None, [], [])
    assert found["engine"]["version"] == "29.0.0"
    assert found["filesystems"]


@pytest.mark.parametrize(("content", "told"), [("{", "is not a manifest"), (None, "There is no release at")])
def test_a_manifest_that_cannot_be_read_is_told(stack, content, told):
    path = stack.directory / "releases/aaaaaaaaaaaa/manifest.json"
    path.write_text(content) if content else path.unlink()
    found = stack.status()
    assert found["release"]["id"] == "aaaaaaaaaaaa"
    assert told in found["release"]["error"]
    assert found["services"] == []


@pytest.mark.parametrize(("age", "is_alive"), [(3, True), (60, False), (-5, True)])
def test_who_works_on_the_stack_is_told(stack, age, is_alive):
    held = {"user": "ada", "controller": "desk", "machine": "m", "pid": 19, "run": "r", "since": "2026-11-26T11:00:00Z", "release": "bbbbbbbbbbbb"}
    path = stack.file("lock.json", json.dumps(held), 0o644)
    os.utime(path, (NOW - age, NOW - age))
    assert stack.status()["lock"] == {
        **held,
        "age_seconds": max(age, 0),
        "is_alive": is_alive,
    }
    # Nobody holds it any more.
    path.write_text("")
    assert stack.status()["lock"] is None


@pytest.mark.parametrize(("journal", "told"), [(lock.SWAP, "A restore was cut off"), (lock.UPGRADE, "An upgrade of PostgreSQL was cut off")])
def test_an_exchange_of_data_that_was_cut_off_is_told(stack, journal, told):
    assert stack.status()["unfinished"] is None
    stack.file(journal, "{", 0o600)
    found = stack.status()
    assert found["unfinished"]["what"].startswith(told)
    assert "again" in found["unfinished"]["remedy"]
    assert dict(texts.facts(found))["Unfinished"].is_bad
    # Who holds the lock is at work on it.
    found["lock"] = {"user": "ada", "controller": "desk", "pid": 19, "since": found["at"], "release": None, "age_seconds": 1, "is_alive": True}
    assert "Unfinished" not in dict(texts.facts(found))


def test_the_last_events_are_told_the_newest_first(stack):
    assert stack.status()["history"] == []
    lines = [{"time": f"2026-11-26T10:00:{second}Z", "event": "started", "user": "ada", "controller": "desk", "pid": 1} for second in range(10, 22)]
    stack.file("history.jsonl", "".join(json.dumps(line) + "\n" for line in lines) + "half a li", 0o644)
    found = stack.status()["history"]
    assert [event["time"][-3:-1] for event in found] == [str(second) for second in range(21, 11, -1)]
    assert found[0] == {"time": "2026-11-26T10:00:21Z", "event": "started", "release": None, "user": "ada", "controller": "desk", "commit": None}


# --- An Engine that does not answer


def test_without_an_engine_the_disk_still_tells(stack):
    found = stack.status(socket=str(stack.directory / "none.sock"))
    assert (found["engine"], found["services"]) == (None, [])
    assert "none.sock: No such file" in found["engine_error"]
    assert found["release"]["id"] == "aaaaaaaaaaaa"
    assert found["not_known"] == [{"what": "services", "why": "The Docker Engine did not answer."}]
    # What is on the disk is as it should be, whoever runs.
    assert found["drift"] == []


def test_an_engine_that_fails_half_way_is_told(stack, reply):
    stack.engine.on("GET", "/containers/json", reply(500, {"message": "database is locked"}))
    assert "database is locked" in stack.status()["engine_error"]


def test_a_container_that_goes_between_two_questions_is_no_error(stack, reply):
    stack.engine.on("GET", "/containers/rules-engine/json", reply(404, {"message": "No such container"}))
    assert stack.of("rules-engine")["state"] == "missing"
    stack.engine.on("GET", "/containers/rules-engine/json", reply(500, {"message": "no such host"}))
    assert "no such host" in stack.status()["engine_error"]


# --- Services


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"Status": "running", "StartedAt": STARTED}, ("running", "none", "", None)),
        ({"Status": "running", "StartedAt": STARTED, "Health": {"Status": "unhealthy", "Log": None}}, ("running", "unhealthy", "", None)),
        ({"Status": "running", "StartedAt": STARTED, "Health": {"Status": "unhealthy", "Log": []}}, ("running", "unhealthy", "", None)),
        ({"Status": "exited", "ExitCode": 137, "Health": {"Status": "unhealthy", "Log": [{"Output": "old"}]}}, ("exited", None, "", 137)),
        ({"Status": "restarting", "ExitCode": 1}, ("restarting", None, "", 1)),
        ({"Status": "paused", "ExitCode": 0}, ("paused", None, "", None)),
        ({"Status": "created", "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z"}, ("created", None, "", None)),
    ],
)
def test_a_service_s_state(stack, state, expected):
    stack.container("api", state)
    row = stack.of("api")
    assert (row["state"], row["health"], row["health_output"], row["exit_code"]) == expected
    assert (row["up_seconds"] is not None) == (state["Status"] == "running")


def test_what_a_healthcheck_says_cannot_lead_a_terminal(stack):
    log = [{"Output": "old"}, {"Output": "\x1b[31mno\r\n route\x07" + "x" * 5000}]
    stack.container("api", {**RUNNING, "Health": {"Status": "unhealthy", "Log": log}})
    said = stack.of("api")["health_output"]
    assert said.startswith("[31mno route")
    assert (len(said), said.isprintable()) == (200, True)


def test_a_service_without_a_container(stack):
    del stack.engine.containers["api"]
    row = stack.of("api")
    assert (row["state"], row["health"], row["container"], row["image"]) == ("missing", None, None, "api:1")
    assert stack.drift() == [("api", "container", "it has no container")]


def test_a_service_that_somebody_stopped_is_drift(stack):
    stack.container("api", {"Status": "exited", "ExitCode": 0})
    assert stack.drift() == [("api", "container", "its container is exited")]


def test_the_image_that_a_reference_stands_for(stack, reply):
    stack.engine.on("GET", "/images/api:1/json", {"Id": "sha256:b"})
    row = stack.of("api")
    assert (row["image_id"], row["image_wanted"], row["image_matches"]) == ("sha256:a", "sha256:b", False)
    assert stack.drift() == [("api", "definition", "image api:1 has other content: a -> b")]
    stack.engine.on("GET", "/images/api:1/json", reply(404, {"message": "no such image"}))
    assert (stack.of("api")["image_wanted"], stack.of("api")["image_matches"]) == (None, False)
    assert stack.drift() == [("api", "image", "its image api:1 is no longer among the Engine's images")]


def test_a_container_of_a_temporary_name_is_found_by_its_label(stack):
    stack.container("api", Name="/0123456789ab_p-api-1")
    assert stack.of("api")["container"] == "0123456789ab_p-api-1"
    (row,) = stack.drift()
    assert row[:2] == ("api", "name")


def test_a_container_that_somebody_renamed_is_the_service_s_all_the_same(stack):
    stack.container("api", Name="/another")
    assert (stack.of("api")["state"], stack.drift()) == ("running", [])


def test_what_is_not_of_the_release_is_told(stack):
    stack.container("vite")
    stack.engine.containers["second"] = {**stack.engine.containers["api"], "Id": "second", "Name": "/p-api-2", "States": [{"Status": "exited", "ExitCode": 0}]}
    found = stack.drift()
    assert found == [("api", "definition", "it has 2 containers"), ("vite", "surplus", "the release has no such service")]
    # Of two, the one that runs is the service's.
    assert stack.of("api")["state"] == "running"


@pytest.mark.parametrize(
    ("stats", "used"),
    [
        ({"memory_stats": {"usage": 300, "stats": {"total_inactive_file": 50, "inactive_file": 10}}}, 250),
        ({"memory_stats": {"usage": 300}}, 300),
        ({"memory_stats": {}}, None),
        ({}, None),
    ],
)
def test_memory_in_use(stack, stats, used):
    stack.engine.on("GET", "/containers/api/stats", stats)
    assert stack.of("api")["memory_bytes"] == used


def test_memory_that_the_engine_cannot_tell_is_not_known(stack, reply):
    stack.engine.on("GET", "/containers/api/stats", reply(500, {"message": "no cgroup"}))
    row = stack.of("api")
    assert (row["memory_bytes"], row["state"]) == (None, "running")


def test_a_service_without_a_limit_has_none(stack):
    stack.container("api", HostConfig={"Memory": 0})
    assert stack.of("api")["memory_limit_bytes"] is None


@pytest.mark.parametrize(
    ("cgroup", "file", "content", "kills"),
    [
        ("0::/docker/x\n", "docker/x/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("4:cpu,cpuacct:/c\n9:memory:/docker/x\n0::/\n", "memory/docker/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("0::/docker/x\n", "elsewhere", "", None),
    ],
)
def test_what_the_kernel_ended_is_counted(stack, monkeypatch, tmp_path, cgroup, file, content, kills):
    stack_file = tmp_path / "cgroups" / file
    stack_file.parent.mkdir(parents=True)
    stack_file.write_text(content)
    (tmp_path / "proc/4711").mkdir(parents=True)
    (tmp_path / "proc/4711/cgroup").write_text(cgroup)
    monkeypatch.setattr(host, "CGROUPS", str(tmp_path / "cgroups"))
    assert stack.of("api")["oom_kills"] == kills


def test_a_job_that_failed_and_one_that_never_ran(stack):
    stack.container("api-migrate", {"Status": "exited", "ExitCode": 3, "FinishedAt": STARTED})
    assert [(job["state"], job["exit_code"]) for job in stack.status()["jobs"]] == [("exited", 3)]
    del stack.engine.containers["api-migrate"]
    assert [(job["state"], job["exit_code"]) for job in stack.status()["jobs"]] == [("missing", None)]
    # Nothing is wrong with a job that is gone.
    assert stack.drift() == []


@pytest.mark.parametrize("binding", [{"HostIp": "0.0.0.0", "HostPort": "3000"}, {"HostIp": "127.0.0.1", "HostPort": "3001"}])
def test_a_port_that_is_published_elsewhere_is_not_published(stack, binding):
    stack.container("api", NetworkSettings={"Ports": {"3000/tcp": [binding]}})
    (port,) = stack.status()["ports"]
    assert (port["published"], port["accepts"]) == (False, None)


# --- Definitions


def test_a_container_of_another_definition_is_drift(stack):
    stack.hashes(api="h2")
    (row,) = stack.drift()
    assert row[:2] == ("api", "definition")
    assert row[2].startswith("its definition")


def test_what_depends_on_a_service_that_differs_is_no_drift(stack):
    stack.hashes(api="h2")
    stack.engine.containers["rules-engine"]["Config"]["Labels"]["com.docker.compose.depends_on"] = "api:service_healthy:false"
    assert [row[0] for row in stack.drift()] == ["api"]


@pytest.fixture
def client(stack, monkeypatch):
    """Give the host a Docker client of the test's own. The stack's client stays alone: each call of it is a sign of life of who holds the lock."""

    def give(script: str) -> None:
        found = stack.file("bin/docker", f"#!/bin/sh\n{script}\n", 0o755)
        monkeypatch.setenv("PATH", f"{found.parent}{os.pathsep}{os.environ['PATH']}")

    stack.file("client/docker", f"#!/bin/sh\ntouch {stack.directory}/called\nexit 1\n", 0o755)
    yield give
    assert not (stack.directory / "called").exists()


def test_a_container_that_was_cut_off_is_drift(stack):
    stack.release("aaaaaaaaaaaa", {**MANIFEST, "networks": {"api": ["p_backend-network"], "rules-engine": []}})
    assert stack.drift() == [("api", "definition", "it is not connected to the network p_backend-network")]


def test_hashes_of_another_compose_are_not_taken(stack, client):
    stack.hashes(compose="2.20.0", api="h2")
    client("printf '%s\\n' 'api h1' 'rules-engine h3' 'api-migrate h1' 'volume h1'")
    assert [row[:2] for row in stack.drift()] == [("rules-engine", "definition")]


@pytest.mark.parametrize("script", ["exit 1", None])
def test_where_compose_says_nothing_definitions_are_not_known(stack, client, script):
    stack.hashes(compose="2.20.0")
    if script:
        client(script)
    found = stack.status()
    assert found["drift"] == []
    assert [row["what"] for row in found["not_known"]] == ["definition"]


def test_what_differs_is_named_without_a_value(stack, client):
    stack.hashes(api="h2")
    stack.release("bbbbbbbbbbbb", MANIFEST)
    labels = stack.engine.containers["api"]["Config"]["Labels"]
    labels["com.docker.compose.project.config_files"] = f"{stack.directory}/releases/bbbbbbbbbbbb/docker-compose.yml"
    old, new = ({"services": {"api": {"image": "api:1", "environment": {"LEVEL": level}}}} for level in ("secretive", "info"))
    client(f"case \"$*\" in *bbbbbbbbbbbb*) echo '{json.dumps(old)}';; *) echo '{json.dumps(new)}';; esac")
    assert stack.drift() == [("api", "definition", "environment: LEVEL")]


# --- Files


def test_a_config_file_that_somebody_changed(stack):
    stack.file(CONFIG_PATH, CONFIG + "# x\n", 0o644)
    assert stack.drift() == [(None, "config", f"{CONFIG_PATH} was changed by hand: its content is not that of the release")]


def test_a_mounted_file_names_its_service(stack):
    mount = {"Type": "bind", "Source": str(stack.directory / CONFIG_PATH), "Destination": "/etc/redis.conf"}
    stack.container("rules-engine", Mounts=[{"Type": "volume", "Name": "x"}, mount])
    stack.file(CONFIG_PATH, "x", 0o644)
    assert [row[0] for row in stack.drift()] == ["rules-engine"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.chmod(0o440), "has the mode 0440, not 0400"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
    ],
)
def test_a_secret_that_is_not_as_it_should_be(stack, change, told):
    change(stack.directory / SECRET_PATH)
    assert stack.drift() == [(None, "secret", f"{SECRET_PATH} {told}")]


def test_a_secret_of_another_owner(stack):
    mount = {"Type": "bind", "Source": str(stack.directory / SECRET_PATH), "Destination": "/run/secrets/jwt_secret"}
    labels = stack.engine.containers["api"]["Config"]["Labels"]
    stack.container("api", Mounts=[mount], Config={"Labels": labels, "User": "10001:10001"})
    assert stack.drift() == [("api", "secret", f"{SECRET_PATH} belongs to the user {os.getuid()}, not to 10001, who reads it")]
    # A name says nothing of the number.
    stack.container("api", Mounts=[mount], Config={"Labels": labels, "User": "node"})
    assert stack.drift() == []


@pytest.mark.parametrize(("inside", "stale"), [("a secret of the test", False), ("the old secret", True), (None, False)])
def test_a_container_that_has_the_old_content(stack, tmp_path, inside, stale):
    mount = {"Type": "bind", "Source": str(stack.directory / SECRET_PATH), "Destination": "/run/secrets/jwt_secret"}
    stack.container("api", Mounts=[mount])
    if inside is not None:
        (tmp_path / "proc/4711/root/run/secrets").mkdir(parents=True)
        (tmp_path / "proc/4711/root/run/secrets/jwt_secret").write_text(inside)
    told = f"{SECRET_PATH} was replaced after it started, so that it still has the old content"
    assert stack.drift() == ([("api", "stale", told)] if stale else [])


@pytest.mark.parametrize(("target", "drift"), [("../redis_acl_1", False), ("../redis_acl_2", True), (None, True)])
def test_a_name_that_stays_stands_for_a_secret_of_the_release(stack, target, drift):
    stack.manifest(stable={"secrets/stable/redis_acl": "secrets/redis_acl_1"})
    (stack.directory / "secrets/stable").mkdir()
    if target:
        (stack.directory / "secrets/stable/redis_acl").symlink_to(target)
    assert stack.drift() == ([(None, "secret", "secrets/stable/redis_acl does not point to ../redis_acl_1")] if drift else [])


def test_the_directory_of_secrets_is_closed(stack):
    (stack.directory / "secrets").chmod(0o755)
    assert stack.drift() == [(None, "secret", "secrets has the mode 0755, not 0700")]


def test_no_content_of_a_file_is_told(stack):
    stack.file(SECRET_PATH, "a secret that was changed", 0o644)
    stack.file(CONFIG_PATH, "a config that was changed", 0o644)
    text = json.dumps(stack.status())
    assert "that was changed" not in text
    assert "a secret of the test" not in text


def test_what_may_not_be_looked_at_is_not_known(stack, monkeypatch):
    real = os.lstat

    def refuse(path, *arguments, **named):
        if str(path).endswith(SECRET_PATH):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(gathering.os, "lstat", refuse)
    found = stack.status()
    assert found["drift"] == []
    assert found["not_known"] == [{"what": "secret", "why": f"{stack.directory}/{SECRET_PATH}: Permission denied"}]


def test_a_file_of_the_release_that_is_gone(stack):
    (stack.directory / "releases/aaaaaaaaaaaa/docker-compose.yml").unlink()
    assert stack.drift() == [(None, "release", "releases/aaaaaaaaaaaa/docker-compose.yml is missing")]


# --- Volumes and file systems


def test_volumes_are_measured_on_demand(stack, tmp_path):
    volumes = [{"Name": "p_b", "Mountpoint": str(tmp_path)}, {"Name": "p_a", "Mountpoint": "/nowhere/at/all"}]
    stack.engine.on("GET", "/volumes", {"Volumes": volumes})
    usage = [{"Name": "p_b", "UsageData": {"Size": 5}}, {"Name": "p_a", "UsageData": {"Size": -1}}, {"Name": "other", "UsageData": {"Size": 9}}]
    stack.engine.on("GET", "/system/df", {"Volumes": usage})
    assert [(row["name"], row["size_bytes"]) for row in stack.status()["volumes"]] == [("p_a", None), ("p_b", None)]
    assert [(row["name"], row["size_bytes"]) for row in stack.status(sizes=True)["volumes"]] == [("p_a", None), ("p_b", 5)]
    asked = {request.query["filters"] for request in stack.engine.asked("GET", "/volumes")}
    assert asked == {'{"label": ["com.docker.compose.project=p"]}'}


def filesystem(mount: str, device: int, used: int, free: int, inodes: tuple[int, int] | None = (1, 9)) -> dict:
    counted = {"used": inodes[0], "free": inodes[1]} if inodes else None
    return {"mount": mount, "device": device, "bytes": {"used": used, "free": free}, "inodes": counted}


def test_file_systems_are_told_once_with_what_they_hold(monkeypatch):
    known = {"/data": filesystem("/data", 1, 30, 10), "/": filesystem("/", 2, 1, 1, None)}
    monkeypatch.setattr(host, "filesystem", lambda path: known.get(path))
    rows, mounts = gathering.filesystems_of({"a": "/data", "b": "/opt/not/there/yet", "c": "/data/x"})
    assert [(row["mount"], row["holds"], row["bytes"]["percent"]) for row in rows] == [("/data", ["a", "c"], 75.0), ("/", ["b"], 50.0)]
    assert [row["inodes"] for row in rows] == [{"used": 1, "free": 9, "percent": 10.0}, None]
    assert mounts == {"a": "/data", "b": "/", "c": "/data"}


def test_a_full_file_system_is_full(monkeypatch):
    monkeypatch.setattr(host, "filesystem", lambda _path: filesystem("/", 1, 0, 0))
    assert gathering.filesystems_of({"a": "/"})[0][0]["bytes"]["percent"] == 100.0


def test_the_machine_s_own_file_system(tmp_path):
    found = host.filesystem(str(tmp_path))
    assert os.path.ismount(found["mount"])
    assert found["bytes"]["free"] > 0
    assert host.filesystem("/nowhere/at/all") is None


# --- Certificates


def certificate_until(end: datetime.datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "platform.example.com")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
    return built.not_valid_before(start).not_valid_after(end).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("year", [2026, 2049, 2050, 2107])
def test_the_end_of_a_certificate_is_read(year):
    end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.UTC)
    assert certificate.expiry(f"text of a tool\n{certificate_until(end)}") == end


def test_of_a_chain_the_first_end_counts():
    ends = [datetime.datetime(year, 12, 1, tzinfo=datetime.UTC) for year in (2030, 2027, 2029)]
    assert certificate.expiry("".join(map(certificate_until, ends))) == ends[1]


@pytest.mark.parametrize("text", ["", "a certificate\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_told(text):
    with pytest.raises(certificate.CertificateError):
        certificate.expiry(text)


def test_each_certificate_is_told_once(stack):
    pem = certificate_until(datetime.datetime(2026, 12, 6, 11, 0, tzinfo=datetime.UTC))
    check = {"service": "frontend", "server_name": "platform.example.com", "certificate": pem}
    stack.manifest(checks=[check, check, {"service": "api"}, {**check, "certificate": "none"}])
    rows = stack.status()["certificates"]
    assert rows[0] == {"service": "frontend", "server_name": "platform.example.com", "expires": "2026-12-06T11:00:00Z", "days": 9, "error": None}
    assert [(row["days"], row["error"]) for row in rows[1:]] == [(None, "There is no certificate in it.")]


# --- Metrics


@pytest.fixture
def metric(stack, framed, reply):
    """Return what is made of a command that printed something."""

    def run(printed: bytes, code: int = 0, **row) -> dict:
        stack.manifest(metrics=[{"service": "api", "name": "queue", "command": ["node", "queue.mjs"], **row}])
        stack.engine.on("POST", "/containers/api/exec", reply(201, {"Id": "e"}))
        stack.engine.on("POST", "/exec/e/start", framed(printed))
        stack.engine.on("GET", "/exec/e/json", {"Running": False, "ExitCode": code})
        (found,) = stack.status()["metrics"]
        return found

    return run


@pytest.mark.parametrize(
    ("printed", "row", "value", "limit"),
    [(b"3\n", {}, 3.0, None), (b"3 97\n", {}, 3.0, 97.0), (b" -0.5\n", {"limit": 10}, -0.5, 10), (b"3 97\n", {"limit": 10}, 3.0, 97.0)],
)
def test_a_metric_is_a_number_and_perhaps_its_limit(stack, metric, printed, row, value, limit):
    found = metric(printed, **row, expect=1, remedy="Wait.")
    assert (found["value"], found["limit"], found["expect"], found["remedy"], found["error"]) == (value, limit, 1, "Wait.", None)
    (asked,) = stack.engine.asked("POST", "/containers/api/exec")
    assert asked.payload["Cmd"] == ["node", "queue.mjs"]


@pytest.mark.parametrize(
    ("printed", "code", "error"),
    [
        (b"", 0, "exit code 0: no output"),
        (b"3", 2, "exit code 2: 3"),
        (b"three", 0, "exit code 0: three"),
        (b"1 2 3", 0, "exit code 0: 1 2 3"),
        (b"nan", 0, "exit code 0: nan"),
        (b"1e3", 0, "exit code 0: 1e3"),
    ],
)
def test_what_is_no_number_is_not_known(metric, printed, code, error):
    found = metric(printed, code)
    assert (found["value"], found["error"]) == (None, error)


def test_a_command_that_hangs_is_not_waited_for(metric, stack, monkeypatch):
    metric(b"1")
    monkeypatch.setattr(gathering, "METRIC_SECONDS", 0.2)
    stack.engine.on("GET", "/exec/e/json", {"Running": True, "ExitCode": None})
    (found,) = stack.status()["metrics"]
    assert found["error"] == "the command did not end within 0.2 s"


def test_a_command_that_cannot_be_started_is_not_known(metric, stack, reply):
    metric(b"1")
    stack.engine.on("POST", "/containers/api/exec", reply(409, {"message": "container is paused"}))
    assert stack.status()["metrics"][0]["error"] == "container is paused"


def test_a_service_that_does_not_run_has_no_metric(metric, stack):
    metric(b"1")
    stack.container("api", {"Status": "exited", "ExitCode": 1})
    before = len(stack.engine.asked("POST", ".*"))
    assert stack.status()["metrics"][0]["error"] == "the service does not run"
    assert len(stack.engine.asked("POST", ".*")) == before


# --- The machine


def test_name_servers_and_the_name_localhost(tmp_path, monkeypatch):
    (tmp_path / "resolv.conf").write_text("# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver 2001:db8::1\n")
    monkeypatch.setattr(host, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    assert host.dns() == {"nameservers": ["192.0.2.1", "2001:db8::1"], "localhost_error": None}

    def fail(*_arguments):
        raise host.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(host, "RESOLV_CONF", str(tmp_path / "none"))
    monkeypatch.setattr(host.socket, "getaddrinfo", fail)
    assert host.dns() == {"nameservers": [], "localhost_error": "Name or service not known"}


@pytest.mark.parametrize(("state", "expected"), [(0, True), (1, True), (5, False), (-1, None)])
def test_whether_the_clock_is_kept_right(monkeypatch, state, expected):
    class Library:
        def adjtimex(self, buffer) -> int:
            # Modes of 0 change nothing.
            assert buffer.raw[:4] == b"\0\0\0\0"
            return state

    monkeypatch.setattr(host.ctypes, "CDLL", lambda _name: Library())
    assert host.is_clock_synchronised() is expected


def test_a_system_without_the_call_does_not_say(monkeypatch):
    monkeypatch.setattr(host.ctypes, "CDLL", lambda _name: object())
    assert host.is_clock_synchronised() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n", {"total": 2097152, "available": 1048576}), ("MemTotal: 2048 kB\n", None), ("", None)],
)
def test_memory_of_the_machine(tmp_path, monkeypatch, text, expected):
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(host, "MEMINFO", str(tmp_path / "meminfo"))
    assert host.memory() == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T01:00:01.250000000+01:00", 1.25),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("soon", None),
    ],
)
def test_times_of_the_engine(text, seconds):
    assert gathering.seconds_of(text) == seconds
