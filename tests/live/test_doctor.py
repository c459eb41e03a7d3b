# SPDX-License-Identifier: GPL-3.0-or-later
"""The status and the findings of a running stack are true, and each fault that is planted in it is found. They are asked for as a person does.

LIVE_DEPLOY is the command that deploys, a JSON list that ends with the playbook.
"""

import json
import os
import subprocess
import time
from contextlib import contextmanager

import pytest

# What the machines of the tests do not have: they share the kernel of one that nobody keeps the time of, or sets for Redis.
OF_THE_MACHINE = {"clock", "metrics"}


def play(playbook: str, **variables) -> subprocess.CompletedProcess[str]:
    command = [*json.loads(os.environ["LIVE_DEPLOY"])[:-1], f"campaign.platform.{playbook}", "--extra-vars", json.dumps(variables)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def status(tmp_path):
    """Return the status as the playbook writes it."""

    def read() -> dict:
        done = play("status", stack_status_json=str(tmp_path / "status.json"), stack_status_sizes=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "status.json").read_text())

    return read


def doctor() -> tuple[int, str]:
    """Return how the playbook ended, and what it said of all but the machine itself."""
    done = play("doctor", stack_doctor_skip=sorted(OF_THE_MACHINE))
    return done.returncode, done.stdout


@contextmanager
def undone(host, *argv: str):
    """Run a command in the end, whatever happened."""
    try:
        yield
    finally:
        host.run(*argv)


def container_of(host, service: str) -> str:
    """Return the id of the container that a service has now; other tests deploy."""
    filters = (f"label=com.docker.compose.{name}" for name in (f"project={host.project}", f"service={service}", "oneoff=False"))
    return host.text("docker", "ps", "--all", "--quiet", "--no-trunc", *(word for one in filters for word in ("--filter", one))).strip()


def test_a_healthy_stack_has_no_finding():
    code, said = doctor()
    assert code == 0, said
    assert "checks, no finding. Left out: clock, metrics." in said
    # What is wrong with the machine does not fail the run.
    assert play("doctor").returncode == 0


def test_the_status_is_what_the_engine_says(host, status):
    found = status()
    assert found["project"] == host.project
    assert found["release"]["id"] == os.path.basename(host.text("readlink", f"{host.directory}/current").strip())
    assert {service["name"] for service in found["services"]} == set(host.services)
    for service in found["services"]:
        container = json.loads(host.text("docker", "inspect", container_of(host, service["name"])))[0]
        assert (service["state"], service["health"], service["image_id"]) == ("running", "healthy", container["Image"])
        assert service["image_matches"]
        assert service["memory_bytes"] > 0
        assert (service["memory_limit_bytes"] or 0) == container["HostConfig"]["Memory"]
        assert service["oom_kills"] == 0
    assert found["jobs"]
    # A release that is started again does not run its migrations again, so that they have no container.
    assert {0} <= {job["exit_code"] for job in found["jobs"]} <= {0, None}
    assert all(port["published"] and port["accepts"] for port in found["ports"])
    volumes = set(host.text("docker", "volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={host.project}").split())
    assert {volume["name"] for volume in found["volumes"]} == volumes
    assert all(volume["size_bytes"] > 0 for volume in found["volumes"])
    assert {metric["name"]: metric["error"] for metric in found["metrics"]} == {"connections": None, "vm.overcommit_memory": None}
    assert (found["drift"], found["not_known"], found["attempted"]) == ([], [], None)


def test_a_question_is_answered_and_a_wrong_one_is_refused():
    done = play("status", stack_status_query="services[?health!='healthy'].name")
    assert (done.returncode, "msg: '[]'" in done.stdout) == (0, True), done.stdout
    done = play("status", stack_status_query="services[?health")
    assert done.returncode != 0
    assert "is not a question in JMESPath" in done.stdout


def test_a_service_that_somebody_stopped_is_found(host, status):
    container = container_of(host, "scheduler")
    with undone(host, "docker", "start", container):
        host.run("docker", "stop", container)
        code, said = doctor()
        assert code != 0
        assert "services: scheduler is exited" in said
        assert [row["what"] for row in status()["drift"]] == ["its container is exited"]


def test_a_secret_that_others_can_read_is_found(host):
    (path, *_others) = host.text("find", f"{host.directory}/secrets", "-maxdepth", "1", "-name", "api_*").split()
    with undone(host, "chmod", "0400", path):
        host.run("chmod", "0444", path)
        code, said = doctor()
        assert code != 0
        assert f"{os.path.basename(path)} has the mode 0444, not 0400" in said


def test_a_service_that_ends_again_and_again_is_found(host):
    container = container_of(host, "rules-engine")
    # A start by hand counts from the beginning again.
    with undone(host, "docker", "restart", container):
        for _kill in range(3):
            deadline = time.monotonic() + 20
            while (pid := host.text("docker", "inspect", "--format", "{{.State.Pid}}", container).strip()) == "0":
                assert time.monotonic() < deadline
                time.sleep(0.2)
            host.run("kill", "-9", pid)
            time.sleep(0.5)
        _code, said = doctor()
        assert "restarts: rules-engine" in said


def test_what_was_found_is_gone_when_it_was_put_right():
    deadline = time.monotonic() + 90
    while (ended := doctor())[0] != 0 or "no finding" not in ended[1]:
        assert time.monotonic() < deadline, ended[1]
        time.sleep(2)
