# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is wrong with a release, the one before serves afterwards, the run says why, and what could be known before anything stops was known then."""

import json
import socket
from contextlib import ExitStack
from typing import Any

import pytest
from deployed import full_only

SHELL = {"entrypoint": ["/bin/sh", "-c"]}
# Services with a state may be away for this long, in seconds. What has none is never away. The worst that was measured on two busy cores is 10 s for a name
# that the database does not know, and 6 s for another variant.
OUTAGE = 15


def entry(name: str, **body: Any) -> dict[str, Any]:
    return {"stack_services": {name: {"base": {"services": {name: body}}}}}


def job(name: str, container: str, **body: Any) -> dict[str, Any]:
    return {"stack_services": {name: {"base": {"services": {container: body}}}}}


# The variables of the release that fails, words of the message, and whether it is refused before anything is touched.
FAULTS: dict[str, tuple[dict[str, Any], str | tuple[str, ...], bool]] = {
    "missing image": ({"images_upstream": {"redis": "127.0.0.1:9/nowhere/redis:1"}}, "127.0.0.1:9/nowhere/redis:1", True),
    "wrong digest": ({"images_upstream": {"redis": f"127.0.0.1:9/nowhere/redis@sha256:{'0' * 64}"}}, "0000000000", True),
    "never healthy": (entry("api", healthcheck={"test": ["CMD", "false"], "interval": "1s"}), "api, health", False),
    "crash loop": (entry("scheduler", **SHELL, command=["echo no such table; exit 3"]), "scheduler does not stay up", False),
    "hangs": (entry("rules-engine", **SHELL, command=["sleep 1000"]), "rules-engine, health", False),
    "dies after 15 s": (
        {**entry("scheduler", **SHELL, command=["node main.mjs & sleep 15; exit 9"]), "stack_settle_seconds": 25},
        "scheduler, stability: expected to stay healthy for 25 s",
        False,
    ),
    "migration exits 1": (job("api", "api-migrate", **SHELL, command=["echo no such column; exit 1"]), "no such column", False),
    "port taken": ({"stack_frontend_port": 22999}, "22999", True),
    "disk full": ({"docker_host_min_disk_mb": 10**8}, "docker_host_min_disk_mb", True),
    "missing secret": ({"stack_generate_secrets": False, "stack_secrets": {}}, "stack_secrets.", True),
    # A changed password is put in force, so what fails is a name that the volume does not know.
    "wrong secret": ({"stack_postgres_user": "not_of_the_volume"}, "postgres-bootstrap", False),
    "store in a crash loop": (entry("redis", **SHELL, command=["echo no such option; exit 3"]), "redis does not stay up", False),
    "out of memory": (entry("rules-engine", mem_limit="24m", memswap_limit="24m"), ("rules-engine", "memory"), False),
    "invalid configuration": (entry("api", ports="8080:80"), "ports", True),
    "page answers 500": (
        entry("page", entrypoint=["nginx", "-g", "daemon off;"], tmpfs=["/tmp", "/usr/share/nginx/html"], healthcheck={"test": ["CMD", "true"]}),
        "page, page: expected GET / to answer 200; got 500",
        False,
    ),
}
# Those that change the container of a service with a state.
WITH_A_STATE = ("wrong secret", "store in a crash loop")
SAMPLE = ("missing image", "crash loop", "migration exits 1")


def pytest_generate_tests(metafunc) -> None:
    if "fault" in metafunc.fixturenames:
        metafunc.parametrize("fault", FAULTS if metafunc.config.getoption("--full") else SAMPLE)
    if "change" in metafunc.fixturenames:
        metafunc.parametrize("change", CHANGES if metafunc.config.getoption("--full") else ["set of services"])


def test_the_release_before_serves_again(stack, visitor, fault):
    variables, words, is_known_before = FAULTS[fault]
    stack.deploy()
    release, before = stack.current(), stack.running()
    with ExitStack() as held:
        if "stack_frontend_port" in variables:
            listener = held.enter_context(socket.create_server(("127.0.0.1", variables["stack_frontend_port"])))
            assert listener
        held.enter_context(visitor)
        result = stack.play(**variables)
    assert result.status == 2, result.text[-3000:]
    for word in [words] if isinstance(words, str) else words:
        assert word in result.text, result.text[-4000:]
    assert stack.current() == release
    outage = max(visitor.outage(path) for path in ("/", "/api/health/ready"))
    print(f"{fault}: no good answer for {outage:.1f} s, of {len(visitor.asked)} asked")
    if is_known_before:
        assert stack.running() == before
        assert outage == 0
        assert "Nothing that runs was changed." in result.text or "Nothing was changed" in result.text, result.text[-4000:]
    else:
        assert "was started again and is verified" in result.text, result.text[-4000:]
        if fault in WITH_A_STATE:
            assert outage < OUTAGE
        else:
            assert stack.running() == before
            assert outage == 0
        assert stack.events()[-1]["event"] == "rolled_back"
    verified = stack.play("verify")
    assert verified.status == 0, verified.text[-3000:]


