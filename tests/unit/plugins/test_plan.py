# SPDX-License-Identifier: GPL-3.0-or-later
"""What is predicted for the containers of a release, and why."""

import json

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import plan
from ansible_collections.campaign.platform.plugins.module_utils.engine import EngineError

OLD, NEW = "/opt/stack/releases/old", "/opt/stack/releases/new"
API = {"image": "api:1", "environment": {"LEVEL": "info", "PORT": "1"}, "secrets": [{"source": "jwt_1", "target": "jwt"}]}


class Engine:
    """Containers as the Engine lists them, images by reference, and one network."""

    def __init__(self, containers, images):
        self.containers, self.images = containers, images

    def get(self, path, **query):
        if path == "/containers/json":
            assert json.loads(query["filters"])["label"] == ["com.docker.compose.project=p", "com.docker.compose.oneoff=False"]
            assert query["all"] == "1"
            return self.containers
        if path == "/networks":
            return [{"Id": "net"}]
        reference = path.removeprefix("/images/").removesuffix("/json").replace("%3A", ":")
        if reference not in self.images:
            raise EngineError(path, "no such image", 404)
        return {"Id": self.images[reference]}


def container(service, config="h1", image="sha256:1", state="running", network="net", depends="", directory=OLD, mounts=()):
    labels = {plan.SERVICE: service, plan.CONFIG_HASH: config, plan.CONFIG_FILES: f"{directory}/docker-compose.yml,{directory}/x.yml", plan.DEPENDS_ON: depends}
    return {
        "Labels": {**labels, **({plan.IMAGE: image} if image else {})},
        "ImageID": "sha256:1",
        "State": state,
        "NetworkSettings": {"Networks": {"front": {"NetworkID": network}}},
        "Mounts": [{"Source": path} for path in mounts],
    }


def computed(*containers, images=None, hashes=None, definitions=None, present=None, damaged=()):
    services = images or {"api": "api:1"}
    wanted = plan.Wanted("p", NEW, services, hashes or dict.fromkeys([*services, "migrate"], "h1"), {}, frozenset(damaged))
    known = definitions or {}
    changes = plan.compute(Engine(list(containers), {"api:1": "sha256:1"} if present is None else present), wanted, known.get)
    return [(change.service, change.action, change.reasons) for change in changes]


def test_what_is_as_asked_stays():
    assert computed(container("api")) == []


def test_nothing_is_read_where_no_definition_differs():
    def never(_directory):
        raise AssertionError

    wanted = plan.Wanted("p", NEW, {"api": "api:1"}, {"api": "h1"})
    assert plan.compute(Engine([container("api", state="exited")], {"api:1": "sha256:1"}), wanted, never)[0].action == plan.START


@pytest.mark.parametrize(
    ("given", "action", "reason"),
    [
        ([], "create", "it has no container"),
        ([container("api"), container("api")], "recreate", "it has 2 containers"),
        ([container("api", state="exited")], "start", "its container is exited"),
        ([container("api", state="created")], "start", "its container is created"),
        ([container("api", network="gone")], "recreate", "network front is gone"),
        ([container("api", image="sha256:0123456789abcdef")], "recreate", "image api:1 has other content: 0123456789ab -> 1"),
        ([container("api", config="h0")], "recreate", "its definition, which was not read from a release that is kept"),
        ([container("api", mounts=["/opt/stack/secrets/x"])], "recreate", "/opt/stack/secrets/x was changed or removed by hand"),
    ],
)
def test_each_difference_has_its_reason(given, action, reason):
    assert computed(*given, damaged=["/opt/stack/secrets/x"]) == [("api", action, [reason])]


@pytest.mark.parametrize("damaged", [["/opt/stack/secrets/x"], []])
def test_what_compose_would_not_do_by_itself_is_marked(damaged):
    wanted = plan.Wanted("p", NEW, {"api": "api:1"}, {"api": "h1"}, {}, frozenset(damaged))
    given = container("api", mounts=["/opt/stack/secrets/x"], network="net" if damaged else "gone")
    (change,) = plan.compute(Engine([given], {"api:1": "sha256:1"}), wanted, {}.get)
    assert change.as_dict()["forced"] is bool(damaged)


