# SPDX-License-Identifier: GPL-3.0-or-later
"""No request fails while the api, the page or a worker is replaced, and none while a release that does not work is tried."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from deployed import full_only
from load import PER_SECOND, Load

DEPLOYS, ROLLBACKS = 20, 5
SAMPLE = 2, 1
RETAINED = "/usr/share/nginx/html/retained/assets"
STATELESS = ("api", "page", "rules-engine", "scheduler")
# What is asked for, less what a machine that deploys meanwhile is late by.
LEAST_PER_SECOND = PER_SECOND * 0.9
EVERY_SECOND = {"stack_scheduler_tick_seconds": 1}
# How often each campaign was evaluated, seen by the server itself. One that was evaluated is due again a minute later.
COUNTED = """
CREATE TABLE public.evaluations (id uuid, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION public.count_evaluation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
'BEGIN IF NEW.evaluated_at IS DISTINCT FROM OLD.evaluated_at THEN INSERT INTO public.evaluations (id) VALUES (NEW.id); END IF; RETURN NULL; END';
CREATE TRIGGER count_evaluation AFTER UPDATE ON campaign.campaigns FOR EACH ROW EXECUTE FUNCTION public.count_evaluation();
"""
UNCOUNTED = "DROP TRIGGER count_evaluation ON campaign.campaigns; DROP FUNCTION public.count_evaluation; DROP TABLE public.evaluations"
OFTEN = """
SELECT count(e.at) FILTER (WHERE e.at < e.first + interval '50 s') FROM campaign.campaigns c
LEFT JOIN (SELECT id, at, min(at) OVER (PARTITION BY id) AS first FROM public.evaluations) e USING (id) WHERE c.created_at > to_timestamp({since}) GROUP BY c.id
"""


def edit(number: int) -> dict:
    """Return variables that change stateless services: each by itself, and several by a setting that they share."""
    service = STATELESS[number % len(STATELESS)]
    changed = {"stack_log_level": ("info", "warn")[number % 2]} if number % 3 == 2 else {}
    return {"stack_services": {service: {"base": {"services": {service: {"labels": {"edit": str(number)}}}}}}, **changed, **EVERY_SECOND}


@pytest.fixture
def load(stack) -> Load:
    stack.deploy(**EVERY_SECOND)
    secrets = json.loads(stack.secrets.read_text())
    return Load(stack.ports["frontend"], "operator", secrets["operator_password"])


@pytest.fixture
def counts(request) -> tuple[int, int]:
    return (DEPLOYS, ROLLBACKS) if request.config.getoption("--full") else SAMPLE


@pytest.fixture
def work(stack, load) -> Iterator[Callable[[], None]]:
    """Return what sees, afterwards, that the workers did all of their work since the beginning, each part once."""
    assert load
    since = int(stack.sql("SELECT extract(epoch FROM max(start))::bigint FROM campaign.ticks"))
    stack.sql(COUNTED)

    def see() -> None:
        deadline = time.monotonic() + 180
        while (often := Counter(int(row) for row in stack.sql(OFTEN.format(since=since)).split()))[0] and time.monotonic() < deadline:
            time.sleep(2)
        rows = stack.sql(f"SELECT extract(epoch FROM start)::bigint FROM campaign.ticks WHERE start >= to_timestamp({since}) ORDER BY start").split()
        starts = [int(row) for row in rows]
        print(f"{sum(often.values())} campaigns, evaluated how often before they were due again: {dict(often)}; {len(starts)} ticks")
        assert starts == list(range(since, since + len(starts)))
        assert often == {1: sum(often.values())}

    yield see
    stack.sql(UNCOUNTED)


def leave_an_asset(stack) -> None:
    """Leave an asset as a page of before would have, beside those of the page that serves."""
    page = stack.containers()["page"]
    names = stack.docker("exec", page["Id"], "ls", RETAINED).split()
    assert set(stack.docker("exec", page["Id"], "ls", "/usr/share/nginx/html/assets").split()) <= set(names)
    stack.docker("exec", page["Id"], "sh", "-c", f"echo 'a page of before' >{RETAINED}/index-before.js")


def test_no_request_fails_and_nothing_that_was_acknowledged_is_lost(stack, load, work, counts):
    deploys, rollbacks = counts
    leave_an_asset(stack)
    page = stack.containers()["page"]
    proxy = stack.containers()["frontend"]["Id"]
    began = time.monotonic()
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
    rate = len(seen.times) / (time.monotonic() - began)
    asked = f"{len(seen.times)} requests ({rate:.0f} a second) and {seen.uploads} slow uploads"
    print(f"{asked} over {deploys} deploys and {rollbacks} rollbacks, p99 {seen.p99() * 1000:.0f} ms")
    assert seen.failures == []
    # Other tests may be at work beside a sample.
    assert rate > LEAST_PER_SECOND or counts == SAMPLE
    assert seen.uploads > 0
    work()
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
