# SPDX-License-Identifier: GPL-3.0-or-later
"""The verification notices what is wrong: for each kind of check there is a service that fails it, beside one that does not."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import http, verification
from ansible_collections.campaign.platform.plugins.modules import verify as module

HEALTHY = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
STARTING = {"Status": "running", "ExitCode": 0, "Health": {"Status": "starting"}}
RUNNING = {"Status": "running", "ExitCode": 0}


def ended(code: int) -> dict:
    return {"Status": "exited", "ExitCode": code}


@pytest.fixture
def verify(engine, run_module):
    """Run the module on a project of the services that the test added."""

    def run(*checks: dict, **params) -> dict:
        params = {"project": "p", "services": list(engine.containers), "timeout": 0, "checks": list(checks), "socket": engine.path, **params}
        return run_module(module, **{name: value for name, value in params.items() if value is not None})

    return run


@pytest.fixture
def api(engine):
    engine.container("api", HEALTHY)


def got(answer: dict) -> list[str]:
    """What was found wrong, check by check; the message says all of it."""
    for failure in answer["failures"]:
        assert f"{failure['service']}, {failure['check']}: expected {failure['expected']}; got {failure['got']}" in answer.get("msg", "")
    assert bool(answer.get("failed")) == bool(answer["failures"])
    return [failure["got"] for failure in answer["failures"]]


# --- State, health and jobs


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([HEALTHY], []),
        ([STARTING], ["starting"]),
        ([ended(0)], ["exited (exit code 0)"]),
        ([{"Status": "restarting", "ExitCode": 137, "OOMKilled": True}], ["restarting (exit code 137), killed for want of memory"]),
        ([{"Status": "exited", "ExitCode": 0, "OOMKilled": True}], ["exited (exit code 0)"]),
        ([{"Status": "restarting", "ExitCode": 7, "Health": {"Status": "healthy"}}], ["restarting (exit code 7)"]),
        ([RUNNING], [verification.NO_HEALTHCHECK]),
        (
            [{"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "no route"}]}}],
            ["unhealthy: no route"],
        ),
        ([], ["no container"]),
    ],
)
def test_a_service_that_is_not_healthy_is_named(engine, verify, states, found):
    if states:
        engine.container("api", *states)
    answer = verify(services=["api"])
    assert got(answer) == found
    if found:
        assert (answer["failures"][0]["service"], answer["failures"][0]["look"]) == ("api", "docker compose -p p logs api")


@pytest.mark.parametrize(
    ("later", "found"),
    [
        ({**HEALTHY, "StartedAt": "1"}, []),
        ({**HEALTHY, "StartedAt": "2", "ExitCode": 0}, ["it ended and was started again (exit code 0)"]),
        (ended(7), ["exited (exit code 7)"]),
        ({**HEALTHY, "Health": {"Status": "unhealthy", "Log": [{"Output": "gone"}]}, "StartedAt": "1"}, ["unhealthy: gone"]),
    ],
)
def test_a_service_that_does_not_stay_healthy_fails(engine, verify, later, found):
    first = {**HEALTHY, "StartedAt": "1"}
    engine.container("api", first, first, later)
    engine.container("worker", {**HEALTHY, "StartedAt": "1"})
    answer = verify(settle=1)
    assert got(answer) == found
    if found:
        assert (answer["failures"][0]["service"], answer["failures"][0]["check"]) == ("api", "stability")


@pytest.fixture
def clock(monkeypatch):
    """Return the seconds that were slept in all; nobody really sleeps."""
    slept = [0.0]
    monkeypatch.setattr(verification.time, "sleep", lambda seconds: slept.__setitem__(0, slept[0] + seconds))
    monkeypatch.setattr(verification.time, "monotonic", lambda: slept[0])
    return slept


@pytest.mark.parametrize(
    ("test", "asked", "code", "start", "seconds"),
    [
        # Five seconds until the Engine calls it healthy, and a window of three, which begins with the first answer; half of it comes after the Engine's.
        (["CMD", "node", "health.js"], ["node", "health.js"], 0, "1", 6.5),
        (["CMD-SHELL", "curl x"], ["/bin/sh", "-c", "curl x"], 0, "1", 6.5),
        (["CMD", "node", "health.js"], ["node", "health.js"], 1, "1", 8),
        (["CMD", "node", "health.js"], ["node", "health.js"], 0, "2", 8),
        (None, None, None, "1", 8),
    ],
)
def test_the_window_begins_when_the_service_answers(engine, verify, container_runs, clock, test, asked, code, start, seconds):
    container_runs(code or 0)
    waiting = [{**STARTING, "StartedAt": start}] * 25
    engine.container("api", *waiting, {**HEALTHY, "StartedAt": "1"}, Config={"Healthcheck": {"Test": test}} if test else {})
    assert got(verify(timeout=30, settle=3)) == []
    assert clock[0] == pytest.approx(seconds, abs=0.7)
    commands = [json.loads(request.body)["Cmd"] for request in engine.requests if request.path.endswith("/containers/api/exec")]
    # It is asked once, or every half a second where it does not answer.
    assert commands == ([asked] if code == 0 else [asked] * len(commands)) if asked else commands == []


@pytest.mark.usefixtures("clock")
def test_a_command_that_hangs_is_not_started_again_beside_itself(engine, verify, container_runs):
    container_runs(running=10**6)
    engine.container("api", *[{**STARTING, "StartedAt": "1"}] * 25, {**HEALTHY, "StartedAt": "1"}, Config={"Healthcheck": {"Test": ["CMD", "x"]}})
    assert got(verify(timeout=30, settle=3)) == []
    assert len(engine.asked("POST", "/containers/api/exec")) == 1


def test_where_nothing_is_watched_no_service_is_asked_early(engine, verify):
    engine.container("api", STARTING, HEALTHY, Config={"Healthcheck": {"Test": ["CMD", "x"]}})
    assert got(verify(timeout=30)) == []
    assert not [request for request in engine.requests if request.path.endswith("/exec")]


@pytest.fixture
def two(engine):
    """A service that is being replaced: an old container that works, and a new one that does not."""
    engine.container("old", HEALTHY)
    engine.container("new", {"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy", "Log": [{"Output": "no route"}]}})
    labels = {"com.docker.compose.service": "api"}
    # The Engine lists the newest first.
    engine.on("GET", "/containers/json", [{"Id": "new", "Created": 2, "Labels": labels}, {"Id": "old", "Created": 1, "Labels": labels}])


@pytest.mark.usefixtures("two")
def test_of_two_containers_the_newer_one_is_asked(verify):
    assert got(verify(services=["api"])) == ["unhealthy: no route"]


@pytest.mark.usefixtures("api")
def test_what_is_started_beside_is_asked_at_its_own_address_and_nothing_else_is(engine, verify, web):
    engine.container("worker", ended(1))
    web.on("GET", "/ready", "ok")
    answer = verify(
        {"service": "api", "name": "ready", "kind": "http", "port": web.port, "path": "/ready"},
        {"service": "api", "name": "published", "kind": "http", "address": "127.0.0.1", "port": web.port, "path": "/no"},
        {"service": "api", "name": "end to end", "kind": "http", "port": web.port, "path": "/no", "depth": "full"},
        {"service": "worker", "name": "ready", "kind": "http", "port": web.port, "path": "/no"},
        images={"api": "image:1", "worker": "image:1"},
        beside=["api"],
        depth="full",
    )
    # Health, log and image of the one service, and the one check.
    assert (got(answer), answer["passed"]) == ([], 4)
    assert len(web.requests) == 1


@pytest.mark.usefixtures("api")
def test_what_is_started_beside_can_fail(verify, web):
    web.on("GET", "/ready", "ok")
    answer = verify({"service": "api", "name": "page", "kind": "http", "port": web.port, "path": "/"}, beside=["api"])
    assert len(got(answer)) == 1


@pytest.fixture
def release(tmp_path):
    """The manifest of a release of two services."""
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"project": "p", "services": ["api", "worker"]}))
    return path


@pytest.mark.parametrize("containers", [{}, {"api": ended(0)}, {"api": ended(137), "worker": ended(0)}], ids=["removed", "one left", "stopped"])
def test_a_release_of_which_nothing_runs_is_not_waited_for(engine, verify, release, containers):
    for service, state in containers.items():
        engine.container(service, state)
    began = time.monotonic()
    answer = verify(project=None, services=None, checks=None, manifest=str(release), timeout=30)
    assert time.monotonic() - began < 10
    assert answer["failed"]
    assert "no service of p runs" in answer["msg"]
    assert "\n" not in answer["msg"]


@pytest.mark.parametrize(
    "state", [STARTING, {"Status": "restarting", "ExitCode": 1}, {"Status": "created", "ExitCode": 0}, {"Status": "paused", "ExitCode": 0}]
)
def test_of_a_release_of_which_something_runs_or_starts_each_service_is_told(engine, verify, release, state):
    engine.container("api", state)
    assert "worker, health: expected healthy; got no container" in verify(project=None, services=None, checks=None, manifest=str(release))["msg"]


def test_a_run_that_has_started_the_services_is_told_what_became_of_each(engine, verify, release, tmp_path):
    engine.container("api", ended(3))
    answer = verify(project=None, services=None, checks=None, manifest=str(release), lock_directory=str(tmp_path))
    assert got(answer) == ["exited (exit code 3)", "no container"]


def test_what_failed_already_is_not_watched(engine, verify):
    engine.container("api", ended(1))
    began = time.monotonic()
    assert got(verify(settle=30)) == ["exited (exit code 1)"]
    assert time.monotonic() - began < 10


def test_the_lock_gets_signs_of_life_while_a_service_is_waited_for(engine, verify, tmp_path):
    path = tmp_path / "lock.json"
    path.write_text("{}")
    os.utime(path, (0, 0))
    engine.container("api", STARTING, HEALTHY)
    verify(timeout=30, lock_directory=str(tmp_path))
    assert path.stat().st_mtime > 0


def test_a_service_that_becomes_healthy_is_waited_for(engine, verify):
    engine.container("api", STARTING, STARTING, HEALTHY)
    assert got(verify(timeout=30)) == []


def test_a_service_that_started_again_once_is_given_its_time(engine, verify):
    engine.container("api", {"Status": "restarting", "ExitCode": 1}, RestartCount=4)
    started = time.monotonic()
    assert got(verify(timeout=1)) == ["restarting (exit code 1), started again 4 times"]
    assert time.monotonic() - started >= 1


def test_a_crash_loop_ends_the_wait_at_once_and_is_named_first(engine, verify):
    engine.container("api", STARTING)
    engine.container("database", {"Status": "restarting", "ExitCode": 1}, RestartCount=5)
    engine.container("migrate", RUNNING)
    started = time.monotonic()
    answer = verify(services=["api", "database"], jobs=["migrate"], timeout=30)
    assert time.monotonic() - started < 5
    assert got(answer) == ["restarting (exit code 1), started again 5 times", "starting", "running"]
    assert answer["failures"][0]["service"] == "database"


def test_a_service_that_came_through_a_crash_loop_is_fine(engine, verify):
    engine.container("api", HEALTHY, RestartCount=9)
    assert got(verify()) == []


def test_a_job_that_still_runs_is_waited_for(engine, verify):
    engine.container("api", HEALTHY)
    engine.container("migrate", RUNNING, RUNNING, ended(0))
    answer = verify(services=["api"], jobs=["migrate"], timeout=30)
    assert got(answer) == []
    # Health, log and job.
    assert answer["passed"] == 3


def test_a_job_that_does_not_end_is_a_failure(engine, verify):
    engine.container("migrate", RUNNING)
    (failure,) = verify(services=[], jobs=["migrate"])["failures"]
    assert (failure["expected"], failure["got"]) == ("exited (exit code 0)", "running")


@pytest.mark.parametrize(("job", "service"), [(ended(3), RUNNING), (ended(1), STARTING)])
def test_a_job_that_failed_ends_the_wait_at_once_and_is_named(engine, verify, job, service):
    engine.container("migrate", job)
    engine.container("api", service)
    started = time.monotonic()
    assert f"exited (exit code {job['ExitCode']})" in got(verify(services=["api"], jobs=["migrate"], timeout=30))
    assert time.monotonic() - started < 5


def test_a_service_that_exited_may_come_back_in_time(engine, verify):
    engine.container("api", ended(1), HEALTHY)
    assert got(verify(timeout=30)) == []


@pytest.mark.usefixtures("api")
def test_only_the_project_s_own_containers_count(engine, verify):
    verify()
    (asked,) = {request.query["filters"] for request in engine.asked("GET", "/containers/json")}
    assert json.loads(asked) == {"label": ["com.docker.compose.project=p", "com.docker.compose.oneoff=False"]}


@pytest.mark.usefixtures("api")
def test_a_container_that_goes_between_two_questions_is_not_an_error(engine, verify, reply):
    answers = iter([reply(404, {"message": "No such container"})])
    engine.on("GET", "/containers/api/json", lambda request: next(answers, None) or engine._container(request))
    assert got(verify(timeout=30)) == []


@pytest.mark.usefixtures("api")
def test_an_engine_that_fails_is_named(engine, verify, reply):
    engine.on("GET", "/containers/json", reply(500, {"message": "database is locked"}))
    answer = verify()
    assert answer["failed"]
    assert "database is locked" in answer["msg"]
    assert "no.sock" in verify(socket="/nowhere/no.sock")["msg"]


def test_the_last_lines_of_who_failed_come_with_the_answer(engine, verify, framed):
    engine.container("api", STARTING)
    engine.container("frontend", HEALTHY)
    engine.on("GET", "/containers/api/logs", framed(b"one\n") + framed(b"two\n", 2))
    assert verify()["logs"] == {"api": "one\ntwo\n"}


# --- Logs and images


@pytest.mark.parametrize("status", [501, 500])
def test_a_log_that_cannot_be_read_is_a_failure(engine, verify, reply, status):
    engine.container("api", HEALTHY, HostConfig={"LogConfig": {"Type": "none"}})
    engine.on("GET", "/containers/api/logs", reply(status, {"message": "configured logging driver does not support reading"}))
    answer = verify()
    assert answer["logs"] == {"api": ""}
    (found,) = got(answer)
    assert found == f"status {status} from the log driver none: configured logging driver does not support reading"


@pytest.mark.usefixtures("api")
def test_a_service_may_have_nothing_to_say(engine, verify):
    engine.on("GET", "/containers/api/logs", b"")
    answer = verify()
    assert (got(answer), answer["passed"]) == ([], 2)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ({"mirror:5000/api@sha256:1": "sha256:a"}, []),
        ({"mirror:5000/api@sha256:1": "sha256:b", "mirror:5000/api:1": "sha256:a"}, ["sha256:a"]),
        ({"mirror:5000/api:1": "sha256:a"}, ["not there; sha256:a runs"]),
    ],
)
@pytest.mark.usefixtures("api")
def test_a_service_must_run_the_image_of_its_digest(engine, verify, reply, images, found):
    def image(request):
        name = request.path.removeprefix("/images/").removesuffix("/json")
        return {"Id": images[name]} if name in images else reply(404, {"message": "no such image"})

    engine.on("GET", "/images/.+/json", image)
    assert got(verify(images={"api": "mirror:5000/api:1@sha256:1"})) == found


@pytest.mark.usefixtures("api")
def test_an_engine_that_cannot_tell_the_image_is_a_failure(engine, verify, reply):
    engine.on("GET", "/images/.+/json", reply(500, {"message": "disk error"}))
    (found,) = got(verify(images={"api": "api:1"}))
    assert "disk error" in found


# --- http


def page(web, **more) -> dict:
    return {"service": "api", "name": "the page", "kind": "http", "port": web.port, **more}


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ({}, None),
        ({"contains": '<div id="root">', "status": 200, "headers": {"X-A": "1"}}, None),
        ({"headers": {"X-A": 1}}, None),
        ({"path": "/gone", "status": 404}, None),
        ({"contains": "another text"}, '<div id="root">'),
        ({"path": "/gone"}, "404 it is gone"),
        ({"status": 308}, '200 <div id="root">'),
        ({"headers": {"X-A": "2"}}, "1"),
        ({"headers": {"X-B": "1"}}, "no such header"),
        # The text of another status proves nothing.
        ({"path": "/gone", "contains": "gone"}, "404 it is gone"),
    ],
)
@pytest.mark.parametrize("address", [None, "127.0.0.1", "0.0.0.0"])
@pytest.mark.usefixtures("api")
def test_http(verify, web, reply, check, found, address):
    web.on("GET", "/", reply(body='<div id="root">', headers={"X-A": "1"}))
    web.on("GET", "/gone", reply(404, "it is gone"))
    assert got(verify(page(web, address=address, **check))) == ([found] if found else [])


@pytest.mark.usefixtures("api")
def test_http_asks_for_its_path_and_query(verify, web):
    web.on("GET", "/a", "x")
    assert got(verify(page(web, path="/a?b=c"))) == []
    assert web.requests[0].query == {"b": "c"}


@pytest.mark.usefixtures("api")
def test_every_failure_is_reported(verify, web):
    answer = verify(page(web, status=201), page(web, status=202, name="another"))
    assert [failure["check"] for failure in answer["failures"]] == ["the page", "another"]
    # Health and log passed.
    assert (answer["passed"], answer["msg"].splitlines()[0]) == (2, "2 of 4 checks failed:")


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.usefixtures("api")
def test_a_proxy_is_given_time_to_learn_of_a_new_service(verify, web, reply, status):
    web.on("GET", "/", lambda _request: reply(status) if len(web.requests) < 3 else reply(body="hello"))
    assert got(verify(page(web, contains="hello"))) == []


@pytest.mark.usefixtures("api")
def test_a_proxy_that_learns_of_nothing_is_a_failure(verify, web, reply, monkeypatch):
    monkeypatch.setattr(verification, "GATEWAY_SECONDS", 0.5)
    web.on("GET", "/", reply(502, "nobody is there"))
    assert got(verify(page(web))) == ["502 nobody is there"]
    assert len(web.requests) > 1
    # What somebody waits for is no failure, and nothing but a proxy's answer gets better by itself.
    asked = len(web.requests)
    assert got(verify(page(web, status=502))) == []
    web.on("GET", "/", reply(500, "broken"))
    assert got(verify(page(web))) == ["500 broken"]
    assert len(web.requests) == asked + 2


def test_a_proxy_of_what_is_ill_is_asked_once(engine, verify, web, reply):
    engine.container("api", STARTING)
    web.on("GET", "/", reply(502, "nobody is there"))
    assert got(verify(page(web)))[-1] == "502 nobody is there"
    assert len(web.requests) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.usefixtures("api")
def test_http_where_nobody_listens(verify):
    port = free_port()
    assert got(verify({"service": "api", "name": "page", "kind": "http", "port": port})) == [f"127.0.0.1:{port}: Connection refused"]


def test_http_of_a_service_without_an_address(engine, verify, web):
    engine.container("api", HEALTHY, NetworkSettings={"Networks": {"none": {"IPAddress": ""}}})
    assert got(verify(page(web), page(web, service="other"))) == ["there is no address to ask"] * 2


@pytest.mark.usefixtures("api")
def test_an_answer_that_does_not_come_ends(verify, web, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    web.on("GET", "/", lambda _request: time.sleep(2))
    started = time.monotonic()
    assert got(verify(page(web))) == [f"127.0.0.1:{web.port}: TimeoutError"]
    assert time.monotonic() - started < 1.5


@pytest.mark.usefixtures("api")
def test_what_is_not_http_is_a_failure(verify):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection = server.accept()[0]
            connection.recv(1000)
            connection.sendall(b"SSH-2.0\r\n")
            connection.close()

        with background(answer):
            (found,) = got(verify({"service": "api", "name": "page", "kind": "http", "port": server.getsockname()[1]}))
    assert "BadStatusLine" in found


@contextmanager
def background(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield
    thread.join(5)


# --- probe


SENT = {"nonce": "{nonce}", "lng": "{longitude}", "place": {"lat": ["{latitude}"]}, "text": "{nonce} in {longitude}", "other": "{other}", "number": 5}
ANSWERS = {"postgis": "POINT({longitude} {latitude})", "redis": "{nonce}", "refused": "28P01", "echo": "{latitude}"}


def probe(web, **more) -> dict:
    return {"service": "api", "name": "dependencies", "kind": "probe", "port": web.port, "send": SENT, "expect": ANSWERS, **more}


def answers(request, **wrong) -> dict:
    sent = request.payload
    right = {"postgis": f"POINT({sent['lng']:g} {sent['place']['lat'][0]:g})", "redis": sent["nonce"], "refused": "28P01", "echo": sent["place"]["lat"][0]}
    return {"checks": [{"name": name, "got": value, "detail": "why"} for name, value in {**right, **wrong}.items() if value is not None]}


@pytest.mark.usefixtures("api")
def test_a_probe_is_sent_what_it_cannot_know(verify, web):
    web.on("POST", "/internal/probe", answers)
    assert got(verify(probe(web))) == []
    assert got(verify(probe(web))) == []
    first, second = (request.payload for request in web.requests)
    assert web.requests[0].headers["Content-Type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", first["nonce"])
    assert (type(first["lng"]), first["other"], first["number"]) == (float, "{other}", 5)
    assert first["text"] == f"{first['nonce']} in {first['lng']:g}"
    assert -180 < first["lng"] < 180
    assert -90 < first["place"]["lat"][0] < 90
    assert all(first[name] != second[name] for name in ("nonce", "lng", "place"))


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"redis": "old value"}, "redis: old value why"),
        ({"postgis": "POINT(0 0)"}, "postgis: POINT(0 0) why"),
        ({"refused": "no error"}, "refused: no error why"),
        ({"redis": None}, "redis: no such answer"),
        ({"echo": "1.5"}, "echo: 1.5 why"),
        ({"redis": "x", "refused": None}, "redis: x why, refused: no such answer"),
        ({"more": "does not matter"}, None),
    ],
)
@pytest.mark.usefixtures("api")
def test_a_probe_with_a_wrong_answer_is_a_failure(verify, web, wrong, found):
    web.on("POST", "/internal/probe", lambda request: answers(request, **wrong))
    assert got(verify(probe(web))) == ([found] if found else [])


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"{}", b'{"checks": 1}', b'{"checks": [{}]}', b'{"checks": ["a"]}'])
@pytest.mark.usefixtures("api")
def test_a_probe_that_answers_in_another_form_is_a_failure(verify, web, body):
    web.on("POST", "/internal/probe", body)
    answer = verify(probe(web))
    assert got(answer) == [body.decode()]
    assert answer["failures"][0]["expected"] == "POST /internal/probe to answer JSON of the documented form"


@pytest.mark.usefixtures("api")
def test_a_probe_that_answers_with_an_error_is_a_failure(verify, web, reply):
    web.on("POST", "/other", lambda request: reply(500, answers(request)))
    (found,) = got(verify(probe(web, path="/other")))
    assert found.startswith("500 ")


@pytest.mark.usefixtures("api")
def test_a_probe_that_nobody_answers_is_a_failure(verify, web):
    port = free_port()
    assert got(verify(probe(web, port=port))) == [f"127.0.0.1:{port}: Connection refused"]


# --- tcp


def tcp(port: int, **more) -> dict:
    return {"service": "api", "name": "port", "kind": "tcp", "port": port, **more}


@pytest.mark.parametrize("check", [{}, {"expect": "open"}, {"address": "127.0.0.1"}])
@pytest.mark.usefixtures("api")
def test_a_port_must_be_open(verify, web, check):
    assert got(verify(tcp(web.port, **check))) == []
    port = free_port()
    assert got(verify(tcp(port, **check))) == [f"127.0.0.1:{port}: Connection refused"]


@pytest.mark.usefixtures("api")
def test_a_port_of_a_service_without_an_address_is_not_open(verify, web):
    assert got(verify(tcp(web.port, service="other"))) == ["there is no address to ask"]


def test_one_open_address_of_several_is_enough(engine, verify, web):
    engine.container("api", HEALTHY, NetworkSettings={"Networks": {"a": {"IPAddress": "127.0.0.9"}, "b": {"IPAddress": "127.0.0.1"}}})
    assert got(verify(tcp(web.port))) == []


def published(engine, port: int | None) -> None:
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]} if port else {"80/tcp": None}
    engine.container("api", HEALTHY, NetworkSettings={"Networks": {}, "Ports": bindings})


@pytest.mark.parametrize(("open_on", "is_failure"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_port_that_is_reachable_from_outside_is_a_failure(engine, verify, open_on, is_failure):
    # The machine's own addresses, as the kernel has them.
    addresses = verification.host_addresses()
    assert addresses
    assert not [address for address in addresses if address.startswith("127.")]
    with socket.create_server((open_on, 0)) as server:
        port = server.getsockname()[1]
        published(engine, port)
        assert got(verify(tcp(port, expect="loopback"))) == ([f"{addresses[0]}:{port} accepts connections"] if is_failure else [])


def test_one_address_that_is_reachable_is_enough_for_a_failure(engine, verify, monkeypatch):
    monkeypatch.setattr(verification, "host_addresses", lambda: ["127.0.0.3", "127.0.0.2"])
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        published(engine, port)
        assert got(verify(tcp(port, expect="loopback"))) == [f"127.0.0.2:{port} accepts connections"]


@pytest.mark.parametrize("port", [None, 1])
def test_a_port_that_the_service_does_not_publish_is_not_its_affair(engine, verify, port):
    with socket.create_server(("0.0.0.0", 0)) as server:
        published(engine, port)
        assert got(verify(tcp(server.getsockname()[1], expect="loopback"))) == []
        engine.containers["api"]["NetworkSettings"]["Ports"] = None
        assert got(verify(tcp(server.getsockname()[1], expect="loopback"))) == []


def test_an_address_that_was_the_host_s_is_no_longer_asked(verify, engine, monkeypatch):
    """Another project's network went meanwhile, and whoever has the address now, or a gateway, answers."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        published(engine, port)
        for then, found in ((["127.0.0.2"], [f"127.0.0.2:{port} accepts connections"]), ([], [])):
            answers = iter([["127.0.0.2"], then])
            monkeypatch.setattr(verification, "host_addresses", lambda answers=answers: next(answers))
            assert got(verify(tcp(port, expect="loopback"))) == found


