# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are pulled where they are missing and kept where a digest names them, and what a registry says is wrong is not lost."""

import base64
import json
import threading
import time

import pytest
from ansible_collections.campaign.platform.plugins.modules import image_digests, image_pull

DIGEST = "sha256:" + "1" * 12 + "2" * 52
TAG = "mirror:5000/api:locked-111111111111"
BY_DIGEST = f"mirror:5000/api:1@{DIGEST}"
API = {"Id": "sha256:a", "Os": "linux", "Architecture": "amd64"}


class Store:
    """The images of an Engine and of the registries behind it, by reference."""

    def __init__(self, engine, reply):
        self.reply = reply
        self.there: dict[str, dict] = {}
        self.offered: dict[str, dict] = {}
        self.tag_status = 201
        engine.on("GET", "/images/.+/json", self.inspect)
        engine.on("POST", "/images/create", self.pull)
        engine.on("POST", "/images/.+/tag", self.tag)
        engine.on("DELETE", "/images/.+", self.delete)

    def inspect(self, request):
        return self.there.get(request.path[8:-5]) or self.reply(404, {"message": f"No such image: {request.path[8:-5]}"})

    def pull(self, request):
        name, version = request.query["fromImage"], request.query["tag"]
        reference = f"{name}@{version}" if ":" in version else f"{name}:{version}"
        if reference not in self.offered:
            return b'{"status":"Pulling"}\r\n{"errorDetail":{"message":"x"},"error":"manifest for ' + reference.encode() + b' not found: manifest unknown"}\r\n'
        self.there[reference] = self.offered[reference]
        return b'{"status":"Pulling"}\r\n\r\n{"status":"Status: Downloaded newer image"}\r\n'

    def tag(self, request):
        if self.tag_status == 201:
            image = next(image for image in self.there.values() if image["Id"] == request.path.split("/")[2])
            self.there[f"{request.query['repo']}:{request.query['tag']}"] = image
        return self.reply(self.tag_status, {"message": "read-only file system"} if self.tag_status != 201 else b"")

    def delete(self, request):
        identifier = request.path.split("/")[2]
        self.there = {reference: image for reference, image in self.there.items() if image["Id"] != identifier}
        return []


@pytest.fixture
def store(engine, reply):
    return Store(engine, reply)


@pytest.fixture
def pull(engine, run_module):
    def run(*references: str, **params) -> dict:
        return run_module(image_pull, references=list(references), socket=engine.path, **params)

    return run


def pulls(engine) -> list[dict]:
    return [request.query for request in engine.asked("POST", "/images/create")]


def test_what_is_missing_is_pulled(engine, store, pull):
    store.offered = {"redis:8": API, f"mirror:5000/api@{DIGEST}": API}
    answer = pull("redis:8", BY_DIGEST)
    assert (answer["changed"], answer["pulled"], answer["tagged"]) == (True, ["redis:8", BY_DIGEST], [])
    assert sorted(query["fromImage"] + " " + query["tag"] for query in pulls(engine)) == [f"mirror:5000/api {DIGEST}", "redis 8"]
    # The one that a digest names has a tag that keeps it, and the other one no more than its own.
    assert set(store.there) == {"redis:8", f"mirror:5000/api@{DIGEST}", TAG}


def test_what_is_there_is_not_pulled_again(engine, store, pull):
    store.there = {"redis:8": API, f"mirror:5000/api@{DIGEST}": API, TAG: API}
    answer = pull("redis:8", BY_DIGEST)
    assert (answer["changed"], answer["pulled"], answer["tagged"]) == (False, [], [])
    assert {request.method for request in engine.requests} == {"GET"}


def test_of_a_tag_and_a_digest_the_digest_decides(store, pull):
    store.there = {"mirror:5000/api:1": API}
    store.offered = {f"mirror:5000/api@{DIGEST}": {**API, "Id": "sha256:b"}}
    assert pull(BY_DIGEST)["pulled"] == [BY_DIGEST]
    assert store.there[TAG]["Id"] == "sha256:b"


