# SPDX-License-Identifier: GPL-3.0-or-later
"""A deploy that the end of the machine or of the Engine cut off leaves the current release running again, and nothing else is ever brought up."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import lock as locks
from ansible_collections.campaign.platform.plugins.module_utils import resume as module
from ansible_collections.campaign.platform.plugins.module_utils import routes
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine

OLD, NEW = "1" * 12, "2" * 12
HOLDER = {"user": "ada", "controller": "desk", "machine": "m", "pid": 7, "run": "r", "commit": None}


@pytest.fixture
def root(tmp_path):
    """Return a stack whose deploy was cut off. Its client writes down how it is called."""
    for release in (OLD, NEW):
        path = tmp_path / "releases" / release
        path.mkdir(parents=True)
        manifest = {
            "project": "p",
            "compose_files": ["docker-compose.yml"],
            "env_file": ".env",
            "services": ["api", "frontend"],
            "foundations": ["postgres"],
            "jobs": [f"migrate-{release[0]}"],
            "restoring_jobs": ["bootstrap"],
            "ports": {"frontend": [["127.0.0.1", 80]]},
            "routes": {"frontend": {"api": 3000}},
            "stable": {"secrets/stable/redis_acl": f"secrets/redis_acl_{release}"},
        }
        (path / "manifest.json").write_text(json.dumps(manifest))
    os.symlink(f"releases/{OLD}", tmp_path / "current")
    os.symlink(f"releases/{NEW}", tmp_path / "attempted")
    client = tmp_path / "client"
    client.mkdir()
    (client / "running").touch()
    (client / "docker").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n')
    (client / "docker").chmod(0o755)
    locks.Lock(str(tmp_path), HOLDER).record("started", release=NEW, previous=OLD)
    return tmp_path


@pytest.fixture(autouse=True)
def machine(monkeypatch, engine, reply):
    """An Engine that answers, with one container of each service, all of them healthy."""
    monkeypatch.setattr(module, "SOCKET", engine.path)
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "HEALTH_PATIENCE", 0.2)
    monkeypatch.setattr(module, "ENGINE_PATIENCE", 0.2)
    engine.on("GET", "/_ping", "OK")
    engine.on("GET", "/networks", [])
    engine.on("POST", ".*/(stop|rename|unpause)", reply(204))
    engine.on("POST", "/containers/[^/]+/exec", reply(201, {"Id": "e"}))
    engine.on("POST", "/exec/e/start", "")
    engine.on("GET", "/exec/e/json", {"Running": False, "ExitCode": 0})
    engine.on("DELETE", "/containers/.*", reply(204))
    engine.states = {}
    engine.on("GET", "/containers/.*/json", lambda request: {"State": engine.states.get(request.path.split("/")[2], {"Status": "running"})})
    containers(engine, api="p-api-1", frontend="p-frontend-1")
    return engine


def containers(engine, **named):
    """Have the Engine know containers, by service; further ones of a service end their keyword with _ and more."""
    engine.on(
        "GET",
        "/containers/json",
        [
            {"Id": name, "Names": [f"/{name}"], "Created": number, "State": "running", "Ports": [], "Labels": {"com.docker.compose.service": key.split("_")[0]}}
            for number, (key, name) in enumerate(named.items())
        ],
    )


def called(root):
    return (root / "called").read_text().splitlines() if (root / "called").exists() else []


def events(root):
    return [line["event"] for line in locks.history(str(root))]


def record(root, event):
    locks.Lock(str(root), HOLDER).record(event, release=NEW)


def test_the_current_release_is_brought_up_and_that_is_written_down(root):
    assert module.main(str(root)) == 0
    jobs, services = called(root)
    files = f"--project-directory {root} --project-name p --env-file {root}/releases/{OLD}/.env --file {root}/releases/{OLD}/docker-compose.yml"
    assert jobs == f"compose --ansi never {files} --profile job up --detach --no-build --pull never postgres bootstrap"
    assert services == f"compose --ansi never {files} up --detach --no-build --pull never --remove-orphans"
    last = locks.history(str(root))[-1]
    assert (last["event"], last["release"], last["attempted"]) == ("resumed", OLD, NEW)
    assert locks.read(str(root)) is None
    # A server that starts reads the passwords that the services of this release have.
    assert os.readlink(root / "secrets/stable/redis_acl") == f"../redis_acl_{OLD}"
    # Once.
    assert module.main(str(root)) == 0
    assert len(called(root)) == 2


@pytest.mark.parametrize("event", ["succeeded", "rolled_back", "failed", "taken_down", "resumed"])
def test_nothing_is_done_after_a_deploy_that_ended(root, machine, event):
    record(root, event)
    assert module.main(str(root)) == 0
    assert (called(root), machine.requests) == ([], [])


@pytest.mark.parametrize("event", ["not_rolled_back", "not_resumed", "aborted"])
def test_what_did_not_come_up_is_tried_again(root, event):
    record(root, event)
    assert module.main(str(root)) == 0
    assert events(root)[-1] == "resumed"


@pytest.mark.parametrize("name", ["current", "attempted"])
def test_without_both_releases_there_is_nothing_to_go_back_to(root, name):
    (root / name).unlink()
    assert module.main(str(root)) == 0
    assert called(root) == []


def test_a_stack_without_a_history_is_left_alone(root):
    (root / "history.jsonl").unlink()
    assert module.main(str(root)) == 0
    assert called(root) == []


def test_what_was_removed_on_purpose_stays_away(root, machine):
    containers(machine)
    assert module.main(str(root)) == 0
    assert called(root) == []
    # Nobody is told that it serves.
    assert events(root)[-1] == "taken_down"


def held(root, seconds_ago):
    locks.Lock(str(root), HOLDER).acquire()
    os.utime(root / "lock.json", (time.time() - seconds_ago,) * 2)


def test_a_deploy_of_before_the_machine_was_started_is_gone(root, monkeypatch):
    held(root, 20)
    monkeypatch.setattr(module, "started_at", lambda: time.time() - 10)
    began = time.monotonic()
    assert module.main(str(root)) == 0
    assert time.monotonic() - began < 5
    assert events(root)[-2:] == ["aborted", "resumed"]


def test_a_deploy_that_lives_does_its_own_way_back(root, monkeypatch):
    held(root, 5)
    monkeypatch.setattr(module, "started_at", lambda: time.time() - 10)

    def sleep(_seconds):
        """While it is waited for, the deploy ends."""
        record(root, "rolled_back")
        locks.Lock(str(root), HOLDER).release()

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert module.main(str(root)) == 0
    assert called(root) == []
    assert events(root)[-1] == "rolled_back"


def test_a_deploy_that_ends_just_now_is_not_undone(root, monkeypatch):
    acquire = locks.Lock.acquire

    def late(lock, **options):
        """The deploy does its way back before the lock is taken."""
        record(root, "rolled_back")
        acquire(lock, **options)

    monkeypatch.setattr(locks.Lock, "acquire", late)
    assert module.main(str(root)) == 0
    assert called(root) == []
    assert events(root)[-1] == "rolled_back"
    assert locks.read(str(root)) is None


def test_a_deploy_that_fell_silent_is_waited_for_as_long_as_its_lock_lasts(root, monkeypatch):
    held(root, locks.LEASE - 0.3)
    monkeypatch.setattr(module, "started_at", lambda: 0.0)
    assert module.main(str(root)) == 0
    assert events(root)[-2:] == ["aborted", "resumed"]


@pytest.mark.parametrize(
    ("journal", "told"),
    [(locks.UPGRADE, "An upgrade of the PostgreSQL of .* run the playbook upgrade_postgres again"), (locks.SWAP, "exchanged the volumes of .*run undo")],
)
@pytest.mark.parametrize("silent", [None, 3600.0, locks.LEASE - 0.3])
def test_an_exchange_of_data_that_was_cut_off_is_told_and_not_waited_for(root, monkeypatch, capsys, journal, told, silent):
    """No time ends it, and nothing may be started over it."""
    (root / "backup").mkdir()
    monkeypatch.setattr(module, "started_at", lambda: time.time() - 60 if silent == 3600 else 0.0)
    if silent:
        held(root, silent)
    (root / journal).write_text('{"run": "another", "volumes": []}')
    assert module.main(str(root)) == 1
    assert re.search(told, capsys.readouterr().out)
    assert called(root) == []
    assert events(root) == ["started"]


def test_an_upgrade_that_lives_ends_what_it_began(root, monkeypatch):
    (root / "backup").mkdir()
    held(root, 5)
    (root / locks.UPGRADE).write_text('{"run": "r"}')
    monkeypatch.setattr(module, "started_at", lambda: 0.0)
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: record(root, "withdrawn"))
    assert module.main(str(root)) == 0
    assert (called(root), events(root)) == ([], ["started", "withdrawn"])


def test_jobs_of_both_releases_go_first(root, machine):
    containers(machine, **{"migrate-1": "p-migrate-1-1", "migrate-2": "p-migrate-2-1", "api": "p-api-1", "frontend": "p-frontend-1"})
    assert module.main(str(root)) == 0
    assert [request.path for request in machine.asked("DELETE", ".*")] == ["/containers/p-migrate-1-1", "/containers/p-migrate-2-1"]


def test_a_container_is_given_the_name_that_it_was_about_to_have(root, machine):
    temporary = f"{'a' * 12}_p-api-1"
    containers(machine, api=temporary, frontend="p-frontend-1", frontend_more=f"{'b' * 12}_p-frontend-1")
    assert module.main(str(root)) == 0
    (renamed,) = machine.asked("POST", ".*/rename")
    assert (renamed.path, renamed.query) == (f"/containers/{temporary}/rename", {"name": "p-api-1"})


def test_the_release_comes_back_with_the_images_that_it_had(root, machine, reply):
    """A deploy under way had an image of the same name."""
    means = {"mine:1": "sha256:new"}
    known = {"sha256:old", "sha256:new"}

    def image(request):
        name = request.path.removeprefix("/images/").removesuffix("/json").replace("%3A", ":")
        return {"Id": name if name in known else means[name]}

    def tag(request):
        means[f"{request.query['repo']}:{request.query['tag']}"] = request.path.removeprefix("/images/").removesuffix("/tag")
        return reply(201)

    machine.on("GET", "/images/.*/json", image)
    machine.on("POST", "/images/.*/tag", tag)
    (root / "releases" / OLD / "deployed.json").write_text(json.dumps({"images": {"mine:1": "sha256:old"}}))
    assert module.main(str(root)) == 0
    assert [request.path for request in machine.asked("POST", "/images/.*/tag")] == ["/images/sha256:old/tag", "/images/sha256:new/tag"]
    assert (means, (root / "lent.json").exists()) == ({"mine:1": "sha256:new"}, False)


@pytest.mark.parametrize(("container", "is_gone"), [("p-api-1", False), ("p-api-2", True)])
def test_a_route_to_a_container_that_is_gone_is_forgotten(root, machine, container, is_gone):
    path = root / "routes/frontend/api.conf"
    path.parent.mkdir(parents=True)
    written = routes.text("api", 3000, container)
    path.write_text(written)
    assert module.main(str(root)) == 0
    assert path.read_text() == (routes.text("api", 3000) if is_gone else written)
    assert [request.payload["Cmd"] for request in machine.asked("POST", "/containers/p-frontend-1/exec")] == [routes.RELOAD] * is_gone


def test_a_release_that_does_not_become_healthy_is_told_and_tried_again_next_time(root, machine, capsys):
    machine.states["p-api-1"] = {"Status": "running", "Health": {"Status": "unhealthy"}}
    assert module.main(str(root)) == 1
    assert "api is unhealthy" in capsys.readouterr().out
    assert events(root)[-1] == "not_resumed"
    assert locks.read(str(root)) is None
    machine.states.clear()
    assert module.main(str(root)) == 0
    assert events(root)[-1] == "resumed"


def test_a_service_without_a_container_is_told(root, machine, capsys):
    containers(machine, api="p-api-1")
    assert module.main(str(root)) == 1
    assert "frontend is no container" in capsys.readouterr().out


def test_an_engine_that_does_not_come_back_is_told(root, monkeypatch):
    monkeypatch.setattr(module, "SOCKET", "/nowhere/s")
    assert module.main(str(root)) == 1
    assert events(root)[-1] == "not_resumed"
    assert called(root) == []


def test_a_machine_knows_when_it_was_started():
    done = subprocess.run(["ps", "-o", "etimes=", "-p", "1"], capture_output=True, text=True, check=True)
    assert abs(time.time() - int(done.stdout) - module.started_at()) < 5


def test_the_program_on_the_host_needs_the_standard_library_alone(root):
    for name, text in module.program_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    record(root, "succeeded")
    # Neither this environment's packages nor the collection's checkout.
    command = [sys.executable, "-B", "-S", "-E", str(root / module.PROGRAM)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # It finds its stack: this one was cut off, and has no current release that can be read.
    record(root, "started")
    (root / "current/manifest.json").unlink()
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env={"PATH": "/nowhere"})
    assert (done.returncode, events(root)[-1]) == (1, "not_resumed"), done.stderr
    assert list(root.rglob("__pycache__")) == []


def test_an_engine_is_asked_over_its_socket(machine):
    module.Resumption("/nowhere", Engine(machine.path)).wait_for_engine()
    assert machine.asked("GET", "/_ping")