def test_a_host_that_does_not_tell_its_addresses_proves_nothing(engine, verify, monkeypatch):
    monkeypatch.setattr(verification, "ROUTES", "/nowhere")
    published(engine, 5432)
    assert got(verify(tcp(5432, expect="loopback"))) == ["No such file or directory"]


def test_the_host_s_addresses_are_those_that_the_kernel_lists():
    listed = json.loads(subprocess.run(["ip", "-4", "-json", "address"], check=True, capture_output=True).stdout)
    assert set(verification.host_addresses()) == {
        info["local"] for link in listed for info in link["addr_info"] if "UP" in link["flags"] and not info["local"].startswith("127.")
    }


# --- command


def command(**more) -> dict:
    return {"service": "api", "name": "an order", "kind": "command", "command": ["node", "order.js"], **more}


@pytest.fixture
def container_runs(engine, framed, reply):
    """Have the container run commands: what it prints, and with what it ends, once it has been asked a number of times."""

    def prepare(code: int = 0, stdout: bytes = b"", stderr: bytes = b"", running: int = 0):
        states = [{"Running": True, "ExitCode": None}] * running + [{"Running": False, "ExitCode": code}]
        engine.on("POST", "/containers/api/exec", reply(201, {"Id": "e1"}))
        engine.on("POST", "/exec/e1/start", lambda _request: reply(body=iter([framed(stdout), framed(stderr, 2)])))
        engine.on("GET", "/exec/e1/json", lambda _request: states.pop(0) if len(states) > 1 else states[0])

    return prepare


