# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are pushed by the Engine under the names that were asked for, with credentials for their own registry only."""

import base64
import json

import pytest
from ansible_collections.campaign.platform.plugins.modules import image_push

DIGEST, OLDER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
IMAGES = {"api": "campaign/api:0123456789ab"}
REPOSITORY, TAG = "registry.example.com:5000/campaign/", "1.0.0-0123456789ab"
NAME = f"{REPOSITORY}api:{TAG}"
ACCOUNT = {"registry": "registry.example.com:5000", "username": "campaign", "password": "a-password-of-the-test"}


def progress(*lines: dict) -> str:
    return "\r\n".join(json.dumps(line) for line in lines)


PUSHED = progress({"status": "Preparing"}, {"status": f"{TAG}: digest: {DIGEST}"}, {"progressDetail": {}, "aux": {"Tag": TAG, "Digest": DIGEST, "Size": 1}})


@pytest.fixture
def registry(engine, reply):
    """An Engine that has the image, and a registry that has nothing yet."""
    engine.on("GET", "/images/.+/json", lambda request: {"Id": "sha256:1"} if "/campaign/api:0123456789ab/" in request.path else reply(404, {"message": "no"}))
    engine.on("GET", "/distribution/.+", reply(404, {"message": "manifest unknown"}))
    engine.on("POST", "/images/sha256:1/tag", reply(201))
    engine.on("POST", "/images/.+/push", PUSHED)
    engine.on("DELETE", "/images/.+", [])
    return engine


@pytest.fixture
def push(registry, run_module):
    def run(**params) -> dict:
        return run_module(image_push, **{"images": IMAGES, "repository": REPOSITORY, "tag": TAG, "socket": registry.path, **params})

    return run


def test_an_image_is_named_pushed_and_told_with_its_digest(registry, push):
    answer = push()
    assert (answer["changed"], answer["pushed"], answer["digests"], answer["platform"]) == (True, ["api"], {"api": DIGEST}, "linux/amd64")
    assert [request.query for request in registry.asked("POST", "/images/sha256:1/tag")] == [{"repo": f"{REPOSITORY}api", "tag": TAG}]
    (pushed,) = registry.asked("POST", "/images/.+/push")
    assert (pushed.path, pushed.query) == (f"/images/{REPOSITORY}api/push", {"tag": TAG})
    # The name was only for the push.
    assert [request.path for request in registry.asked("DELETE", ".+")] == [f"/images/{NAME}"]


def test_what_the_registry_has_already_is_no_change(registry, push):
    registry.on("GET", "/distribution/.+", {"Descriptor": {"digest": DIGEST}})
    assert push()["changed"] is False


def test_a_tag_that_gets_another_image_is_a_change(registry, push):
    registry.on("GET", "/distribution/.+", {"Descriptor": {"digest": OLDER}})
    answer = push()
    assert (answer["changed"], answer["digests"]) == (True, {"api": DIGEST})


def test_a_name_that_was_there_before_stays(registry, push):
    registry.on("GET", f"/images/{NAME}/json", {"Id": "sha256:1"})
    push()
    assert registry.asked("DELETE", ".+") == []


@pytest.mark.parametrize(("repository", "signed_in"), [(REPOSITORY, True), ("other.example.com/campaign/", False)])
def test_the_credentials_go_to_their_own_registry_only(registry, push, repository, signed_in):
    push(repository=repository, **ACCOUNT)
    (pushed,) = registry.asked("POST", "/images/.+/push")
    sent = json.loads(base64.urlsafe_b64decode(pushed.headers["X-Registry-Auth"]))
    assert sent == ({"username": "campaign", "password": "a-password-of-the-test", "serveraddress": "registry.example.com:5000"} if signed_in else {})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (progress({"status": "Preparing"}, {"error": "denied: requested access to the resource is denied"}), "denied: requested access"),
        (progress({"status": "Preparing"}), "not under which digest"),
    ],
    ids=["refused", "silent"],
)
def test_a_push_that_fails_is_told_with_the_name_and_leaves_none_behind(registry, push, answer, told):
    registry.on("POST", "/images/.+/push", answer)
    failed = push(**ACCOUNT)
    assert failed["failed"]
    assert f"- {NAME}: " in failed["msg"]
    assert told in failed["msg"]
    assert "a-password-of-the-test" not in json.dumps(failed["msg"])
    assert len(registry.asked("DELETE", ".+")) == 1


def test_an_image_that_is_not_there_is_told(push):
    answer = push(images={"api": "campaign/api:none"})
    assert answer["failed"]
    assert f"- {NAME}: no" in answer["msg"]


def test_a_check_pushes_nothing(registry, push):
    answer = push(check_mode=True)
    assert (answer["changed"], answer["digests"]) == (True, {})
    registry.on("GET", "/distribution/.+", {"Descriptor": {"digest": OLDER}})
    answer = push(check_mode=True)
    assert (answer["changed"], answer["digests"]) == (False, {"api": OLDER})
    assert registry.asked("POST", ".+") == []
