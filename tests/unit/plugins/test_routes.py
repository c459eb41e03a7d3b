# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of two containers of a service is meant, and where a proxy finds it."""

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import routes
from ansible_collections.campaign.platform.plugins.module_utils.engine import Ended, EngineError, EngineTimeout
from ansible_collections.campaign.platform.plugins.module_utils.plan import CONFIG_HASH, IMAGE, SERVICE


def container(name, created=1, number=1, config="h1", image="sha256:1", service="api", state="running"):
    labels = {SERVICE: service, routes.NUMBER: str(number), CONFIG_HASH: config, IMAGE: image}
    return {"Id": f"id-{name}", "Names": [f"/{name}"], "Created": created, "Labels": labels, "State": state}


def test_a_file_names_the_service_or_one_of_its_containers_first():
    assert routes.text("api", 3000) == "server api:3000 resolve max_fails=0;\n"
    one, other = routes.text("api", 3000, "p-api-2").splitlines()
    assert (one, other) == ("server p-api-2:3000 resolve max_fails=0;", "server api:3000 resolve max_fails=0 backup;")


@pytest.mark.parametrize(
    ("content", "named"),
    [(routes.text("api", 3000, "p-api-2"), "p-api-2"), (routes.text("api", 3000), None), ("", None), ("one\ntwo\n", None)],
)
def test_what_a_file_names_is_read_back(content, named):
    assert routes.container_in(content.encode()) == named


def test_there_is_a_file_for_each_service_of_each_proxy():
    found = routes.defaults("/opt/stack", {"frontend": {"api": 3000, "page": 8080}})
    assert found == {
        "/opt/stack/routes/frontend/api.conf": routes.text("api", 3000),
        "/opt/stack/routes/frontend/page.conf": routes.text("page", 8080),
    }


def test_the_newest_is_last_and_the_number_decides_within_a_second():
    found = routes.by_service([container("b", 2), container("c", 2, number=3), container("a", 1), container("x", 9, service="x")], ["api", "page"])
    assert [routes.name_of(one) for one in found["api"]] == ["a", "b", "c"]
    assert found["page"] == []


@pytest.mark.parametrize(
    ("digest", "image", "name"),
    [
        ("h1", "sha256:1", "old"),
        ("h2", "sha256:1", "new"),
        ("h1", None, "old"),
        # Of neither, so the newest will do.
        ("h3", "sha256:1", "new"),
        ("h1", "sha256:9", "new"),
        (None, None, "new"),
    ],
)
def test_the_container_that_a_release_means_is_of_its_definition_and_image(digest, image, name):
    assert routes.name_of(routes.meant([container("old", 1), container("new", 2, config="h2")], digest, image)) == name


class Engine:
    def __init__(self, status=0, times_out=False):
        self.status, self.times_out, self.executed = status, times_out, []

    def execute(self, container, command, environment, seconds):
        if self.times_out:
            raise EngineTimeout
        self.executed.append((container, command, environment, seconds))
        return Ended(self.status, "", "no such process\n")


def test_a_proxy_that_runs_reads_its_files_again_and_nobody_takes_that_for_a_stop():
    engine = Engine()
    routes.reload(engine, [container("proxy"), container("stopped", state="exited")])
    assert engine.executed == [("id-proxy", ["sh", "-c", "kill -HUP 1"], {}, routes.RELOAD_SECONDS)]


@pytest.mark.parametrize(("engine", "words"), [(Engine(1), "no such process"), (Engine(times_out=True), "no answer within 10 s")])
def test_a_proxy_that_cannot_be_told_is_an_error(engine, words):
    with pytest.raises(EngineError, match=f"reloading proxy: {words}"):
        routes.reload(engine, [container("proxy")])


@pytest.mark.parametrize(
    ("engine", "layer", "seconds"),
    [
        (Engine(0), "prod", 30),
        (Engine(0), None, 30),
        (Engine(0), "dev", 5),
        (Engine(1), "prod", 0),
        (Engine(127), "prod", 0),
        (Engine(times_out=True), "prod", 0),
    ],
)
def test_requests_of_before_are_waited_for_but_not_for_ever(monkeypatch, engine, layer, seconds):
    slept = [0.0]
    monkeypatch.setattr(routes.time, "sleep", lambda interval: slept.__setitem__(0, slept[0] + interval))
    monkeypatch.setattr(routes.time, "monotonic", lambda: slept[0])
    routes.await_requests(engine, [container("proxy"), container("stopped", state="exited")], layer)
    assert slept == [seconds]
    assert {asked[0] for asked in engine.executed} <= {"id-proxy"}
