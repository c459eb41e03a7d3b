# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack of its own on this machine's Engine, somebody who works with it all the time, and questions to its servers with a value that may be old.

`pytest --full` gives every secret of the catalogue a new value three times, and kills at more moments; otherwise, as in continuous integration, a sample.
"""

import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import deployed
import pytest
from deployed import docker

ROOT = Path(__file__).resolve().parents[3]
PROJECT = "campaign-rotation"
DIRECTORY = Path("/opt") / PROJECT
PORTS = {name: 24680 + number for number, name in enumerate(("frontend", "api", "minio", "minio_console", "postgres", "redis"))}
# Requests a second, of which one in SIGN_IN_EVERY signs in: nginx lets an address do so 20 times a minute.
RATE = 20
SIGN_IN_EVERY = 80


@dataclass
class Visitor:
    """Signs in and reads, RATE times a second, and remembers when there was no good answer."""

    password: str
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    token: str = ""

    def ask(self, path: str, token: str = "", **body: str) -> str:
        """Return an empty text for a good answer, or what was wrong with it."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORTS['frontend']}{path}", data=json.dumps(body).encode() if body else None, headers=headers, method="POST" if body else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                if body:
                    self.token = json.loads(text)["accessToken"]
                return ""
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return type(error).__name__

    def sign_in(self) -> str:
        return self.ask("/api/auth/login", username="operator", password=self.password)

    def once(self, number: int) -> None:
        # Which answers are cached nowhere: rows of the database.
        path = "/api/auth/login" if number % SIGN_IN_EVERY == 0 else "/api/campaigns"
        at = time.monotonic()
        self.asked.append((at, path, self.sign_in() if path == "/api/auth/login" else self.ask(path, self.token)))

    def go(self) -> None:
        started, number = time.monotonic(), 1
        workers: list[threading.Thread] = []
        while not self.stopping.wait(max(0.0, started + number / RATE - time.monotonic())):
            workers.append(threading.Thread(target=self.once, args=(number,)))
            workers[-1].start()
            number += 1
        for worker in workers:
            worker.join()

    @property
    def failed(self) -> list[tuple[float, str, str]]:
        return [item for item in self.asked if item[2]]

    def failed_but_for_the_password(self) -> list[tuple[float, str, str]]:
        """Return what failed, without those who signed in with the old password after it was replaced."""
        return [item for item in self.failed if not (item[1].endswith("login") and item[2] == "401")]

    def __enter__(self) -> "Visitor":
        assert self.sign_in() == ""
        self.thread = threading.Thread(target=self.go)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopping.set()
        self.thread.join()


class Stack:
    """The stack: its secrets, and the playbooks."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.inventory = directory / "hosts.yml"
        self.kept = directory / "secrets.json"
        self.env_local = directory / "env.local"
        env_local = f"{{{{ lookup('campaign.platform.env_file', '{self.env_local}') }}}}"
        given = {"stack_env_local": env_local, "rotate_secrets_env_local": str(self.env_local), "stack_hot_reload": False}
        deployed.write_inventory(self.inventory, PROJECT, PORTS, **given)

    def secrets(self) -> dict[str, str]:
        return json.loads(self.kept.read_text())

    def command(self, playbook: str, **variables: Any) -> list[str]:
        return ["ansible-playbook", "-vvv", "--diff", "-i", str(self.inventory), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]

    def start(self, playbook: str, stdout: IO[bytes] | int = subprocess.PIPE, **variables: Any) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(playbook, **variables),
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_INJECT_INVOCATION": "true"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def play(self, playbook: str, **variables: Any) -> tuple[int, str]:
        began = time.monotonic()
        process = self.start(playbook, **variables)
        output, _error = process.communicate(timeout=300)
        print(f"{playbook}: {time.monotonic() - began:.0f} s")
        return process.returncode, output

    def well(self, playbook: str, **variables: Any) -> str:
        status, output = self.play(playbook, **variables)
        assert status == 0, output[-5000:]
        return output

    def containers(self) -> dict[str, str]:
        """Return the ids of the containers that run, by service."""
        listed = docker("ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}')
        return dict(line.split() for line in listed.splitlines())

    def read(self, path: str) -> str:
        """Return the text of a file below the stack's directory."""
        return (DIRECTORY / path).read_text()

    def count(self, service: str) -> int:
        """Return how many containers of a service run."""
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
        return len(docker("ps", "--quiet", *(f"--filter=label={name}={value}" for name, value in labels.items())).split())

    def inside(self, service: str, *command: str, stdin: str = "") -> str:
        """Run a command in a container of the stack, and return its output, whatever the status."""
        done = subprocess.run(
            ["docker", "exec", "-i", f"{PROJECT}-{service}-1", *command], capture_output=True, text=True, timeout=60, input=stdin, check=False
        )
        return done.stdout + done.stderr


# Each asks a server by its name in the stack's network, with the credentials that come on standard input, and prints what it says.
PROBES = {
    "postgres": 'umask 077; cat > /tmp/probe; PGPASSFILE=/tmp/probe psql -wXAt -h postgres -U "$1" -d campaign_db -c "SELECT 1"; rm /tmp/probe',
    "redis": "redis-cli -h redis --no-auth-warning",
    "minio": (
        "export MC_CONFIG_DIR=/tmp/probe; mc alias set probe http://minio:9000 --api S3v4 > /dev/null && mc ls probe/campaign-assets > /dev/null && echo in; "
        "rm -rf /tmp/probe"
    ),
}


@pytest.fixture(scope="session")
def signs_in(stack):
    """Return whether a server lets somebody in, and fail where it says neither yes nor no."""

    def ask(kind: str, user: str, password: str) -> bool:
        given = {"postgres": f"postgres:5432:*:{user}:{password}\n", "redis": f"AUTH {user} {password}\n", "minio": f"{user}\n{password}\n"}[kind]
        answer = stack.inside(kind, "sh", "-c", PROBES[kind], "probe", user, stdin=given)
        yes = {"postgres": "1\n", "redis": "OK\n", "minio": "in\n"}[kind] == answer
        no = {
            "postgres": "password authentication failed",
            "redis": "WRONGPASS",
            "minio": "not exist in our records|signature we calculated does not match|Access Key Id|Credentials",
        }
        assert yes or re.search(no[kind], answer), answer.replace(password, "...")
        return yes

    return ask


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Iterator[Stack]:
    deployed.sweep(PROJECT)
    found = Stack(tmp_path_factory.mktemp("rotation"))
    found.well("site")
    yield found
    deployed.sweep(PROJECT)


@pytest.fixture(scope="session")
def is_full(request) -> bool:
    return bool(request.config.getoption("--full"))
