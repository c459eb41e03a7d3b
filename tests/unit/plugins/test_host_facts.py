# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts are true near the floor, on a bare host and on a busy one; an Engine that does not answer is not one that is not there."""

import functools
import json
import os
import shutil
import socket
import subprocess
import time
from collections import namedtuple
from contextlib import contextmanager

import pytest
from ansible_collections.campaign.platform.plugins.modules import host_facts as module


@pytest.fixture
def facts(run_module, tmp_path, monkeypatch):
    # The real tools take their time.
    monkeypatch.setenv("PATH", "/nowhere")

    def run(**params) -> dict:
        return run_module(module, **{"socket": str(tmp_path / "none.sock"), **params})["ansible_facts"]["campaign_host"]

    return run


@pytest.fixture
def answering(engine):
    """An Engine that says all that the module asks for."""
    engine.images, engine.ports = [], []
    engine.on("GET", "/info", {"DockerRootDir": "/srv/docker"})
    engine.on("GET", "/images/json", lambda _request: engine.images)
    engine.on("GET", "/containers/json", lambda _request: engine.ports)
    engine.volumes, engine.networks = [], []
    engine.on("GET", "/volumes", lambda _request: {"Volumes": engine.volumes or None})
    engine.on("GET", "/networks", lambda _request: engine.networks)
    return engine