@pytest.mark.usefixtures("api")
def test_a_command_that_succeeds(engine, verify, container_runs):
    container_runs(stdout=b"all is well\n", running=2)
    assert got(verify(command(contains="is well", environment={"A": "b c", "FLAG": True, "N": 5}))) == []
    (asked,) = engine.asked("POST", "/containers/api/exec")
    assert asked.payload["Cmd"] == ["node", "order.js"]
    assert asked.payload["Env"] == ["A=b c", "FLAG=true", "N=5"]
    assert asked.payload["AttachStdout"]
    assert asked.payload["AttachStderr"]
    # As the container's user, and with nothing but what that may.
    assert not {"User", "Privileged", "Tty"} & set(asked.payload)
    assert engine.asked("POST", "/exec/e1/start")[0].payload == {"Detach": False, "Tty": False}


@pytest.mark.parametrize(
    ("ran", "check", "found"),
    [
        ({"code": 1, "stderr": b"one\ntwo\n\nthree\nno campaign\n"}, {}, "exit code 1: two / three / no campaign"),
        ({"code": 1, "stderr": b"x" * 500}, {}, f"exit code 1: {'x' * 197}..."),
        ({"code": 126}, {}, "exit code 126: no output"),
        ({"code": 0}, {"status": 3}, "exit code 0: no output"),
        ({"code": 3}, {"status": 3}, None),
        ({"stdout": b"pending\n"}, {"contains": "active"}, "pending"),
        # What a program complains of is not what it prints.
        ({"stderr": b"active\n"}, {"contains": "active"}, "active"),
        ({"stdout": b"active\n", "code": 1}, {"contains": "active"}, "exit code 1: active"),
    ],
)
@pytest.mark.usefixtures("api")
def test_a_command_that_fails(verify, container_runs, ran, check, found):
    container_runs(**ran)
    assert got(verify(command(**check))) == ([found] if found else [])


