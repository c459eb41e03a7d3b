# SPDX-License-Identifier: GPL-3.0-or-later
"""However often a new image is deployed, the host keeps what the kept releases name and no more, and whoever else uses the Engine loses nothing.

The stack is one of its own, small so that a deploy takes seconds: a database, and a service whose image is another one each time. The neighbour's images share
ids and layers with the stack's, and everything else of it is what somebody would take for rubbish: stopped, unused, without a name.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import deployed
import pytest
from conftest import Stack, docker

DEPLOYS = 12
SAMPLE = 5
KEPT = 1
NEIGHBOUR = "campaign-neighbour"
# Only the database and its jobs.
LEFT_OUT = ("api", "frontend", "minio", "page", "redis", "rules-engine", "scheduler")
LAYER = 1_000_000
KINDS = ("container", "image", "network", "volume")


class Small(Stack):
    """A stack of its own with one service more."""

    project = "campaign-prune"
    directory = Path("/opt/campaign-prune")
    ports: ClassVar = {"postgres": 22480}

    def __init__(self, directory: Path):
        self.context = directory / "context"
        self.context.mkdir()
        super().__init__(directory, stack_keep_releases=KEPT)

    def image(self, number: int) -> str:
        return f"{self.project}/extra:{number}"

    def build(self, number: int, base: str) -> str:
        """Build the service's image of a number, which has a layer that no other one has; return its id."""
        (self.context / "layer").write_bytes(os.urandom(LAYER))
        return deployed.build(self.image(number), base, "COPY layer /", context=self.context)

    def variables(self, number: int) -> dict[str, Any]:
        body = {
            "image": "{{ image.extra }}",
            "user": "101:101",
            "entrypoint": ["sleep", "infinity"],
            "networks": ["backend-network"],
            "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
        }
        extra = {"images": {"extra": {"upstream": self.image(number)}}, "base": {"services": {"extra": body}}}
        return {"stack_services": {**dict.fromkeys(LEFT_OUT), "extra": extra}}

    def tags(self) -> set[str]:
        """Return the service's images that the Engine has."""
        return set(docker("image", "ls", "--filter", f"reference={self.project}/extra", "--format", "{{.Repository}}:{{.Tag}}").split())

    def releases(self) -> dict[str, dict]:
        """Return the manifests of the releases that are on the host, by their ids."""
        return {path.parent.name: json.loads(path.read_text()) for path in (self.directory / "releases").glob("*/manifest.json")}