@pytest.mark.parametrize(("networks", "reasons"), [(["front"], None), ([], None), (["back", "front"], ["it is not connected to the network back"])])
def test_a_container_that_was_cut_off_is_recreated(networks, reasons):
    wanted = plan.Wanted("p", NEW, {"api": "api:1"}, {"api": "h1"}, {"api": networks})
    found = plan.compute(Engine([container("api")], {"api:1": "sha256:1"}), wanted, {}.get)
    # No definition differs, so that Compose would leave it as it is.
    assert [change.as_dict() for change in found] == (
        [{"service": "api", "action": "recreate", "reasons": reasons, "forced": True, "beside": False}] if reasons else []
    )


@pytest.mark.parametrize(("networks", "damaged"), [(["back", "front"], []), (["front"], ["/opt/stack/secrets/x"])])
def test_what_was_changed_by_hand_is_replaced_in_its_place(networks, damaged):
    # A new container has the same definition, and of two such Docker Compose keeps the older one.
    wanted = plan.Wanted("p", NEW, {"api": "api:1"}, {"api": "h1"}, {"api": networks}, frozenset(damaged), frozenset(["api"]))
    (change,) = plan.compute(Engine([container("api", mounts=["/opt/stack/secrets/x"])], {"api:1": "sha256:1"}), wanted, {}.get)
    assert (change.forced, change.beside) == (True, False)


def test_an_image_is_known_by_its_label_or_by_the_container():
    # With containerd's store the two ids are of different kinds, and Compose compares the label.
    assert computed(container("api", image=None)) == []
    assert computed(container("api", image="sha256:2"), present={"api:1": "sha256:2"}) == []


def test_an_image_that_is_not_there_yet_is_no_reason():
    assert computed(container("api"), present={}) == []


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"image": "api:2"}, ["image api:1 -> api:2"]),
        ({"environment": {"LEVEL": "debug", "EXTRA": "1"}}, ["environment: EXTRA", "environment: LEVEL", "environment: PORT"]),
        ({"secrets": [{"source": "jwt_2", "target": "jwt"}]}, ["secret jwt"]),
        ({"secrets": []}, ["secret jwt"]),
        ({"volumes": [{"type": "bind", "source": "/opt/stack/config/2/x.conf", "target": "/etc/x.conf"}]}, ["mount /etc/x.conf"]),
        ({"networks": {"front": None}}, ["networks: front"]),
        ({"labels": {"a": "1"}}, ["labels: a"]),
        ({"command": ["node", "other.js"]}, ["command"]),
        ({}, ["its definition, as Docker Compose reads it"]),
    ],
)
def test_a_definition_s_difference_is_named_without_its_value(change, reasons):
    definitions = {OLD: {"api": API}, NEW: {"api": {**API, **change}}}
    found = computed(container("api", config="h0"), definitions=definitions, present={"api:1": "sha256:1", "api:2": "sha256:2"})
    assert found == [("api", "recreate", reasons)]
    assert "debug" not in str(found)


@pytest.mark.parametrize(("digest", "reasons"), [("h0", ["image api:1 -> api:2"]), ("h9", ["its definition, which was not read from a release that is kept"])])
def test_a_container_of_a_pruned_release_may_have_the_definition_of_the_one_in_use(digest, reasons):
    definitions = {"/opt/stack/current": {"api": API}, NEW: {"api": {**API, "image": "api:2"}}}
    wanted = plan.Wanted("p", NEW, {"api": "api:1"}, {"api": "h1"}, current="/opt/stack/current", current_hashes={"api": digest})
    (change,) = plan.compute(Engine([container("api", config="h0")], {"api:1": "sha256:1"}), wanted, definitions.get)
    assert change.reasons == reasons


def test_an_image_is_named_once():
    definitions = {OLD: {"api": {"image": "api:0"}}, NEW: {"api": {"image": "api:1"}}}
    assert computed(container("api", config="h0", image="sha256:0"), definitions=definitions) == [("api", "recreate", ["image api:0 -> api:1"])]


@pytest.mark.parametrize(
    ("recreates", "foundations", "expected"),
    [
        (True, [], {"api": ["it depends on db"], "db": ["command"], "worker": ["it depends on api"]}),
        # It is started by itself before the others.
        (True, ["db"], {"db": ["command"]}),
        (False, [], {"db": ["command"]}),
    ],
)
def test_an_old_compose_recreates_what_depends_on_what_it_recreates(recreates, foundations, expected):
    services = dict.fromkeys(["api", "db", "page", "worker"], "api:1")
    containers = [
        container("db", config="h0"),
        container("api", depends="db:service_healthy:false"),
        container("worker", depends="api:service_started:false"),
        container("page"),
    ]
    hashes = dict.fromkeys(services, "h1")
    wanted = plan.Wanted("p", NEW, services, hashes, foundations=frozenset(foundations), recreates_dependents=recreates)
    definitions = {OLD: {"db": {"command": "a"}}, NEW: {"db": {"command": "b"}}}
    changes = plan.compute(Engine(containers, {"api:1": "sha256:1"}), wanted, definitions.get)
    assert {change.service: change.reasons for change in changes} == expected