@pytest.mark.parametrize("chatty", [False, True])
@pytest.mark.usefixtures("api")
def test_a_command_that_does_not_end_is_a_failure(engine, verify, container_runs, reply, framed, chatty):
    container_runs()

    def pieces():
        yield framed(b"begun\n")
        for _second in range(50):
            time.sleep(0.1)
            if chatty:
                yield framed(b".")

    engine.on("POST", "/exec/e1/start", lambda _request: reply(body=pieces()))
    started = time.monotonic()
    answer = verify(command(timeout=1))
    assert got(answer) == ["it still runs"]
    assert answer["failures"][0]["expected"] == "node order.js to end with exit code 0 within 1 s"
    assert 1 <= time.monotonic() - started < 3


@pytest.mark.usefixtures("api")
def test_a_command_that_ends_its_output_only_is_a_failure(verify, container_runs):
    container_runs(running=100)
    assert got(verify(command(timeout=1))) == ["it still runs"]


@pytest.mark.parametrize("path", ["/containers/api/exec", "/exec/e1/start"])
@pytest.mark.usefixtures("api")
def test_a_command_that_cannot_be_started_is_a_failure(engine, verify, container_runs, reply, path):
    container_runs()
    engine.on("POST", path, reply(409, {"message": "Container api is paused"}))
    assert got(verify(command())) == ["it was not started: Container api is paused"]