@pytest.mark.parametrize("tag", [{}, {TAG: {**API, "Id": "sha256:old"}}])
def test_an_image_that_lost_its_tag_gets_it_again(engine, store, pull, tag):
    store.there = {f"mirror:5000/api@{DIGEST}": API, **tag}
    answer = pull(BY_DIGEST)
    assert (answer["changed"], answer["pulled"], answer["tagged"]) == (True, [], [BY_DIGEST])
    assert store.there[TAG] == API
    assert pulls(engine) == []
    assert not pull(BY_DIGEST)["changed"]


@pytest.mark.parametrize("there", [{}, {f"mirror:5000/api@{DIGEST}": API}])
def test_in_check_mode_nothing_is_pulled_or_tagged(engine, store, pull, there):
    store.there = there
    assert pull(BY_DIGEST, check_mode=True)["changed"]
    assert {request.method for request in engine.requests} == {"GET"}


def test_an_error_in_the_progress_is_a_failure_with_the_registry_s_words(store, pull):
    store.offered = {"redis:8": API}
    answer = pull("redis:8", "api:1", "api:2")
    assert answer["failed"]
    assert answer["msg"].splitlines() == [
        "Nothing that runs was changed. These images could not be pulled for linux/amd64; check names, digests, credentials and certificates:",
        "- api:1: manifest for api:1 not found: manifest unknown",
        "- api:2: manifest for api:2 not found: manifest unknown",
    ]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, {"message": "pull access denied for api, may require 'docker login'"}, "pull access denied for api, may require 'docker login'"),
        (500, {"message": "toomanyrequests: You have reached your pull rate limit."}, "toomanyrequests: You have reached your pull rate limit."),
        (502, b"<html>Bad Gateway", "<html>Bad Gateway"),
        (500, b"", "status 500"),
        (200, b"<html>", "the Engine's answer is not JSON."),
        # The registry is content, and yet the image is not there.
        (200, b'{"status":"Downloaded"}', "the Engine says that it was pulled, but does not have it."),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_pull_that_fails_at_once_is_a_failure(engine, pull, reply, status, body, told):
    engine.on("POST", "/images/create", reply(status, body))
    assert pull("api:1")["msg"].splitlines()[1:] == [f"- api:1: {told}"]


@pytest.mark.parametrize("reference", ["api:1", BY_DIGEST])
def test_an_image_for_another_platform_is_refused_and_not_kept(store, pull, reference):
    store.offered = {key: {**API, "Architecture": "arm64"} for key in ("api:1", f"mirror:5000/api@{DIGEST}")}
    for _time in range(2):
        assert "it is for linux/arm64, but the host is linux/amd64." in pull(reference)["msg"]
        assert store.there == {}


@pytest.mark.parametrize("is_there", [False, True])
def test_an_image_that_cannot_be_tagged_is_a_failure(store, pull, is_there):
    store.tag_status = 500
    (store.there if is_there else store.offered)[f"mirror:5000/api@{DIGEST}"] = API
    assert f"- {BY_DIGEST}: it could not be tagged locked-111111111111: read-only file system" in pull(BY_DIGEST)["msg"]


def test_an_engine_that_cannot_look_is_a_failure(engine, pull, reply):
    engine.on("GET", "/images/.+/json", reply(500, {"message": "disk error"}))
    answer = pull("api:1")
    assert "The Docker Engine did not answer: GET /images/api:1/json: disk error" in answer["msg"]
    assert pulls(engine) == []


@pytest.mark.parametrize(("reference", "is_given"), [("mirror:5000/api:1", True), ("mirror/api:1", False), ("redis:8", False)])
def test_credentials_go_with_the_request_to_their_registry(engine, store, pull, reference, is_given):
    store.offered = {reference: API}
    pull(reference, registry="mirror:5000", username="me", password="secret")
    (request,) = engine.asked("POST", "/images/create")
    assert ("X-Registry-Auth" in request.headers) == is_given
    if is_given:
        assert json.loads(base64.urlsafe_b64decode(request.headers["X-Registry-Auth"]))["password"] == "secret"


