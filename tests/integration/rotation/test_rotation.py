# SPDX-License-Identifier: GPL-3.0-or-later
"""Every secret gets a new value while somebody works with the platform; the old one is refused afterwards, and whatever is cut off is ended by another run.

People were locked out elsewhere when they changed a password where it stands: https://github.com/supabase/supabase/issues/30235,
https://github.com/fastapi/full-stack-fastapi-template/issues/344 and https://github.com/AppFlowy-IO/AppFlowy-Cloud/issues/1478 (a line of .env, and nobody
gets in), https://github.com/coollabsio/coolify/issues/9347 (saved, and the old one goes on), https://github.com/sentry-kubernetes/charts/issues/465 (replaced
by each upgrade, and the one of the volume is lost).
"""

import contextlib
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from deployed import full_only

from .conftest import DIRECTORY, PROJECT, ROOT, Stack, Visitor, docker

# Who signs in with a secret, and where: to ask what became of it.
LOGINS = {
    "postgres_password": ("postgres", "campaign_user"),
    "postgres_api_password": ("postgres", "campaign_api_login"),
    "postgres_rules_engine_password": ("postgres", "campaign_rules_engine_login"),
    "postgres_scheduler_password": ("postgres", "campaign_scheduler_login"),
    "redis_api_password": ("redis", "api"),
    "redis_rules_engine_password": ("redis", "rules_engine"),
    "redis_scheduler_password": ("redis", "scheduler"),
}
# Key pairs of MinIO: the secret that is the key, and the one that is its password.
PAIRS = (("s3_access_key", "s3_secret_key"), ("minio_root_user", "minio_root_password"))
# What is recreated when a secret alone is changed. Of the others nobody is.
API = {"api"}
RECREATED = {
    "postgres_password": set(),
    "postgres_api_password": API,
    "postgres_rules_engine_password": {"rules-engine"},
    "postgres_scheduler_password": {"scheduler"},
    "redis_api_password": API,
    "redis_rules_engine_password": {"rules-engine"},
    "redis_scheduler_password": {"scheduler"},
    "s3_access_key": API,
    "s3_secret_key": API,
    "jwt_secret": API,
    "operator_password": API,
    "minio_root_user": {"minio"},
    "minio_root_password": {"minio"},
    "generation_key": {"api", "minio", "rules-engine", "scheduler"},
}
# What two values at a time make possible without a failed request, all in one run.
WITHOUT_A_GAP = ["postgres_password", "redis_api_password", "redis_scheduler_password", "s3_access_key", "s3_secret_key", "jwt_secret"]
# Where some requests may fail: a role has one password at PostgreSQL, and what depends on MinIO is away with it.
WITH_A_GAP = {"postgres_api_password", "minio_root_user", "minio_root_password", "generation_key"}
# Seconds without a good answer there, on two busy cores.
OUTAGE = 120.0
TIMES = 3
# When a rotation is killed, by what can be seen by then of the values that it wrote.
MOMENTS: dict[str, Callable[[Stack], object]] = {
    "written": lambda stack: stack.secrets(),
    "jobs begin": lambda stack: stack.read("history.jsonl").count('"started"'),
    "beside": lambda stack: stack.count("api"),
    "switched": lambda stack: stack.read("routes/frontend/api.conf"),
}
SAMPLE_MOMENTS = ("beside",)


def in_use(before: dict[str, str], name: str) -> tuple[str, str]:
    """Return user and password that a secret stands for in a set of secrets."""
    for key, password in PAIRS:
        if name in (key, password):
            return before[key], before[password]
    return LOGINS[name][1], before[name]


def server_of(name: str) -> str | None:
    return "minio" if any(name in pair for pair in PAIRS) else LOGINS.get(name, (None,))[0]


def old_ones_are_refused(signs_in, before: dict[str, str], after: dict[str, str]) -> None:
    """See that what changed is refused, and that all that there is now is let in."""
    for name in (*LOGINS, *(key for key, _password in PAIRS)):
        kind = str(server_of(name))
        assert signs_in(kind, *in_use(after, name)), name
        if in_use(before, name) != in_use(after, name):
            assert not signs_in(kind, *in_use(before, name)), f"the old {name} is let in"
    visitor = Visitor(after["operator_password"])
    assert visitor.sign_in() == ""
    if before["operator_password"] != after["operator_password"]:
        assert Visitor(before["operator_password"]).sign_in() == "401"


def no_value_stands_in(text: str, *values: dict[str, str]) -> None:
    """See that none of the secrets stands in what Ansible printed. The name of an account at MinIO is no secret."""
    shown = {name for found in values for name, value in found.items() if value in text and name != "jwt_secret_previous"}
    assert not shown - {"s3_access_key", "minio_root_user"}, shown