@pytest.mark.usefixtures("api")
def test_a_command_in_a_container_that_is_not_there_is_a_failure(verify):
    assert got(verify(command(service="other"))) == ["no container"]


# --- Which checks are asked, and in what form


@pytest.mark.parametrize(("depth", "asked"), [(None, ["/"]), ("basic", ["/"]), ("full", ["/", "/full"])])
@pytest.mark.usefixtures("api")
def test_checks_of_full_depth_are_asked_on_demand(verify, web, depth, asked):
    web.on("GET", "/.*", "x")
    answer = verify(page(web), page(web, path="/full", depth="full"), depth=depth)
    assert sorted(request.path for request in web.requests) == asked
    assert (got(answer), answer["passed"]) == ([], 2 + len(asked))


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"kind": "campaign"}, "value of kind must be one of: http, tcp, probe, command"),
        ({"kind": "http", "port": 1, "contain": "x"}, "module: checks.contain. Supported parameters include: address, certificate"),
        ({"kind": "http"}, "kind is http but all of the following are missing: port"),
        ({"kind": "tcp"}, "kind is tcp but all of the following are missing: port"),
        ({"kind": "probe", "port": 1, "expect": {"a": "b"}}, "kind is probe but all of the following are missing: send"),
        ({"kind": "probe", "port": 1, "send": {}}, "kind is probe but all of the following are missing: expect"),
        ({"kind": "command"}, "kind is command but all of the following are missing: command"),
        ({"kind": "http", "port": 1, "certificate": "x"}, "missing parameter(s) required by 'certificate': server_name"),
        ({"kind": "http", "port": 1, "depth": "deep"}, "value of depth must be one of: basic, full"),
        (
            {"kind": "probe", "port": 1, "send": {}, "expect": ["redis"]},
            "api, a check: expect must be a mapping of answers' names to their values for a probe.",
        ),
        ({"kind": "probe", "port": 1, "send": {}, "expect": {}}, "api, a check: expect must be a mapping"),
        ({"kind": "tcp", "port": 1, "expect": "closed"}, "api, a check: expect must be open or loopback for a tcp check."),
        ({"kind": "tcp", "port": 1, "expect": {"a": "b"}}, "api, a check: expect must be open or loopback for a tcp check."),
        ({"kind": "http", "port": 1, "expect": "open"}, "api, a check: expect is for the kinds probe and tcp."),
        ({"kind": "command", "command": ["a"], "expect": "0"}, "api, a check: expect is for the kinds probe and tcp."),
    ],
)
def test_a_check_of_another_form_is_refused_before_anything_is_asked(engine, verify, check, told):
    answer = verify({"service": "api", "name": "a check", **check}, services=["api"])
    assert answer["failed"]
    assert told in answer["msg"]
    assert engine.requests == []