@pytest.mark.parametrize("installed", [True, False])
def test_an_engine_that_does_not_answer_may_be_installed(facts, tmp_path, monkeypatch, installed):
    if installed:
        (tmp_path / "dockerd").write_text("#!/bin/sh\n")
        (tmp_path / "dockerd").chmod(0o755)
    monkeypatch.setattr(module, "ENGINE_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    found = facts()
    assert (found["engine"], found["engine_installed"]) == (None, installed)
    assert "none.sock" in found["engine_error"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [(None, (None, [])), ("", (None, [])), ("pull\n", ("pull", [])), ("build\n", ("build", [])), ("pull\npostgis\nredis\n", ("pull", ["postgis", "redis"]))],
)
def test_the_recorded_source(facts, tmp_path, record, expected):
    if record is not None:
        (tmp_path / "source").write_text(record)
    found = facts(source_directory=str(tmp_path))
    assert (found["images_source"], found["images_built"]) == expected


def test_a_record_of_something_else_is_an_error_that_names_it(run_module, tmp_path):
    (tmp_path / "source").write_text("pul")
    answer = run_module(module, socket=str(tmp_path / "none.sock"), source_directory=str(tmp_path))
    assert answer["failed"]
    assert f"{tmp_path}/source holds 'pul'" in answer["msg"]


# --- The Engine


def test_an_engine_says_what_it_is(facts, answering):
    found = facts(socket=answering.path)
    assert found["engine"] == {"version": "29.0.0", "api_version": "1.52", "data_root": "/srv/docker"}
    assert found["engine_error"] is None


def test_an_engine_that_does_not_say_its_version_does_not_answer(facts, answering, reply):
    answering.on("GET", "/version", reply(500, {"message": "shutting down"}))
    found = facts(socket=answering.path, images=["redis:8"])
    assert (found["engine"], found["engine_error"], found["images"]) == (None, "GET /version: shutting down", {})


@pytest.mark.parametrize("path", ["/info", "/images/json", "/containers/json", "/volumes", "/networks"])
def test_an_engine_that_runs_is_not_taken_for_one_that_is_to_be_installed(run_module, answering, reply, monkeypatch, path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    answering.on("GET", path, reply(500, {"message": "busy"}))
    answer = run_module(module, socket=answering.path, project="p")
    assert answer["failed"]
    assert f"The Docker Engine runs, and does not say what there is: GET {path}: busy." in answer["msg"]


def test_what_goes_away_between_two_questions_is_asked_for_again(facts, answering, reply, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    gone = iter([reply(404, {"message": "network p_x not found"})] * 2)
    answering.on("GET", "/networks", lambda _request: next(gone, None) or [])
    assert facts(socket=answering.path, project="p")["engine"] is not None


def test_an_engine_that_is_slow_is_waited_for_and_not_for_ever(run_module, answering, monkeypatch):
    """It answers nobody while it removes a large volume. A deploy took the stack's own ports for those of something else then."""
    monkeypatch.setenv("PATH", "/nowhere")
    answering.on("GET", "/volumes", lambda _request: time.sleep(1) or {"Volumes": None})
    monkeypatch.setattr(module, "Engine", functools.partial(module.Engine, timeout=0.2))
    assert run_module(module, socket=answering.path, project="p")["ansible_facts"]["campaign_host"]["engine"] is not None
    monkeypatch.setattr(module, "ENGINE_SECONDS", 0.2)
    started = time.monotonic()
    answer = run_module(module, socket=answering.path, project="p")
    assert time.monotonic() - started < 0.9
    assert f"{answering.path}: TimeoutError" in answer["msg"]


@pytest.mark.parametrize(("seconds", "is_there"), [(0, False), (20, True)])
def test_an_engine_that_starts_is_waited_for_on_demand(facts, answering, reply, seconds, is_there):
    starting = iter([reply(503, {"message": "starting"})] * 2)
    answering.on("GET", "/version", lambda _request: next(starting, None) or {"Version": "29.0.0", "ApiVersion": "1.52"})
    assert (facts(socket=answering.path, wait=seconds)["engine"] is not None) == is_there


def test_the_wait_for_an_engine_ends(facts):
    started = time.monotonic()
    assert facts(wait=1)["engine"] is None
    assert 1 <= time.monotonic() - started < 3


DIGEST = "sha256:" + "1" * 64
PRESENT = [
    {"Id": "sha256:a", "RepoTags": ["redis:8", "mirror:5000/redis:latest"], "RepoDigests": [f"redis@{DIGEST}"]},
    # Its tag went to another image.
    {"Id": "sha256:b", "RepoTags": None, "RepoDigests": [f"mirror:5000/api@{DIGEST}"]},
    {"Id": "sha256:c", "RepoTags": [], "RepoDigests": None},
]


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("redis:8", "sha256:a"),
        ("docker.io/redis:8", "sha256:a"),
        ("docker.io/library/redis:8", "sha256:a"),
        ("redis", None),
        ("redis:9", None),
        ("mirror:5000/redis", "sha256:a"),
        (f"redis:9@{DIGEST}", "sha256:a"),
        (f"docker.io/library/redis@{DIGEST}", "sha256:a"),
        ("redis@sha256:" + "2" * 64, None),
        ("mirror:5000/api:1", None),
        (f"mirror:5000/api:1@{DIGEST}", "sha256:b"),
        (f"mirror:5000/api@{DIGEST}", "sha256:b"),
        (f"api@{DIGEST}", None),
    ],
)
def test_images_are_found_by_tag_and_by_digest(facts, answering, reference, found):
    answering.images = PRESENT
    assert facts(socket=answering.path, images=[reference])["images"] == ({reference: found} if found else {})


def test_what_an_image_says_of_its_version_is_read_where_that_is_asked(facts, answering, reply):
    answering.images = PRESENT
    answering.on("GET", "/images/sha256:a/json", {"Config": {"Env": ["PATH=/bin", "PG_MAJOR=18", "PG_VERSION=18.1=x"]}})
    asked = {"socket": answering.path, "images": ["redis:8", "redis:9"]}
    assert facts(**asked)["image_variables"] == {"redis:8": {}}
    assert facts(**asked, image_variables=["PG_MAJOR", "PG_VERSION"])["image_variables"] == {"redis:8": {"PG_MAJOR": "18", "PG_VERSION": "18.1=x"}}
    # It may be removed at any moment.
    answering.on("GET", "/images/sha256:a/json", reply(404, {"message": "gone"}))
    found = facts(**asked, image_variables=["PG_MAJOR"])
    assert (found["image_variables"], found["engine"] is None) == ({"redis:8": {}}, False)


# --- Memory and disk


@pytest.mark.parametrize(
    ("meminfo", "megabytes"),
    [
        # A machine sold as 2 GiB.
        ("MemTotal:        2014136 kB\nMemFree:  99 kB\n", 1966),
        ("MemTotal:        1048576 kB\n", 1024),
        ("MemTotal:        1048575 kB\n", 1023),
        ("Buffers: 5 kB\nSwapTotal: 7 kB\n", 0),
        (None, 0),
    ],
)
def test_memory_is_in_mebibytes(facts, monkeypatch, tmp_path, meminfo, megabytes):
    if meminfo:
        (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(module, "MEMINFO", str(tmp_path / "meminfo"))
    assert facts()["memory_mb"] == megabytes


def test_memory_is_the_machine_s_own(facts):
    with open("/proc/meminfo") as file:
        name, kilobytes, _unit = file.readline().split()
    assert (name, facts()["memory_mb"]) == ("MemTotal:", int(kilobytes) // 1024)


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disks(monkeypatch):
    """Free bytes by mount point; a path belongs to the deepest one above it."""
    free = {"/": 9_999 * 2**20}

    def usage(path):
        assert os.path.isdir(path)
        return Usage(0, 0, free[max((mount for mount in free if os.path.commonpath([mount, path]) == mount), key=len)])

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    return free


@pytest.mark.parametrize(("free", "megabytes"), [(5_120 * 2**20, 5_120), (5_120 * 2**20 - 1, 5_119), (0, 0)])
def test_the_disk_that_counts_is_that_of_the_data_root(facts, answering, disks, tmp_path, free, megabytes):
    disks[str(tmp_path)] = free
    # The Engine makes it when it starts.
    answering.on("GET", "/info", {"DockerRootDir": str(tmp_path / "docker/data")})
    assert facts(socket=answering.path)["disk_free_mb"] == megabytes


def test_without_an_engine_the_disk_is_that_of_its_usual_place(facts, disks):
    disks["/var/lib"] = 7 * 2**20
    assert facts()["disk_free_mb"] == 7


def test_a_data_root_on_a_real_other_disk(facts, answering):
    other, own = (shutil.disk_usage(path).total for path in ("/dev/shm", "/"))
    assert other != own
    answering.on("GET", "/info", {"DockerRootDir": "/dev/shm"})
    assert abs(facts(socket=answering.path)["disk_free_mb"] - shutil.disk_usage("/dev/shm").free // 2**20) < 64


# --- Ports


@contextmanager
def listening(address: str):
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("taken", "asked", "busy"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.2", True),
        # The machine does not have it, which another question finds out.
        ("0.0.0.0", "192.0.2.77", False),
    ],
)
def test_a_port_is_busy_by_address(facts, taken, asked, busy):
    with listening(taken) as port:
        (found,) = facts(ports=[{"address": asked, "port": port}])["ports"]
    assert found == {"address": asked, "port": port, "local": not asked.startswith("192."), "busy": busy, "project": None, "docker": False}


def test_a_port_that_an_engine_keeps_open_without_answering_is_told(facts):
    with listening("127.0.0.1") as port:
        command = ["docker-proxy", "-c", "read line", "-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", str(port), "-container-port", "80"]
        with subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE) as proxy:
            (found,) = facts(ports=[{"address": "127.0.0.1", "port": port}])["ports"]
            proxy.stdin.close()
        assert (found["busy"], found["docker"]) == (True, True)
        assert facts(ports=[{"address": "127.0.0.1", "port": port}])["ports"][0]["docker"] is False


def test_a_port_is_free_again_when_its_server_is_gone(facts):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            # Who closes first leaves the connection behind for a minute.
            server.accept()[0].close()
            assert client.recv(1) == b""
    assert facts(ports=[{"address": "127.0.0.1", "port": port}])["ports"][0]["busy"] is False


@pytest.mark.parametrize(
    ("published", "address", "project"),
    [
        ({"IP": "127.0.0.1"}, "127.0.0.1", "shop"),
        ({"IP": "127.0.0.1"}, "0.0.0.0", "shop"),
        ({"IP": "0.0.0.0"}, "127.0.0.1", "shop"),
        ({"IP": "192.0.2.1"}, "127.0.0.1", None),
        ({"IP": "::"}, "127.0.0.1", None),
        ({"IP": "0.0.0.0", "PublicPort": 81}, "0.0.0.0", None),
        ({"IP": "0.0.0.0", "Type": "udp"}, "0.0.0.0", None),
        ({"PublicPort": None}, "0.0.0.0", None),
    ],
)
def test_who_publishes_a_port(facts, answering, published, address, project):
    port = {"PrivatePort": 80, "PublicPort": 80, "Type": "tcp", **published}
    answering.ports = [{"Names": ["/x"], "Labels": {}, "Ports": []}, {"Names": ["/y"], "Labels": {"com.docker.compose.project": "shop"}, "Ports": [port]}]
    assert facts(socket=answering.path, ports=[{"address": address, "port": 80}])["ports"][0]["project"] == project


def test_a_container_of_no_project_is_named_itself(facts, answering):
    answering.ports = [{"Names": ["/web"], "Labels": {}, "Ports": [{"IP": "0.0.0.0", "PublicPort": 80, "Type": "tcp"}]}]
    assert facts(socket=answering.path, ports=[{"address": "0.0.0.0", "port": 80}])["ports"][0]["project"] == "web"


@pytest.mark.parametrize(("project", "is_guarded"), [("shop", True), ("other", False), (None, False)])
def test_whether_a_firewall_is_installed(facts, monkeypatch, tmp_path, project, is_guarded):
    (tmp_path / "docker-firewall-shop").write_text("")
    monkeypatch.setattr(module, "FIREWALL_DIRECTORY", str(tmp_path))
    assert facts(**{"project": project} if project else {})["firewall"] is is_guarded


# --- The stack


CURRENT = {"release": "aaaaaaaaaaaa", "project": "shop", "services": ["api"], "jobs": ["migrate"], "foundations": ["postgres"], "images": {"api": "api:1"}}
ATTEMPTED = {"release": "bbbbbbbbbbbb", "project": "shop", "services": ["api", "worker"]}
EMPTY = {"lock": None, "project": None, "compose_files": [], "env_file": None, "services": [], "jobs": [], "foundations": [], "images": {}}


@pytest.fixture
def stack(facts, tmp_path):
    """Write releases, link to them, and return what the facts say of the stack."""

    def run(**links: dict) -> dict:
        for link, manifest in links.items():
            directory = tmp_path / "stack/releases" / manifest["release"]
            directory.mkdir(parents=True)
            (directory / "manifest.json").write_text(json.dumps({"compose_files": ["docker-compose.yml"], "env_file": ".env", **manifest}))
            (tmp_path / "stack" / link).symlink_to(f"releases/{manifest['release']}")
        return facts(release_directory=str(tmp_path / "stack"))["stack"]

    return run


def test_a_host_without_a_stack(stack, facts, tmp_path, monkeypatch):
    assert stack() == {"current": None, "attempted": None, "release": None, **EMPTY, "manifest_error": None}
    # Without a directory, nothing of the working directory counts.
    (tmp_path / "current").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    assert facts()["stack"]["current"] is None


def test_the_current_release_is_read_from_its_manifest(stack, tmp_path):
    found = stack(current=CURRENT, attempted=ATTEMPTED)
    directory = tmp_path / "stack/releases/aaaaaaaaaaaa"
    assert found == {
        **CURRENT,
        "current": "aaaaaaaaaaaa",
        "attempted": "bbbbbbbbbbbb",
        "compose_files": [f"{directory}/docker-compose.yml"],
        "env_file": f"{directory}/.env",
        "manifest_error": None,
        "lock": None,
    }


def test_who_works_on_the_stack_is_told(stack, tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "lock.json").write_text(json.dumps({"user": "ann", "run": "r"}))
    found = stack()["lock"]
    assert (found["user"], found["run"], found["age"] < 60) == ("ann", "r", True)


def test_a_first_deploy_that_did_not_end_is_read_from_its_manifest(stack, tmp_path):
    found = stack(attempted=ATTEMPTED)
    assert (found["current"], found["attempted"], found["release"], found["services"]) == (None, "bbbbbbbbbbbb", "bbbbbbbbbbbb", ["api", "worker"])
    assert found["compose_files"] == [f"{tmp_path}/stack/releases/bbbbbbbbbbbb/docker-compose.yml"]
    assert found["env_file"] == f"{tmp_path}/stack/releases/bbbbbbbbbbbb/.env"


def test_a_release_without_its_manifest_is_named(stack, tmp_path):
    stack(current=CURRENT)
    path = tmp_path / "stack/current/manifest.json"
    path.unlink()
    found = stack()
    assert found == {
        "current": "aaaaaaaaaaaa",
        "attempted": None,
        "release": "aaaaaaaaaaaa",
        **EMPTY,
        "manifest_error": f"There is no release at {path}. Deploy first.",
    }


# --- The machine


SOURCES = """Types: deb
URIs: http://archive.example.com/debian http://second.example.com
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg
"""


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"sources.list.d/debian.sources": SOURCES}, {"uri": "http://archive.example.com/debian", "signed_by": "/usr/share/keyrings/debian.gpg"}),
        ({"sources.list.d/debian.sources": SOURCES.replace("main", "contrib")}, None),
        ({"sources.list.d/debian.sources": SOURCES.replace("Suites: trixie", "Suites: forky")}, None),
        (
            {"sources.list": "# deb http://no.example.com trixie main\ndeb http://a.example.com trixie main\n"},
            {"uri": "http://a.example.com", "signed_by": None},
        ),
        (
            {"sources.list.d/a.list": "deb [arch=amd64 signed-by=/a.gpg] http://a.example.com trixie contrib main\n"},
            {"uri": "http://a.example.com", "signed_by": "/a.gpg"},
        ),
        ({"sources.list": "deb http://security.example.com trixie-security main\n"}, None),
        ({}, None),
    ],
)
def test_the_machine_s_own_archive(monkeypatch, tmp_path, files, found):
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    read, glob = module.read, module.glob.glob
    release = 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
    monkeypatch.setattr(module, "read", lambda path: release if path == "/etc/os-release" else read(path.replace("/etc/apt", str(tmp_path))))
    monkeypatch.setattr(module.glob, "glob", lambda pattern: glob(pattern.replace("/etc/apt", str(tmp_path))))
    assert module.debian_archive() == found
    assert module.distribution() == {"id": "debian", "version_id": "13", "codename": "trixie"}