def said(visitor: Visitor, what: str) -> float:
    """Print what came of the requests, and return the seconds from the first that failed to the last."""
    failed = visitor.failed_but_for_the_password()
    outage = failed[-1][0] - failed[0][0] if failed else 0.0
    kinds = dict(Counter(item[2] for item in failed))
    print(f"{what}: {len(failed)} of {len(visitor.asked)} requests failed {kinds}, from the first to the last {outage:.1f} s")
    return outage


def load_probes():
    spec = importlib.util.spec_from_file_location("leak_probes", ROOT / "tests/live/test_leaks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PLACES = load_probes()
# What a rotation adds to: definitions, processes, logs, files of the stack, and what jobs and Ansible write.
SAMPLE_PLACES = ("container-inspect", "process-arguments", "process-environments", "service-logs", "stack-directory", "postgres-catalogue")


class Host:
    """This machine, as the leak probes know a host."""

    project, directory = PROJECT, str(DIRECTORY)

    def run(self, *argv: str, check: bool = True, stdin: bytes | None = None, timeout: float = 60):
        done = subprocess.run(argv, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, timeout=timeout)
        assert not check or done.returncode == 0
        return done


def no_value_stands_elsewhere(stack, is_full: bool) -> None:
    values = {name: value for name, value in stack.secrets().items() if name != "jwt_secret_previous"}
    patterns = PLACES.patterns_of(values)
    for place in PLACES.PLACES:
        # This test keeps them itself, below the directory for temporary files.
        if place.name == "temporary-files" or not (is_full or place.name in SAMPLE_PLACES):
            continue
        canary = f"leak{hashlib.sha256(place.name.encode()).hexdigest()[:24]}"
        try:
            PLACES.on_host(Host(), place.plant, place, canary)
            found = set(PLACES.on_host(Host(), place.probe, place, canary, stdin=b"\n".join([*patterns, canary.encode()])).stdout.splitlines())
        finally:
            PLACES.on_host(Host(), place.clean + PLACES.CLEAN, place, canary)
        PLACES.judge(place.name, found, patterns, canary, place.keeps)


def test_all_at_once_while_somebody_works(stack, signs_in, is_full):
    before, ids = stack.secrets(), stack.containers()
    token = Visitor(before["operator_password"])
    with Visitor(before["operator_password"]) as visitor:
        token.token = visitor.token
        output = stack.well("rotate_secrets", rotate_secrets="all")
    after = stack.secrets()
    assert {name for name in before if before[name] == after[name]} == set()
    now = stack.containers()
    assert {service for service in ids if ids[service] != now[service]} == {"api", "minio", "rules-engine", "scheduler"}
    # Whoever was signed in goes on.
    assert token.ask("/api/campaigns", token.token) == ""
    assert said(visitor, "all at once") < OUTAGE
    old_ones_are_refused(signs_in, before, after)
    no_value_stands_in(output, before, after)
    no_value_stands_elsewhere(stack, is_full)
    # What was done is done: a deploy has nothing to do.
    assert "Changed by this run: no container." in stack.well("site")


def pytest_generate_tests(metafunc) -> None:
    full = metafunc.config.getoption("--full")
    if "changed" in metafunc.fixturenames:
        metafunc.parametrize("changed", [name for name in RECREATED for _time in range(TIMES)])
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", MOMENTS if full else SAMPLE_MOMENTS)


@full_only
def test_readers_are_recreated_and_nobody_else(stack, signs_in, changed):
    before, ids = stack.secrets(), stack.containers()
    with Visitor(before["operator_password"]) as visitor:
        output = stack.well("rotate_secrets", rotate_secrets=[changed])
    after, now = stack.secrets(), stack.containers()
    pairs = {name: set(PAIRS[0]) for name in PAIRS[0]}
    assert {one for one in before if before[one] != after[one]} - {"jwt_secret_previous"} == pairs.get(changed, {changed})
    assert {service for service in ids if ids[service] != now[service]} == RECREATED[changed], output[-3000:]
    assert said(visitor, changed) < OUTAGE
    if changed not in WITH_A_GAP:
        assert visitor.failed_but_for_the_password() == []
    old_ones_are_refused(signs_in, before, after)
    no_value_stands_in(output, before, after)


def test_a_rotation_that_was_killed_is_ended_by_another_run(stack, signs_in, moment, tmp_path):
    """Nobody notices either of them, because of each of these two values are let in at a time, and of the administrator's nobody waits."""
    before, ids = stack.secrets(), stack.containers()
    with Visitor(before["operator_password"]) as visitor:
        seen = MOMENTS[moment](stack)
        # Not into a pipe, because nobody would read it meanwhile.
        log = tmp_path / "output"
        with log.open("wb") as file:
            killed = stack.start("rotate_secrets", file, rotate_secrets=WITHOUT_A_GAP)
        while MOMENTS[moment](stack) == seen:
            assert killed.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        # Ansible's workers have sessions of their own, and outlive it.
        workers = [int(pid) for pid in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()]
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        between = stack.secrets()
        assert between != before
        # The step that it was in may go on by itself, under a lock that nobody gives back.
        output = stack.well("rotate_secrets", rotate_secrets=WITHOUT_A_GAP, stack_lock_takeover=True)
    after, now = stack.secrets(), stack.containers()
    assert {name for name in before if before[name] != after[name]} - {"jwt_secret_previous"} == set(WITHOUT_A_GAP)
    assert {service for service in ids if ids[service] != now[service]} == set().union(*(RECREATED[name] for name in WITHOUT_A_GAP)), output[-3000:]
    said(visitor, f"killed when {moment}, and once more")
    assert visitor.failed_but_for_the_password() == []
    no_value_stands_in(log.read_text() + output, before, between, after)
    old_ones_are_refused(signs_in, before, after)
    # Those that were given in the run that was killed are refused too.
    old_ones_are_refused(signs_in, between, after)
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def env_local(stack):
    yield stack.env_local
    stack.env_local.unlink(missing_ok=True)


def test_a_password_that_a_person_changed_is_deployed(stack, signs_in, env_local, is_full):
    """A line of .env.local, a deploy, and everybody gets in; then again without it, which is another password once more."""
    before, ids = stack.secrets(), stack.containers()
    given = before | {"postgres_password": "the administrator's own: a new one"}
    env_local.write_text(f'POSTGRES_PASSWORD="{given["postgres_password"]}"\n')
    output = stack.well("site")
    assert stack.containers() == ids, output[-3000:]
    assert signs_in("postgres", "campaign_user", given["postgres_password"].replace(":", "\\:"))
    assert not signs_in("postgres", "campaign_user", before["postgres_password"])
    no_value_stands_in(output, given)
    if not is_full:
        return
    # Its line gets a new value where it stands.
    stack.well("rotate_secrets", rotate_secrets="postgres_password")
    changed = env_local.read_text()
    assert changed.startswith("POSTGRES_PASSWORD=")
    assert given["postgres_password"] not in changed
    assert stack.secrets() == before
    assert not signs_in("postgres", "campaign_user", given["postgres_password"].replace(":", "\\:"))
    env_local.unlink()
    stack.well("site")
    assert signs_in("postgres", "campaign_user", before["postgres_password"])


@full_only
def test_a_deploy_that_fails_gives_the_old_password_back(stack, signs_in, env_local):
    stack.well("site")
    before = stack.secrets()
    given = {"POSTGRES_PASSWORD": "never-taken-into-use-9", "REDIS_URL": "redis://api:never-taken-into-use-8@redis:6379", "S3_ACCESS_KEY": "never-taken-7"}
    env_local.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    broken = {"base": {"services": {"scheduler": {"entrypoint": ["/bin/sh", "-c"], "command": ["echo no; exit 3"]}}}}
    status, output = stack.play("site", stack_services={"scheduler": broken}, stack_health_timeout=60)
    env_local.unlink()
    assert status == 2
    assert "was started again and is verified" in " ".join(output.split()), output[-4000:]
    for name in ("postgres_password", "redis_api_password", "s3_access_key"):
        assert signs_in(str(server_of(name)), *in_use(before, name)), name
    assert not signs_in("postgres", "campaign_user", given["POSTGRES_PASSWORD"])
    stack.well("site")


@full_only
def test_what_a_restarted_server_reads_is_what_was_deployed(stack, signs_in):
    """The files that servers read when they start have names that stay, and stand for the release that runs."""
    docker("restart", f"{PROJECT}-redis-1", f"{PROJECT}-postgres-1")
    deadline = time.monotonic() + 60
    while "PONG" not in stack.inside("redis", "redis-cli", "-u", "redis://health:none@redis:6379", "ping") and time.monotonic() < deadline:
        time.sleep(0.5)
    after = stack.secrets()
    assert signs_in("redis", "api", after["redis_api_password"])


@full_only
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["redis_api_pasword"], "redis_api_pasword is not a secret of this stack. Did you mean redis_api_password?"),
        (["redis_api_password", "tls_private_key"], "tls_private_key belongs to a certificate"),
        (["images_registry_password"], "images_registry_password is of the registry"),
        (["postgres_api_user"], "postgres_api_user is a name and not a secret"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_anything_is_touched(stack, names, words):
    before, ids, events = stack.secrets(), stack.containers(), stack.read("history.jsonl")
    status, output = stack.play("rotate_secrets", rotate_secrets=names)
    assert status == 2
    assert words in " ".join(output.split())
    assert (stack.secrets(), stack.containers(), stack.read("history.jsonl")) == (before, ids, events)
