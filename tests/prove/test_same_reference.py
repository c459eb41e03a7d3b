# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that took the name of the one that ran, as each `docker build -t mine:latest` does: what fails with it is put back with the one that ran."""

import json
from typing import Any

import deployed
from conftest import PROJECT
from deployed import docker, full_only

REFERENCE = f"{PROJECT}/mine:latest"
SERVES, FAILS = 'ENTRYPOINT ["sleep", "infinity"]', 'ENTRYPOINT ["sh", "-c", "echo no such option; exit 3"]'


def with_mine(**labels: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "labels": labels,
        "image": REFERENCE,
        "user": "999:1000",
        "networks": ["backend-network"],
        "tmpfs": ["/data"],
        "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
    }
    return {"stack_services": {"mine": {"base": {"services": {"mine": body}}}}}


def means(reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference)


def test_what_fails_under_a_name_that_moved_is_put_back_with_the_image_that_ran(stack):
    stack.deploy()
    base = json.loads(stack.read("current/manifest.json"))["images"]["redis"]
    good = deployed.build(REFERENCE, base, SERVES)
    stack.deploy(**with_mine())
    release = stack.current()
    assert json.loads(stack.read("current/deployed.json"))["images"][REFERENCE] == good
    bad = deployed.build(REFERENCE, base, FAILS)
    failed = stack.play(**with_mine())
    assert failed.status == 2, failed.text[-3000:]
    assert f"release {release} was started again with the images that it had and is verified." in failed.text, failed.text[-4000:]
    assert "mine does not stay up" in failed.text, failed.text[-4000:]
    assert (stack.current(), stack.events()[-1]["event"]) == (release, "rolled_back")
    container = stack.containers()["mine"]
    # The name is whose it was, so that the next deploy tries that image again.
    assert (container["Image"], container["State"]["Running"], means(REFERENCE)) == (good, True, bad)


@full_only
def test_going_back_brings_the_image_of_the_release_and_leaves_the_name_whose_it_is(stack):
    stack.deploy()
    base = json.loads(stack.read("current/manifest.json"))["images"]["redis"]
    good = deployed.build(REFERENCE, base, SERVES, "LABEL good=1")
    stack.deploy(**with_mine())
    release = stack.current()
    better = deployed.build(REFERENCE, base, SERVES, "LABEL better=1")
    stack.deploy(**with_mine(better="1"))
    assert (stack.containers()["mine"]["Image"], means(REFERENCE)) == (better, better)
    back = stack.play("rollback", stack_rollback_to=release)
    assert back.status == 0, back.text[-3000:]
    assert (stack.containers()["mine"]["Image"], means(REFERENCE), stack.current()) == (good, better, release)
    # The inventory says the newer one, and it is still there.
    stack.deploy(**with_mine(better="1"))
    assert (stack.containers()["mine"]["Image"], means(REFERENCE)) == (better, better)
