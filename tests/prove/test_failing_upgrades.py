# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is wrong with a release, the one before serves afterwards, the run says why, and what could be known before anything stops was known then."""

import socket
from contextlib import ExitStack
from typing import Any

SHELL = {"entrypoint": ["/bin/sh", "-c"]}
# Services with a state may be away for this long, in seconds, on two busy cores. What has none is never away.
OUTAGE = 60


def entry(name: str, **body: Any) -> dict[str, Any]:
    return {"stack_services": {name: {"base": {"services": {name: body}}}}}


def job(name: str, container: str, **body: Any) -> dict[str, Any]:
    return {"stack_services": {name: {"base": {"services": {container: body}}}}}


# The variables of the release that fails, words of the message, and whether it is refused before anything is touched.
FAULTS: dict[str, tuple[dict[str, Any], str, bool]] = {
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
    "out of memory": (entry("rules-engine", mem_limit="24m", memswap_limit="24m"), "rules-engine", False),
    "invalid configuration": (entry("api", ports="8080:80"), "ports", True),
    "page answers 500": (
        entry("page", entrypoint=["nginx", "-g", "daemon off;"], tmpfs=["/tmp", "/usr/share/nginx/html"], healthcheck={"test": ["CMD", "true"]}),
        "page, page: expected GET / to answer 200; got 500",
        False,
    ),
}
# Those that change the container of a service with a state.
WITH_A_STATE = ("wrong secret",)
SAMPLE = ("missing image", "crash loop", "migration exits 1")


def pytest_generate_tests(metafunc) -> None:
    metafunc.parametrize("fault", FAULTS if metafunc.config.getoption("--full") else SAMPLE)


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
    assert words in result.text, result.text[-4000:]
    assert stack.current() == release
    outage = max(visitor.outage(path) for path in ("/", "/api/health/ready"))
    print(f"{fault}: no good answer for {outage:.1f} s, of {len(visitor.asked)} asked")
    if is_known_before:
        assert stack.running() == before
        assert outage == 0
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
