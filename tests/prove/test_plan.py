# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check predicts is what the deploy does, a check touches nothing, and a second deploy does nothing.

The edits are of all that a release is made of: settings, definitions, images, config files and secrets, and of what somebody does by hand on the host.
"""

import hashlib
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from deployed import build, docker

EDITS = 30
ACTIONS = {"created": "create", "recreated": "recreate", "started": "start", "removed": "remove", "replaced": "recreate"}
# What starts with the machine. Other tests deploy other stacks meanwhile.
STARTERS = ("/etc/init.d", "/etc/systemd/system")
ANOTHERS = re.compile(rf"docker-resume-(?!{PROJECT}\b)")
# The Engine asks the containers' healthchecks all the time, and a verification asks in containers. Neither changes one.
ASKED = ("exec_", "health_status")
# An image under a name that stays, whose content does not.
MOVING = f"{PROJECT}/rules-engine:moving"


def of(service: str, **body: Any) -> dict[str, Any]:
    return {"stack_services": {service: {"base": {"services": {service: body}}}}}


def reference(stack, service: str) -> str:
    return json.loads(stack.read("current/manifest.json"))["images"][service]


def other_image(stack, _chance, number: int) -> dict[str, Any]:
    """An image by another name, hardly another one. The other services keep theirs."""
    name = f"{PROJECT}/scheduler:edit-{number}"
    build(name, reference(stack, "scheduler"), f"LABEL edit={number}")
    return {"images_upstream": {"rules-engine": MOVING, "scheduler": name}}


def moved_image(stack, _chance, number: int) -> dict[str, Any]:
    """Another image by the same name, which no definition shows."""
    build(MOVING, reference(stack, "rules-engine"), f"LABEL edit={number}")
    return {}


def stopped(stack, _chance, _number: int) -> dict[str, Any]:
    stack.docker("stop", "--time", "5", stack.running()["scheduler"])
    return {}


def removed(stack, _chance, _number: int) -> dict[str, Any]:
    stack.docker("rm", "--force", stack.running()["rules-engine"])
    return {}


def edited(stack, chance, number: int) -> dict[str, Any]:
    """Edit a config file in place, so that the container that mounts it sees the change."""
    wanted = chance.choice(["redis.conf", "default.conf"])
    name = next(name for name in json.loads(stack.read("current/manifest.json"))["configs"] if name.endswith(f"/{wanted}"))
    with (stack.directory / name).open("a") as file:
        file.write(f"# by hand {number}\n")
    return {}


def readable(stack, _chance, _number: int) -> dict[str, Any]:
    """Let others read a secret."""
    name = next(name for name in json.loads(stack.read("current/manifest.json"))["secrets"] if Path(name).name.startswith("rules-engine_"))
    (stack.directory / name).chmod(0o444)
    return {}


# What changes the variables returns those, and what is done by hand none.
KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "setting": lambda _stack, _chance, number: {"stack_jwt_expiration": f"{number + 1}h"},
    "setting of several": lambda _stack, _chance, number: {"stack_log_level": ("debug", "warn", "error")[number // len(KINDS)]},
    "tick": lambda _stack, _chance, number: {"stack_scheduler_tick_seconds": number + 6},
    "environment": lambda _stack, _chance, number: of("api", environment={"EXTRA": str(number)}),
    "label of the proxy": lambda _stack, _chance, number: of("frontend", labels={"edit": str(number)}),
    "label of a store": lambda _stack, _chance, number: of("redis", labels={"edit": str(number)}),
    "config file": lambda _stack, _chance, number: {"stack_trusted_proxies": [f"10.{number}.0.0/16"]},
    "secret": lambda _stack, _chance, number: {"stack_secrets": {"redis_scheduler_password": f"edit-{number}-of-a-password"}},
    "secret of .env.local": lambda _stack, _chance, number: {"stack_env_local": {"JWT_SECRET": f"edit-{number}-of-the-secret-that-signs"}},
    "other image": other_image,
    "moved image": moved_image,
    "stopped": stopped,
    "removed": removed,
    "edited": edited,
    "readable": readable,
}
SAMPLE = ("other image", "config file", "secret", "edited")


@pytest.fixture
def kinds(request, chance) -> list[str]:
    """All kinds again and again, each time in another order."""
    if not request.config.getoption("--full"):
        return list(SAMPLE)
    return [kind for _ in range(EDITS // len(KINDS) + 1) for kind in chance.sample(list(KINDS), len(KINDS))][:EDITS]


@pytest.fixture
def moving(stack) -> dict[str, Any]:
    """Deploy with an image under a name that stays; return the variables."""
    docker("tag", reference(stack, "rules-engine"), MOVING)
    variables = {"images_upstream": {"rules-engine": MOVING}}
    stack.deploy(**variables)
    return variables


def files(stack) -> dict[str, tuple]:
    """Return what tells the files of the stack, and of what starts with the machine, from what they were before.

    That is mode, owner, time of the last change and a digest of the content, and of the stack's directories too.
    """
    paths = [stack.directory, *stack.directory.rglob("*")]
    paths += [path for place in STARTERS for path in Path(place).rglob("*") if (path.is_symlink() or path.is_file()) and not ANOTHERS.search(path.name)]
    found = {}
    for path in paths:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


@pytest.fixture
def events(stack, tmp_path) -> Iterator[Callable[[], list[str]]]:
    """Return a function that says what the Engine did to anything of the project since it was called last, but for answering questions.

    It listens all the time: the Engine keeps 256 events, and the healthchecks of two stacks fill that in half a minute.
    """
    path, calls, told = tmp_path / "events", itertools.count(), 0

    def lines() -> list[str]:
        return path.read_text().rpartition("\n")[0].splitlines()[told:]

    def said() -> list[str]:
        nonlocal told
        # What comes before the mark has been told when the mark is.
        mark = f"mark-{next(calls)}-of-{PROJECT}"
        stack.docker("volume", "create", mark)
        stack.docker("volume", "rm", mark)
        deadline = time.monotonic() + 60
        while not any(f'"{mark}"' in line for line in lines()):
            assert time.monotonic() < deadline, "the Engine tells no events"
            time.sleep(0.1)
        new, found = lines(), []
        told += len(new)
        for event in map(json.loads, new):
            about = [event["Actor"]["ID"], *event["Actor"].get("Attributes", {}).values()]
            if any(value.startswith(PROJECT) for value in about) and not event["Action"].startswith(ASKED):
                found.append(f"{event['Type']} {event['Action']} {event['Actor'].get('Attributes', {}).get('name')}")
        return found

    with path.open("wb") as file, subprocess.Popen(["docker", "events", "--format", "{{json .}}"], stdout=file) as listener:
        time.sleep(1)
        yield said
        listener.terminate()


def services(stack) -> dict[str, tuple[str, str, bool]]:
    """Return the container of each service, when it was started and whether it runs. Those of jobs end by themselves."""
    wanted = json.loads(stack.read("current/manifest.json"))["services"]
    found = {service: item for service, item in stack.containers().items() if service in wanted}
    return {service: (item["Id"], item["State"]["StartedAt"], item["State"]["Running"]) for service, item in found.items()}


def done(before: dict[str, tuple[str, str, bool]], after: dict[str, tuple[str, str, bool]]) -> dict[str, str]:
    """Return what became of the services' containers, in the words of a plan."""
    found = {}
    for service in before.keys() | after.keys():
        if service not in before or service not in after:
            found[service] = "remove" if service in before else "create"
        elif before[service] != after[service]:
            found[service] = "recreate" if before[service][0] != after[service][0] else "start"
    return found


def test_what_is_predicted_is_what_happens(stack, chance, kinds, moving, events):
    variables: dict[str, Any] = moving
    for number, kind in enumerate(kinds):
        variables = {**variables, **KINDS[kind](stack, chance, number)}
        before, there = services(stack), files(stack)
        events()
        checked = stack.check(**variables)
        assert checked.status == 0, checked.text[-3000:]
        assert files(stack) == there, kind
        assert services(stack) == before, kind
        assert events() == [], kind
        predicted = {service: ACTIONS[word] for service, word in re.findall(rf"^ +([a-z-]+) +({'|'.join(ACTIONS)})[a-z0-9, ]*: ", checked.text, re.MULTILINE)}
        stack.deploy(**variables)
        # So that nothing that is seen means something.
        assert events() != [], kind
        print(f"{kind} {number}: {predicted}")
        assert predicted, (kind, checked.text[-2000:])
        assert done(before, services(stack)) == predicted, (kind, checked.text[-2000:])
        again = stack.play(**variables)
        assert "changed=0" in again.text.rpartition("this_machine")[2], again.text[-2000:]
