# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack of its own on this machine's Engine, deployed by the playbooks, and somebody who asks its page and api all the time.

`make prove` runs everything (`--full`); otherwise, as in continuous integration, each test takes the sample that it names.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deployed
import pytest
from deployed import Result, docker

ROOT = Path(__file__).resolve().parents[2]
# For modules that are no tests.
sys.path.insert(0, str(Path(__file__).parent))
PROJECT = "campaign-prove"
DIRECTORY = Path("/opt") / PROJECT
PORTS = {name: 22080 + number for number, name in enumerate(("frontend", "api", "minio", "minio_console", "postgres", "redis"))}


@dataclass
class Asked:
    """What came of asking once."""

    at: float
    failed: dict[str, bool]


@dataclass
class Visitor:
    """Asks the page and the api all the time, and remembers when there was no good answer."""

    asked: list[Asked] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['frontend']}{path}", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def go(self) -> None:
        while not self.stopping.is_set():
            self.asked.append(Asked(time.monotonic(), {path: not self.answers(path) for path in ("/", "/api/health/ready")}))
            self.stopping.wait(0.1)

    def outage(self, path: str) -> float:
        """Return for how many seconds there was no good answer: from each that failed after a good one to the next good one."""
        total, since = 0.0, None
        for item in self.asked:
            if item.failed[path]:
                since = item.at if since is None else since
            elif since is not None:
                total, since = total + item.at - since, None
        return total if since is None else total + self.asked[-1].at - since

    def __enter__(self) -> "Visitor":
        self.thread = threading.Thread(target=self.go)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopping.set()
        self.thread.join()


class Stack:
    """The stack: deploys, and what the Engine says of it."""

    project = PROJECT
    directory = DIRECTORY
    docker = staticmethod(docker)
    ports = PORTS
    # Before a command that is run on the stack's machine.
    prefix: tuple[str, ...] = ()

    def __init__(self, directory: Path, host: str = "this_machine", **more: Any):
        self.secrets = directory / "secrets.json"
        self.inventory = directory / "hosts.yml"
        deployed.write_inventory(self.inventory, self.project, self.ports, host, **{"stack_health_timeout": 60, **more})

    def command(self, playbook: str = "site", **variables: Any) -> list[str]:
        return ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]

    def start(self, playbook: str = "site", **variables: Any) -> subprocess.Popen:
        env = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
        return subprocess.Popen(
            self.command(playbook, **variables), cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def play(self, playbook: str = "site", **variables: Any) -> Result:
        process = self.start(playbook, **variables)
        output, _error = process.communicate(timeout=500)
        return Result(process.returncode, " ".join(output.split()))

    def deploy(self, **variables: Any) -> None:
        result = self.play(**variables)
        assert result.status == 0, result.text[-4000:]

    def check(self, **variables: Any) -> Result:
        process = subprocess.run([*self.command(**variables), "--check"], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
        return Result(process.returncode, process.stdout + process.stderr)

    def containers(self) -> dict[str, dict]:
        listed = self.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}").split()
        # One that is removed between the two questions is not there.
        inspected = json.loads(self.docker("inspect", *listed, check=False)) if listed else []
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in inspected}

    def running(self) -> dict[str, str]:
        """Return the ids of the containers that run, by service."""
        return {service: item["Id"] for service, item in self.containers().items() if item["State"]["Running"]}

    def hashes(self) -> dict[str, str]:
        """Return what Docker Compose says of the definitions of the current release, by service."""
        return json.loads((self.directory / "current/hashes.json").read_text())["hashes"]

    def current(self) -> str:
        return os.readlink(self.directory / "current").rpartition("/")[2]

    def read(self, name: str) -> str:
        """Return a file of the stack's directory."""
        return (self.directory / name).read_text()

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.read("history.jsonl").splitlines()]

    def sql(self, statement: str) -> str:
        return self.docker(
            "exec", f"{self.project}-postgres-1", "psql", "-v", "ON_ERROR_STOP=1", "-qtA", "-U", "campaign_user", "-d", "campaign_db", "-c", statement
        )


def sweep() -> None:
    deployed.sweep(PROJECT)
    for path in Path("/etc").glob(f"*.d/*docker-resume-{PROJECT}"):
        path.unlink()


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Iterator[Stack]:
    sweep()
    found = Stack(tmp_path_factory.mktemp("prove"))
    found.deploy()
    yield found
    sweep()


@pytest.fixture
def visitor() -> Visitor:
    return Visitor()


@pytest.fixture
def chance(request) -> random.Random:
    """The same chance each time, another one for each test."""
    return random.Random(request.node.name)
