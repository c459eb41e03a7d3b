# SPDX-License-Identifier: GPL-3.0-or-later
"""A verdict names every service that is not healthy and every job that did not end well."""

import time

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.engine import EngineError
from ansible_collections.campaign.platform.plugins.modules.verify import Stack

HEALTHY = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
STARTING = {"Status": "running", "ExitCode": 0, "Health": {"Status": "starting"}}


def ended(code: int) -> dict:
    return {"Status": "exited", "ExitCode": code}


class Engine:
    """Stands in for the Engine: each container's states one after the other, the last one for ever."""

    def __init__(self, states: dict[str, list[dict]]):
        self.states = states

    def get(self, path, **_query):
        if path == "/containers/json":
            return [{"Id": name, "Labels": {"com.docker.compose.service": name}} for name in self.states]
        states = self.states[path.split("/")[2]]
        return {"State": states.pop(0) if len(states) > 1 else states[0]}


def verdict(states, services=(), jobs=(), timeout=30):
    stack = Stack(Engine(states), {"project": "p", "services": list(services), "jobs": list(jobs), "timeout": timeout})
    return [(failure["service"], failure["got"]) for failure in stack.wait()]


def test_all_is_well_when_every_service_is_healthy_and_every_job_has_ended():
    assert verdict({"api": [STARTING, HEALTHY], "migrate": [{"Status": "running", "ExitCode": 0}, ended(0)]}, ["api"], ["migrate"]) == []


@pytest.mark.parametrize(
    ("images", "got"),
    [
        ({"/images/mirror:5000/api@sha256:1/json": "sha256:a"}, []),
        ({"/images/mirror:5000/api@sha256:1/json": "sha256:b"}, ["sha256:a"]),
        ({}, ["not there; sha256:a runs"]),
    ],
)
def test_a_service_must_run_the_image_of_its_digest(images, got):
    class Images:
        def get(self, path):
            if path not in images:
                raise EngineError("GET", "no such image", 404)
            return {"Id": images[path]}

    stack = Stack(Images(), {"project": "p", "services": [], "checks": [], "depth": "basic", "images": {"api": "mirror:5000/api:1@sha256:1"}})
    stack.containers = {"api": {"Image": "sha256:a"}}
    failures = [stack.ask(task) for task in stack.tasks()]
    assert [failure["got"] for failure in failures if failure] == got


def test_a_job_that_failed_ends_the_wait_at_once_and_is_named():
    started = time.monotonic()
    assert verdict({"migrate": [ended(3)], "other": [{"Status": "running", "ExitCode": 0}]}, jobs=["migrate", "other"]) == [
        ("migrate", "exited (exit code 3)"),
        ("other", "running without a healthcheck"),
    ]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (STARTING, "starting"),
        (ended(0), "exited (exit code 0)"),
        ({"Status": "running", "ExitCode": 0}, "running without a healthcheck"),
        ({"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy", "Log": [{"Output": "no route"}]}}, "unhealthy: no route"),
        (None, "no container"),
    ],
)
def test_a_service_that_is_not_healthy_in_time_is_named(state, got):
    assert verdict({"api": [state]} if state else {}, ["api"], timeout=0) == [("api", got)]
