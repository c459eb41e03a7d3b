# SPDX-License-Identifier: GPL-3.0-or-later
"""No request fails while the api, the page or a worker is replaced, and none while a release that does not work is tried."""

import json
import subprocess

import pytest
from load import Load

DEPLOYS, ROLLBACKS = 20, 5
SAMPLE = 2, 1
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


def test_no_request_fails_and_nothing_that_was_acknowledged_is_lost(stack, load, counts):
    deploys, rollbacks = counts
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


def test_assets_of_the_page_before_are_still_served(stack):
    stack.deploy()
    page = stack.containers()["page"]
    assets = "/usr/share/nginx/html/retained/assets"
    names = stack.docker("exec", page["Id"], "ls", assets).split()
    assert set(stack.docker("exec", page["Id"], "ls", "/usr/share/nginx/html/assets").split()) <= set(names)
    # As a page of before left it there.
    stack.docker("exec", page["Id"], "sh", "-c", f"echo 'a page of before' >{assets}/index-before.js")
    stack.deploy(**edit(1))
    assert stack.containers()["page"]["Id"] != page["Id"]
    asked = ["curl", "--silent", "--show-error", "--include", f"http://127.0.0.1:{stack.ports['frontend']}/assets/index-before.js"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert answer.startswith("HTTP/1.1 200")
    assert "a page of before" in answer
    assert "max-age=31536000" in answer