class Neighbour:
    """Another project on the same Engine, which nobody told the stack of."""

    def __init__(self, directory: Path, stack: Small):
        self.stack, self.directory = stack, directory
        self.volumes: list[str] = []

    def come(self) -> None:
        """Take the stack's first images as one's own, build upon them, and leave containers, volumes and networks that nothing uses right now."""
        docker("tag", self.stack.image(0), f"{NEIGHBOUR}/shared:1")
        deployed.build(f"{NEIGHBOUR}/upon:1", self.stack.image(1), "LABEL whose=neighbour")
        deployed.build(f"{NEIGHBOUR}/unused:1", self.stack.image(0), "LABEL whose=neighbour")
        body = {"image": f"{NEIGHBOUR}/upon:1", "entrypoint": ["sleep", "infinity"], "stop_grace_period": "0s"}
        services = {"runs": {**body, "network_mode": "none", "volumes": ["data:/data"]}, "rests": {**body, "networks": ["own"]}}
        file = self.directory / "compose.yml"
        file.write_text(json.dumps({"services": services, "volumes": {"data": {}}, "networks": {"own": {}}}))
        compose = ["compose", "--project-name", NEIGHBOUR, "--project-directory", str(self.directory), "--file", str(file)]
        docker(*compose, "up", "--detach")
        docker(*compose, "stop", "rests")
        # Without Docker Compose: from an image by the stack's own name, with a volume without a name.
        docker("run", "--detach", f"--name={NEIGHBOUR}-plain", "--volume=/data", "--network=none", "--entrypoint=true", self.stack.image(1))
        docker("network", "create", f"{NEIGHBOUR}-unused")
        docker("volume", "create", f"{NEIGHBOUR}-unused")
        self.volumes = [mount["Name"] for mount in json.loads(docker("inspect", f"{NEIGHBOUR}-plain"))[0]["Mounts"]]
        for name in self.names("volume"):
            (Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", name)) / "kept").write_text(name)

    def names(self, kind: str) -> list[str]:
        template = {"container": "{{.Names}}", "image": "{{.Repository}}:{{.Tag}}"}.get(kind, "{{.Name}}")
        listed = docker(kind, "ls", *(["--all"] if kind == "container" else []), "--format", template).split()
        return sorted(name for name in listed if name.startswith(NEIGHBOUR) or name in self.volumes)

    def all(self) -> dict[str, dict[str, Any]]:
        """Return what the Engine says of all that is the neighbour's: ids, states, and what the volumes hold."""
        found: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            for name in self.names(kind):
                said = json.loads(docker(kind, "inspect", name))[0]
                held = sorted(path.read_text() for path in Path(said["Mountpoint"]).glob("kept")) if kind == "volume" else None
                found[f"{kind} {name}"] = {key: said.get(key) for key in ("Id", "State", "Image", "CreatedAt")} | {"holds": held}
        return found

    def go(self) -> None:
        for kind, options in (("container", ["--force", "--volumes"]), ("network", []), ("volume", []), ("image", [])):
            if found := self.names(kind):
                docker(kind, "rm", *options, *found, seconds=200)


@pytest.fixture
def small(tmp_path) -> Iterator[Small]:
    deployed.sweep(Small.project)
    found = Small(tmp_path)
    yield found
    found.play("down")
    deployed.sweep(Small.project)


@pytest.fixture
def neighbour(tmp_path, small) -> Iterator[Neighbour]:
    found = Neighbour(tmp_path, small)
    found.go()
    yield found
    # What was made from an image by the stack's name has to go before that image.
    found.go()


@pytest.fixture
def deploys(request) -> int:
    return DEPLOYS if request.config.getoption("--full") else SAMPLE


def test_what_no_kept_release_names_goes_and_what_is_somebody_elses_stays(small, neighbour, deploys):
    base = deployed.images()["nginx"]
    ids = [small.build(number, base) for number in range(deploys)]
    neighbour.come()
    before = neighbour.all()
    assert {name.partition(" ")[0] for name in before} == set(KINDS)
    for number in range(deploys):
        small.deploy(**small.variables(number))
        # However many there were: the one in use and those that are kept.
        assert len(small.releases()) == min(number + 1, KEPT + 1)
    # What is not deployed yet is no release's, and nobody's rubbish. A container of the neighbour's was made from number 1.
    kept = {small.image(number) for number in range(deploys - KEPT - 1, deploys)}
    assert small.tags() == kept | {small.image(1)}
    # Not only the names are gone, but for the first one, which the neighbour has by another.
    there = set(docker("image", "ls", "--all", "--quiet", "--no-trunc").split())
    assert [number for number, identifier in enumerate(ids) if identifier not in there] == list(range(2, deploys - KEPT - 1))
    assert neighbour.all() == before
    # What is kept is there, with all that it names.
    for release, manifest in small.releases().items():
        for name in {*manifest["references"], *manifest["images"].values()}:
            assert docker("image", "inspect", "--format", "{{.Id}}", name), (release, name)
        for path in [*manifest["configs"], *manifest["secrets"]]:
            assert (small.directory / path).is_file(), (release, path)
    result = small.play("rollback")
    assert result.status == 0, result.text[-3000:]
    assert small.containers()["extra"]["Image"] == ids[deploys - 2]
    verified = small.play("verify")
    assert verified.status == 0, verified.text[-3000:]
    assert neighbour.all() == before
