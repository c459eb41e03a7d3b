# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of two containers of a service is meant, and where a proxy finds it."""

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import routes
from ansible_collections.campaign.platform.plugins.module_utils.engine import EngineError
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
    def __init__(self, status=204):
        self.status, self.sent = status, []

    def request(self, method, path, query):
        self.sent.append((method, path, query))
        return self.status, b'{"message": "no such process"}'


def test_a_proxy_that_runs_reads_its_files_again():
    engine = Engine()
    routes.reload(engine, [container("proxy"), container("stopped", state="exited")])
    assert engine.sent == [("POST", "/containers/id-proxy/kill", {"signal": "SIGHUP"})]


def test_a_proxy_that_cannot_be_told_is_an_error():
    with pytest.raises(EngineError, match="reloading proxy: no such process"):
        routes.reload(Engine(409), [container("proxy")])