@pytest.mark.parametrize(
    ("script", "version"),
    [("echo v2.40.1-desktop", "2.40.1"), ("echo github.com/docker/buildx 0.29 abc", "0.29"), ("echo v2.40.1; exit 1", None), ("echo none", None), (None, None)],
)
def test_the_tools_versions(facts, monkeypatch, tmp_path, script, version):
    if script:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = facts()
    assert (found["compose"], found["buildx"]) == (version, version)


# --- Whose it is

LABEL = "com.docker.compose.project"


def item(name, owner=None, **more):
    return {"Name": name, "Labels": {LABEL: owner} if owner else None, **more}


def container(project, directory):
    return {"Names": ["/x"], "Ports": [], "Labels": {LABEL: project, f"{LABEL}.working_dir": directory}}


def test_containers_of_the_name_that_were_started_elsewhere_are_told(facts, answering, tmp_path):
    answering.ports = [container("p", str(tmp_path)), container("p", "/srv/other"), container("q", "/srv/third")]
    assert facts(socket=answering.path, project="p", release_directory=str(tmp_path))["owned"]["elsewhere"] == ["/srv/other"]
    # Those that do not run are asked for too.
    assert answering.asked("GET", "/containers/json")[0].query == {"all": "1"}
    # Who names no directory owns none.
    assert facts(socket=answering.path, project="p")["owned"]["elsewhere"] == []