@pytest.mark.parametrize("missing", ["project", "services"])
def test_without_a_manifest_project_and_services_are_required(verify, missing):
    assert "one of the following is required: manifest" in verify(**{"services": ["api"], missing: None})["msg"]


# --- The manifest


@pytest.fixture
def written(tmp_path):
    """Write a manifest, where `current` leads to it."""

    def write(content) -> str:
        release = tmp_path / "releases/0123456789ab"
        release.mkdir(parents=True)
        (tmp_path / "current").symlink_to("releases/0123456789ab")
        (release / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / "current/manifest.json")

    return write


@pytest.mark.usefixtures("api")
def test_a_manifest_says_what_to_verify(verify, engine, web, written):
    engine.on("GET", "/images/.+/json", {"Id": "sha256:b"})
    path = written({"project": "q", "services": ["api", "worker"], "images": {"api": "api:1"}, "checks": [page(web, status=201)], "jobs": ["migrate"]})
    answer = verify(manifest=path, project=None, services=None, checks=None)
    assert [(failure["service"], failure["check"]) for failure in answer["failures"]] == [("worker", "health"), ("api", "image"), ("api", "the page")]
    assert "com.docker.compose.project=q" in engine.requests[0].query["filters"]


@pytest.mark.usefixtures("api")
def test_what_is_said_beside_a_manifest_counts(verify, engine, web, written):
    path = written({"project": "q", "services": ["worker"], "images": {"api": "api:1"}, "checks": [page(web, status=201)]})
    assert got(verify(manifest=path, project="p", services=["api"], images={}, checks=[])) == []
    assert "com.docker.compose.project=p" in engine.requests[0].query["filters"]