def test_several_are_pulled_at_once_but_not_all(engine, store, pull):
    store.offered = {f"api:{number}": API for number in range(6)}
    running, most, lock = [], [], threading.Lock()

    def slowly(request):
        with lock:
            running.append(request)
            most.append(len(running))
        time.sleep(0.1)
        with lock:
            running.remove(request)
        return store.pull(request)

    engine.on("POST", "/images/create", slowly)
    assert len(pull(*store.offered)["pulled"]) == 6
    assert max(most) == image_pull.AT_ONCE


# --- Digests


@pytest.fixture
def resolve(engine, run_module):
    def run(*references: str, **params) -> dict:
        return run_module(image_digests, references=list(references), socket=engine.path, **params)

    return run


def offer(engine, reference: str, *architectures: str) -> None:
    platforms = [{"os": "linux", "architecture": architecture} for architecture in architectures]
    engine.on("GET", f"/distribution/{reference}/json", {"Descriptor": {"digest": f"sha256:{reference}"}, "Platforms": platforms})


def test_references_are_resolved(engine, resolve):
    offer(engine, "redis:8", "amd64", "arm64")
    offer(engine, "mirror:5000/api:1", "")
    answer = resolve("redis:8", "mirror:5000/api:1")
    assert answer["digests"] == {"redis:8": "sha256:redis:8", "mirror:5000/api:1": "sha256:mirror:5000/api:1"}
    assert (answer["platform"], answer["changed"]) == ("linux/amd64", False)


def test_every_reference_that_cannot_be_resolved_is_named_in_the_registry_s_words(engine, resolve, reply):
    offer(engine, "redis:8", "amd64")
    offer(engine, "foreign:1", "s390x", "arm64")
    engine.on("GET", "/distribution/gone:1/json", reply(404, {"message": "manifest unknown: gone"}))
    engine.on("GET", "/distribution/private:1/json", reply(403, {"message": "denied: requested access to the resource is denied"}))
    engine.on("GET", "/distribution/odd:1/json", reply(502, "Bad Gateway"))
    answer = resolve("redis:8", "foreign:1", "gone:1", "private:1", "odd:1")
    assert answer["failed"]
    assert answer["msg"].splitlines() == [
        "These references could not be resolved for linux/amd64. Check names, tags, credentials and certificates:",
        "- foreign:1: there for linux/arm64, linux/s390x, but not for the host's linux/amd64.",
        "- gone:1: manifest unknown: gone",
        "- private:1: denied: requested access to the resource is denied",
        "- odd:1: Bad Gateway",
    ]
    # A module that asks what the Engine has continues with what it has.
    assert answer["digests"] == {"redis:8": "sha256:redis:8"}
    assert list(answer["problems"]) == ["foreign:1", "gone:1", "private:1", "odd:1"]


def test_a_registry_that_does_not_answer_is_given_up_and_named(engine, resolve):
    offer(engine, "redis:8", "amd64")
    engine.on("GET", "/distribution/far:1/json", lambda _request: time.sleep(3))
    answer = resolve("redis:8", "far:1", timeout=1)
    assert list(answer["problems"]) == ["far:1"]
    assert answer["digests"] == {"redis:8": "sha256:redis:8"}


def test_credentials_go_with_the_question(engine, resolve):
    offer(engine, "mirror:5000/api:1", "amd64")
    offer(engine, "redis:8", "amd64")
    resolve("mirror:5000/api:1", "redis:8", registry="mirror:5000", username="me", password="secret")
    assert ["X-Registry-Auth" in engine.asked("GET", f"/distribution/{name}/json")[0].headers for name in ("mirror:5000/api:1", "redis:8")] == [True, False]


@pytest.mark.parametrize("module", [image_pull, image_digests])
def test_an_engine_that_is_not_there_is_reported(run_module, module):
    answer = run_module(module, references=["redis:8"], socket="/nowhere/s")
    assert answer["failed"]
    assert "The Docker Engine did not answer: /nowhere/s: No such file or directory" in answer["msg"]


@pytest.mark.parametrize("module", [image_pull, image_digests])
def test_a_user_name_needs_a_password(run_module, module):
    assert "parameters are required together: username, password" in run_module(module, references=["redis:8"], username="me")["msg"]