def test_volumes_and_networks_have_their_owner(facts, answering, tmp_path):
    answering.volumes = [
        item("p_a", "p", Mountpoint=str(tmp_path)),
        item("p_b", Mountpoint="/nowhere"),
        item("x", "p", Mountpoint="/nowhere"),
        item("q_a", "q"),
    ]
    answering.networks = [item("p_net", "q"), item("bridge")]
    found = facts(socket=answering.path, project="p")["owned"]
    assert {name: row["project"] for name, row in found["volumes"].items()} == {"p_a": "p", "p_b": None, "x": "p"}
    assert found["networks"] == {"p_net": {"project": "q"}}
    assert facts(socket=answering.path)["owned"] == {"elsewhere": [], "volumes": {}, "networks": {}}


@pytest.mark.parametrize("kind", ["own", "bound"])
def test_files_of_a_volume_are_read(facts, answering, tmp_path, kind):
    for name, text in (("PG_VERSION", "15\n"), ("17/docker/PG_VERSION", "17"), ("17/docker/other", "x")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    path = str(tmp_path / "data")
    place = {"own": {"Mountpoint": path}, "bound": {"Mountpoint": "/nowhere", "Options": {"type": "none", "o": "bind", "device": path}}}[kind]
    answering.volumes = [item("p_data", "p", **place), item("p_more", "p", Mountpoint=path)]
    found = facts(socket=answering.path, project="p", volume_files={"p_data": ["PG_VERSION", "*/docker/PG_VERSION"]})["owned"]["volumes"]
    assert found["p_data"]["files"] == {"PG_VERSION": "15", "17/docker/PG_VERSION": "17"}
    assert found["p_more"]["files"] == {}


def test_a_volume_that_is_asked_for_is_read_whatever_its_name_is(facts, answering, tmp_path):
    (tmp_path / "PG_VERSION").write_text("17\n")
    answering.volumes = [item("old_pg", Mountpoint=str(tmp_path)), item("older", "q", Mountpoint="/nowhere"), item("other", Mountpoint=str(tmp_path))]
    asked = {"old_pg": ["PG_VERSION"], "older": ["PG_VERSION"], "not_there": ["PG_VERSION"]}
    found = facts(socket=answering.path, project="p", volume_files=asked)["owned"]["volumes"]
    assert found == {"old_pg": {"project": None, "files": {"PG_VERSION": "17"}}, "older": {"project": "q", "files": None}}


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ({"Mountpoint": "/nowhere"}, None),
        ({"Mountpoint": "/usr", "Options": {"type": "nfs", "device": ":/srv"}}, None),
        # A container uses it.
        ({"Mountpoint": "/", "Options": {"type": "nfs", "device": ":/srv"}}, {}),
    ],
)
def test_a_volume_that_cannot_be_read_is_not_an_empty_one(facts, answering, place, files):
    answering.volumes = [item("p_data", "p", **place)]
    assert facts(socket=answering.path, project="p", volume_files={"p_data": ["x"]})["owned"]["volumes"]["p_data"]["files"] == files