@pytest.mark.usefixtures("api")
def test_a_check_of_the_manifest_has_defaults_too(verify, web, written):
    path = written({"project": "p", "services": ["api"], "checks": [page(web, depth="full"), page(web, status="200")]})
    web.on("GET", "/", "x")
    answer = verify(manifest=path, project=None, services=None, checks=None)
    assert (got(answer), answer["passed"]) == ([], 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "There is no release at {path}. Deploy first."),
        ("{", "{path} is not a manifest"),
        ({"project": "p"}, "{path} names no services, so there is nothing to verify. Deploy again."),
        ({"services": ["api"]}, "{path} does not name its Compose project."),
        ({"project": "p", "services": "api", "checks": [{"kind": "campaign"}]}, "{path} is not a manifest: "),
        ({"project": "p", "services": ["api"], "checks": [{"service": "api", "name": "x", "kind": "tcp"}]}, "missing: port"),
        ({"project": "p", "services": ["api"], "checks": [{"service": "api", "name": "x", "kind": "tcp", "port": 1, "expect": "x"}]}, "open or loopback"),
    ],
)
def test_a_manifest_that_says_nothing_of_use_is_refused(verify, engine, written, tmp_path, content, told):
    path = written(content) if content else str(tmp_path / "current/manifest.json")
    answer = verify(manifest=path, project=None, services=None, checks=None)
    assert answer["failed"]
    assert told.format(path=path) in answer["msg"]
    assert engine.requests == []


def test_a_service_that_nobody_can_ask_ends_the_wait_at_once(engine, verify):
    engine.container("api", RUNNING)
    started = time.monotonic()
    assert got(verify(timeout=30)) == [verification.NO_HEALTHCHECK]
    assert time.monotonic() - started < 5


def test_a_check_asks_nothing_that_writes_or_signs_in(engine, run_module):
    """The port is closed, which nobody finds out."""
    engine.container("api", HEALTHY)
    check = {"service": "api", "name": "the page", "kind": "http", "port": 1, "path": "/", "status": 200}
    params = {"project": "p", "services": ["api"], "timeout": 0, "checks": [check], "socket": engine.path}
    assert got(run_module(module, **params))
    assert (got(run_module(module, check_mode=True, **params)), engine.asked("POST", ".*")) == ([], [])


def test_the_memory_that_was_wanting_is_told():
    assert verification.limit_of({"HostConfig": {"Memory": 24 * 2**20}}) == " (its limit is 24 MiB)"
    assert verification.limit_of({"HostConfig": {"Memory": 0}}) == ""