@pytest.mark.parametrize(
    ("version", "is_old"),
    [("2.26.1-4", True), ("v2.29.3", True), ("2.9.0", True), ("2.29.4", False), ("2.40.3", False), ("5.0.0-rc.1", False), ("dev", False), (None, False)],
)
def test_the_version_says_whether_compose_recreates_what_depends(version, is_old):
    assert plan.recreates_dependents(version) is is_old


def test_what_depends_on_a_started_service_stays():
    assert computed(container("db", state="exited"), container("api", depends="db:service_healthy:false"), images={"api": "api:1", "db": "api:1"}) == [
        ("db", "start", ["its container is exited"])
    ]


def test_a_service_of_another_release_goes_and_a_job_of_this_one_does_not():
    found = computed(container("api"), container("migrate", config="h9"), container("vite"))
    assert found == [("vite", "remove", ["the release has no such service"])]


def besides(*containers, hashes, start_first=("api", "page"), foundations=(), recreates=True):
    services = dict.fromkeys(hashes, "api:1")
    wanted = plan.Wanted("p", NEW, services, hashes, start_first=frozenset(start_first), foundations=frozenset(foundations), recreates_dependents=recreates)
    changes = plan.compute(Engine(list(containers), {"api:1": "sha256:1"}), wanted, {}.get)
    return {change.service: change.beside for change in changes}


@pytest.mark.parametrize(
    ("containers", "hashes", "expected"),
    [
        ([container("api")], {"api": "h2"}, {"api": True}),
        # It does not start first, or it does not run.
        ([container("redis")], {"redis": "h2"}, {"redis": False}),
        ([container("api", state="exited")], {"api": "h2"}, {"api": False}),
        # An earlier replacement was interrupted.
        ([container("api", state="exited"), container("api", config="h2")], {"api": "h2"}, {"api": True}),
        ([], {"api": "h2"}, {"api": False}),
        # It depends on what is recreated in its place, at once or at second hand, so that Compose would recreate it too.
        ([container("api", depends="redis:service_healthy:true"), container("redis")], {"api": "h2", "redis": "h2"}, {"api": False, "redis": False}),
        (
            [container("api", depends="x:s:true"), container("x", depends="redis:s:true"), container("redis")],
            {"api": "h2", "x": "h1", "redis": "h2"},
            {"api": False, "x": False, "redis": False},
        ),
        # What is changed beside it says nothing of it.
        ([container("api"), container("redis")], {"api": "h2", "redis": "h2"}, {"api": True, "redis": False}),
        # Nobody has to be recreated because of what never goes away.
        ([container("api"), container("x", depends="api:s:true")], {"api": "h2", "x": "h1"}, {"api": True}),
    ],
)
def test_what_may_be_started_beside_what_runs(containers, hashes, expected):
    assert besides(*containers, hashes=hashes) == expected


@pytest.mark.parametrize("recreates", [True, False])
def test_no_service_proves_itself_with_what_is_about_to_go(recreates):
    containers = [container("api", depends="pooler:service_healthy:true"), container("pooler")]
    assert besides(*containers, hashes={"api": "h2", "pooler": "h2"}, recreates=recreates) == {"api": False, "pooler": False}


def test_a_store_that_is_recreated_before_it_leaves_a_service_its_old_container():
    containers = [container("api", depends="redis:service_healthy:true"), container("redis")]
    assert besides(*containers, hashes={"api": "h2", "redis": "h2"}, foundations=["redis"]) == {"api": True, "redis": False}


def test_a_place_above_counts_for_those_who_keep_nothing_at_it():
    definition = {"volumes": [{"target": "/var/lib/postgresql"}], "tmpfs": "/run:size=1m"}
    assert plan.is_mounted("/var/lib/postgresql", definition)
    assert not plan.is_mounted("/var/lib/postgresql/data", definition)
    assert plan.is_mounted("/var/lib/postgresql/data", definition, above=True)
    assert not plan.is_mounted("/var/lib/postgresql2", definition, above=True)
    assert plan.is_mounted("/run", definition)
    assert plan.is_mounted("/run", None)
    assert not plan.is_mounted("/run", {})