# --- Where Docker's client would be led


@pytest.fixture
def client(facts, tmp_path, monkeypatch):
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_DEFAULT_PLATFORM", "BUILDX_BUILDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")

    def asked(configuration=None, contexts=None, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "config.json").write_text(json.dumps(configuration or {}))
        for name, address in (contexts or {}).items():
            meta = tmp_path / "contexts/meta" / module.hashlib.sha256(name.encode()).hexdigest() / "meta.json"
            meta.parent.mkdir(parents=True)
            meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": address}}}))
        return facts(socket="/run/none.sock")["client"]

    return asked


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {}),
        ({"DOCKER_HOST": "unix:///run/none.sock", "DOCKER_CONTEXT": "x"}, {}),
        ({"DOCKER_HOST": "tcp://192.0.2.1:2375"}, {"DOCKER_HOST": "tcp://192.0.2.1:2375"}),
        ({"DOCKER_CONTEXT": "default", "configuration": {"currentContext": "x"}}, {}),
        ({"DOCKER_CONTEXT": "far"}, {"DOCKER_CONTEXT": "far"}),
        ({"configuration": {"currentContext": "near"}, "contexts": {"near": "unix:///run/none.sock"}}, {}),
        ({"DOCKER_CONTEXT": "far", "contexts": {"far": "ssh://host"}}, {"DOCKER_CONTEXT": "far"}),
        ({"DOCKER_TLS_VERIFY": "0"}, {"DOCKER_TLS_VERIFY": "0"}),
        ({"DOCKER_TLS": "1"}, {"DOCKER_TLS": "1"}),
        ({"DOCKER_DEFAULT_PLATFORM": "linux/amd64", "BUILDX_BUILDER": "default"}, {}),
        ({"DOCKER_DEFAULT_PLATFORM": "linux/arm64"}, {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"}),
        ({"BUILDX_BUILDER": "remote"}, {"BUILDX_BUILDER": "remote"}),
    ],
)
def test_settings_that_lead_the_client_elsewhere_are_named(client, given, told):
    assert client(**given) == told


def test_a_context_of_the_configuration_is_named_with_its_file(client, tmp_path):
    assert client(configuration={"currentContext": "far"}) == {f"currentContext in {tmp_path}/config.json": "far"}


def test_addresses_are_those_of_the_machine(facts, tmp_path, monkeypatch):
    (tmp_path / "trie").write_text(
        "Main:\n        |-- 127.0.0.1\n           /32 host LOCAL\n        |-- 192.0.2.20\n           /32 host LOCAL\n"
        "        |-- 192.0.2.3\n           /32 host LOCAL\n        |-- 192.0.2.255\n           /32 link BROADCAST\n"
    )
    monkeypatch.setattr(module, "ADDRESSES", str(tmp_path / "trie"))
    assert facts()["addresses"] == ["192.0.2.3", "192.0.2.20"]


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("0.0.0.0", True),
        ("127.9.9.9", True),
        ("203.0.113.10", False),
        # The kernel lets a program listen there.
        ("127.255.255.255", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
    ],
)
def test_an_address_that_the_machine_does_not_have_is_known(facts, address, local):
    assert facts(ports=[{"address": address, "port": 1}])["ports"][0]["local"] is local
