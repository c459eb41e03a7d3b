# SPDX-License-Identifier: GPL-3.0-or-later
"""No request fails while the api, the page or a worker is replaced, and none while a release that does not work is tried."""

import json
import subprocess

import pytest
from deployed import full_only
from load import Load

DEPLOYS, ROLLBACKS = 20, 5
SAMPLE = 2, 1
RETAINED = "/usr/share/nginx/html/retained/assets"
STATELESS = ("api", "page", "rules-engine", "scheduler")


def edit(number: int) -> dict:
    """Return variables that change stateless services: each by itself, and several by a setting that they share."""
    service = STATELESS[number % len(STATELESS)]
    changed = {"stack_log_level": ("info", "warn")[number % 2]} if number % 3 == 2 else {}
    return {"stack_services": {service: {"base": {"services": {service: {"labels": {"edit": str(number)}}}}}}, **changed}


@pytest.fixture
def load(stack) -> Load:
    stack.deploy()
    secrets = json.loads(stack.secrets.read_text())
    return Load(stack.ports["frontend"], "operator", secrets["operator_password"])


@pytest.fixture
def counts(request) -> tuple[int, int]:
    return (DEPLOYS, ROLLBACKS) if request.config.getoption("--full") else SAMPLE


def leave_an_asset(stack) -> None:
    """Leave an asset as a page of before would have, beside those of the page that serves."""
    page = stack.containers()["page"]
    names = stack.docker("exec", page["Id"], "ls", RETAINED).split()
    assert set(stack.docker("exec", page["Id"], "ls", "/usr/share/nginx/html/assets").split()) <= set(names)
    stack.docker("exec", page["Id"], "sh", "-c", f"echo 'a page of before' >{RETAINED}/index-before.js")


def test_no_request_fails_and_nothing_that_was_acknowledged_is_lost(stack, load, counts):
    deploys, rollbacks = counts
    leave_an_asset(stack)
    page = stack.containers()["page"]
    proxy = stack.containers()["frontend"]["Id"]
    with load as seen:
        for number in range(deploys):
            load.sign_in()
            before = stack.running()
            stack.deploy(**edit(number))
            assert before != stack.running()
            # As Compose too would have it.
            for service, container in stack.containers().items():
                assert container["Config"]["Labels"]["com.docker.compose.config-hash"] == stack.hashes()[service], service
        for _ in range(rollbacks):
            load.sign_in()
            assert stack.play("rollback").status == 0
    print(f"{len(seen.times)} requests and {seen.uploads} slow uploads over {deploys} deploys and {rollbacks} rollbacks, p99 {seen.p99() * 1000:.0f} ms")
    assert seen.failures == []
    assert seen.uploads > 0
    assert stack.containers()["frontend"]["Id"] == proxy
    there = set(stack.sql("SELECT id FROM campaign.campaigns").split())
    assert set(seen.created) <= there
    # What the page of before refers to is still served.
    assert stack.containers()["page"]["Id"] != page["Id"]
    asked = ["curl", "--silent", "--show-error", "--include", f"http://127.0.0.1:{stack.ports['frontend']}/assets/index-before.js"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert answer.startswith("HTTP/1.1 200")
    assert "a page of before" in answer
    assert "max-age=31536000" in answer


@full_only
def test_the_same_load_over_docker_compose_alone(stack, load, tmp_path):
    """What the same changes cost with the same files and `docker compose up`, for comparison: this fails where our own deploys make no difference."""
    directory = stack.directory
    manifest = json.loads((directory / "current/manifest.json").read_text())
    files = [word for name in manifest["compose_files"] for word in ("--file", str(directory / name))]
    compose = ["docker", "compose", "--project-name", manifest["project"], "--project-directory", str(directory)]
    compose += ["--env-file", str(directory / manifest["env_file"])]
    with load as seen:
        for number in range(SAMPLE[0]):
            load.sign_in()
            service = STATELESS[number % len(STATELESS)]
            override = tmp_path / f"{number}.json"
            override.write_text(json.dumps({"services": {service: {"labels": {"edit": f"bare {number}"}}}}))
            subprocess.run([*compose, *files, "--file", str(override), "up", "--detach", "--wait", "--no-build"], check=True, capture_output=True, timeout=300)
    print(f"Docker Compose alone: {len(seen.failures)} of {len(seen.times)} requests failed over {SAMPLE[0]} changes, p99 {seen.p99() * 1000:.0f} ms")
    assert seen.failures
    stack.deploy()