# --- What a release changes is more than one service


def secrets(stack) -> dict[str, str]:
    """Return what was generated for the local variant, which the other one has to be given."""
    return json.loads(stack.secrets.read_text())


def of_another_variant(stack) -> dict[str, Any]:
    ours = {"stack_variant": "prod", "stack_generate_secrets": False, "stack_secrets": secrets(stack)}
    return {**ours, **entry("page", healthcheck={"test": ["CMD", "false"], "interval": "1s"})}


def of_other_services(stack) -> dict[str, Any]:
    """Take a service out, and bring another one that never gets healthy."""
    image = json.loads(stack.read("current/manifest.json"))["images"]["frontend"]
    body = {
        "image": image,
        "user": "101:101",
        "entrypoint": ["sleep", "infinity"],
        "networks": ["backend-network"],
        "healthcheck": {"test": ["CMD", "false"], "interval": "1s"},
    }
    return {"stack_services": {"scheduler": None, "newcomer": {"base": {"services": {"newcomer": body}}}}}


# How long the page or the api may be away: another variant gives the stores other limits.
CHANGES = {"variant": (of_another_variant, "page, health", OUTAGE), "set of services": (of_other_services, "newcomer, health", 0)}


def test_the_way_back_leads_over_a_change_of_the(stack, visitor, change):
    variables_of, words, longest = CHANGES[change]
    stack.deploy()
    release, before = stack.current(), stack.running()
    with visitor:
        result = stack.play(stack_health_timeout=30, **variables_of(stack))
    outages = {path: visitor.outage(path) for path in ("/", "/api/health/ready")}
    print(f"another {change}: no good answer for {outages} s, of {len(visitor.asked)} asked")
    assert result.status == 2, result.text[-3000:]
    assert words in result.text, result.text[-4000:]
    assert "was started again and is verified" in result.text, result.text[-4000:]
    assert stack.current() == release
    assert stack.running().keys() == before.keys()
    services = json.loads(stack.read("current/manifest.json"))["services"]
    for service, container in stack.containers().items():
        # Nothing of the release that failed is left, whether it runs or not.
        assert service in stack.hashes(), service
        if service in services:
            assert container["Config"]["Labels"]["com.docker.compose.config-hash"] == stack.hashes()[service], service
    assert stack.events()[-1]["event"] == "rolled_back"
    verified = stack.play("verify")
    assert verified.status == 0, verified.text[-3000:]
    assert max(outages.values()) <= longest


# --- The release before does not come up again either


@pytest.fixture
def without_postgis(stack):
    """Take away what the services' checks ask PostGIS for, which nothing that a release brings along puts right."""
    stack.deploy()
    signature, there, away = "public.%s(double precision, double precision)", "st_makepoint", "st_makepoint_away"
    stack.sql(f"ALTER FUNCTION {signature % there} RENAME TO {away}")
    given_back: list[bool] = []

    def give_back() -> None:
        if not given_back:
            given_back.append(True)
            stack.sql(f"ALTER FUNCTION {signature % away} RENAME TO {there}")

    yield give_back
    give_back()


@full_only
def test_a_way_back_that_fails_says_so_and_one_deploy_brings_it_back(stack, without_postgis):
    release = stack.current()
    result = stack.play(stack_health_timeout=20, **entry("frontend", healthcheck={"test": ["CMD", "false"], "interval": "1s"}))
    assert result.status == 3, result.text[-3000:]
    assert "frontend, health" in result.text, result.text[-4000:]
    # The message is printed twice.
    _before, failed, after = result.text.rpartition(f"release {release} did NOT come up again:")
    assert failed, result.text[-4000:]
    # What is wrong with the release before, and not once more what was wrong with the new one.
    assert "postgis" in after, after
    assert "frontend, health" not in after, after
    assert "was started again and is verified" not in result.text
    assert stack.events()[-1]["event"] == "not_rolled_back"
    assert stack.current() == release
    assert stack.play("verify").status == 2
    without_postgis()
    stack.deploy()
    assert (stack.current(), stack.events()[-1]["event"]) == (release, "succeeded")
    verified = stack.play("verify")
    assert verified.status == 0, verified.text[-3000:]
