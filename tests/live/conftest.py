# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of a running stack share. They look at one stack on one host, wherever that is, and a scenario tells them where:

LIVE_HOST       how a command gets to the host, as a JSON list such as ["ssh", "-F", "config", "name"]; [] is this machine
LIVE_SSH        "1" where the host's end is a shell that takes the command as one text
LIVE_PROJECT    the Compose project
LIVE_DIRECTORY  the stack's directory on the host
LIVE_URL        where the frontend answers this machine
LIVE_SECRETS    a file of this machine with the stack's secrets, a JSON object

With TLS, LIVE_URL is https://NAME:PORT, and test_tls.py also needs:

LIVE_TLS        where the frontend redirects from, http://NAME:PORT
LIVE_CA         a file of this machine with the certificate of the authority
LIVE_ADDRESS    the address to connect to, for a NAME that is not in the DNS
"""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest


@dataclass
class Host:
    """The host that the stack runs on."""

    prefix: list[str]
    is_ssh: bool
    project: str
    directory: str

    def run(self, *argv: str, check: bool = True, stdin: bytes | None = None, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run a command on the host as root and return what it printed, as bytes."""
        command = [*self.prefix, shlex.join(argv)] if self.is_ssh else [*self.prefix, *argv]
        done = subprocess.run(command, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, timeout=timeout)
        assert not check or done.returncode == 0, (
            f"{shlex.join(argv)} exited {done.returncode}: {done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}"
        )
        return done

    def text(self, *argv: str) -> str:
        """Return what a command of the host prints."""
        return self.run(*argv).stdout.decode()

    @cached_property
    def containers(self) -> dict[str, dict]:
        """What the Engine says of each service's container, by service."""
        listed = self.text("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}").split()
        inspected = json.loads(self.text("docker", "inspect", *listed))
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in inspected}

    @cached_property
    def services(self) -> dict[str, dict]:
        """Of the containers those that are to run, and not to have run, as jobs are."""
        declared = self.compose["services"]
        return {service: container for service, container in self.containers.items() if "profiles" not in declared.get(service, {})}

    @cached_property
    def info(self) -> dict:
        """What the Engine says of itself."""
        return json.loads(self.text("docker", "info", "--format", "{{json .}}"))

    @cached_property
    def images(self) -> dict[str, dict]:
        """What the Engine says of each service's image, by service."""
        wanted = {service: container["Image"] for service, container in self.containers.items()}
        inspected = {item["Id"]: item for item in json.loads(self.text("docker", "image", "inspect", *set(wanted.values())))}
        return {service: inspected[image] for service, image in wanted.items()}

    @cached_property
    def networks(self) -> dict[str, dict]:
        """What the Engine says of the stack's networks, by their names in the Compose files."""
        listed = self.text("docker", "network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}").split()
        return {item["Labels"]["com.docker.compose.network"]: item for item in json.loads(self.text("docker", "network", "inspect", *listed))}

    @cached_property
    def compose(self) -> dict:
        """The current release as Docker Compose reads it, jobs included."""
        release = f"{self.directory}/current"
        files = [f"--file={path}" for path in self.text("find", f"{release}/", "-name", "docker-compose*.yml").split()]
        # The override's name is the longer one, and comes second.
        return json.loads(self.text("docker", "compose", *sorted(files, key=len), f"--env-file={release}/.env", "--profile=job", "config", "--format=json"))

    def execute(self, service: str, *argv: str, check: bool = True, user: str | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a service's container."""
        as_user = ["--user", user] if user else []
        return self.run("docker", "exec", *as_user, self.containers[service]["Id"], *argv, check=check)


@pytest.fixture(scope="session")
def host() -> Host:
    return Host(
        prefix=json.loads(os.environ["LIVE_HOST"]),
        is_ssh=os.environ.get("LIVE_SSH") == "1",
        project=os.environ["LIVE_PROJECT"],
        directory=os.environ["LIVE_DIRECTORY"],
    )


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["LIVE_URL"]


@pytest.fixture(scope="session")
def is_tls(url) -> bool:
    return url.startswith("https://")


@pytest.fixture(scope="session")
def stack_secrets() -> dict[str, str]:
    return json.loads(Path(os.environ["LIVE_SECRETS"]).read_text())
