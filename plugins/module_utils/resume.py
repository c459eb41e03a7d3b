# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the current release up again where a deploy was cut off by the end of the machine or of the Docker Engine.

`restart: unless-stopped` brings back what ran. What a deploy had stopped, created and not started, or not created yet, nothing brings back: no restart policy
starts a container in state Created. So this runs when the machine or the Engine has started, and does something only where the history of the stack ends in the
middle of a deploy. It lies in the stack's directory and needs the standard library alone.
"""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import engine as engines
from ansible_collections.campaign.platform.plugins.module_utils import host, image_names, links, lock, obstacles, plan, registry, routes
from ansible_collections.campaign.platform.plugins.module_utils import manifest as manifests
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, project_containers

PROGRAM = "client/resume"
MAIN = """# Written by Ansible (campaign.platform), and run when the machine or the Docker Engine has started.
import os
import sys

from {module} import main

sys.exit(main(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))
"""
SOCKET = "/var/run/docker.sock"
# Seconds. How long the Engine is waited for, how long services may take to become healthy, and how long one command may take.
ENGINE_PATIENCE = 120.0
HEALTH_PATIENCE = 300.0
REQUEST_PATIENCE = 300.0
INTERVAL = 0.5
# Where the history ends with one of these, the current release may be down. After any other event it serves, or was taken down on purpose.
CUT_OFF = frozenset(["started", "not_rolled_back", "not_resumed"])


def program_files() -> dict[str, str]:
    """Return this program as files, by their paths below a stack's directory: this module, and those that it imports."""
    parts = (sys.modules[__name__], engines, host, image_names, links, lock, manifests, obstacles, plan, registry, routes)
    sources = {f"{part.__name__.replace('.', '/')}.py": inspect.getsource(part) for part in parts}
    return {f"{PROGRAM}/{name}": text for name, text in {"__main__.py": MAIN.format(module=__name__), **sources}.items()}


def started_at() -> float:
    """Return when this machine was started, in seconds since the epoch, 0 where it does not say. A container that is a machine says when it was started."""
    try:
        ticks = int(host.started(1) or "")
        booted = next(int(line.split()[1]) for line in host.read("/proc/stat").splitlines() if line.startswith("btime "))
    except (StopIteration, ValueError, IndexError):
        return 0.0
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def is_cut_off(directory: str) -> bool:
    """Return whether the last deploy of a stack was cut off while there was a release in use."""
    if not (host.link_target(directory, "current") and host.link_target(directory, "attempted")):
        return False
    # Whoever takes the lock over writes down that the holder is gone, which says nothing of what runs.
    events = [line["event"] for line in lock.history(directory) if line["event"] != "aborted"]
    return bool(events) and events[-1] in CUT_OFF


class Resumption:
    """The way back to the current release of the stack in a directory."""

    def __init__(self, directory: str, engine: Engine):
        self.directory, self.engine = directory, engine
        name = socket.gethostname()
        holder = {"user": host.user(), "controller": name, "machine": name, "pid": os.getpid(), "run": f"resume-{uuid.uuid4().hex}"}
        self.lock = lock.Lock(directory, holder)
        self.pulse = lock.Pulse(directory)

    def take_lock(self) -> bool:
        """Hold the stack's lock; return whether there is still something to do. Raises MixedVolumesError where data was being exchanged, which a person ends.

        A deploy that lives does its own way back, so it is waited for. One that gave its last sign of life before the machine was started is gone.
        """
        while is_cut_off(self.directory):
            held = lock.read(self.directory) or {}
            is_gone = bool(held) and time.time() - held["age"] < started_at()
            try:
                self.lock.acquire(dead=held["run"] if is_gone else None)
            except lock.LockedError as error:
                # No time ends an exchange of data whose run is gone.
                if isinstance(error, lock.MixedVolumesError) and (is_gone or not held or abs(held["age"]) >= lock.LEASE):
                    raise
                time.sleep(INTERVAL)
                continue
            if is_cut_off(self.directory):
                return True
            self.lock.release()
        return False

    def wait_for_engine(self) -> None:
        """Return when the Engine answers; raise EngineError where it does not."""
        deadline = time.monotonic() + ENGINE_PATIENCE
        while True:
            try:
                self.engine.request("GET", "/_ping")
                return
            except EngineError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(INTERVAL)

    def compose(self, manifest: Mapping[str, Any], *arguments: str) -> int:
        """Call Docker Compose as a deploy does, with the files of a release, and return its exit status."""
        command = [os.path.join(self.directory, "client/docker"), "compose", "--ansi", "never"]
        command += ["--project-directory", self.directory, "--project-name", manifest["project"]]
        command += ["--env-file", manifest["env_file"]] if manifest["env_file"] else []
        command += [word for path in manifest["compose_files"] for word in ("--file", path)]
        return subprocess.run([*command, *arguments], cwd="/", stdin=subprocess.DEVNULL, check=False).returncode

    def ill(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        """Return the services that do not serve, each with its state."""
        found = routes.by_service(project_containers(self.engine, manifest["project"]), manifest["services"])
        states = {service: self.state(containers[-1]["Id"]) if containers else "no container" for service, containers in found.items()}
        return {service: state for service, state in states.items() if state != "healthy"}

    def state(self, container: str) -> str:
        """Return 'healthy', which a container without a healthcheck is while it runs, or what is the case instead."""
        try:
            state = self.engine.get(f"/containers/{container}/json")["State"]
        except EngineError as error:
            if error.status == 404:
                return "no container"
            raise
        return state["Status"] if state["Status"] != "running" else (state.get("Health") or {"Status": "healthy"})["Status"]

    def forget_routes(self, manifest: Mapping[str, Any]) -> None:
        """Have proxies find services by their names again where they were sent to a container that is gone."""
        containers = project_containers(self.engine, manifest["project"])
        there = {routes.name_of(container) for container in containers}
        stale = dict(self._stale(manifest, there))
        for path, text in stale.items():
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{path}.new", path)
        if stale:
            found = routes.by_service(containers, manifest["routes"])
            routes.reload(self.engine, [container for proxies in found.values() for container in proxies])

    def _stale(self, manifest: Mapping[str, Any], there: set[str]) -> Iterator[tuple[str, str]]:
        for path, text in routes.defaults(self.directory, manifest["routes"]).items():
            try:
                with open(path, "rb") as file:
                    named = routes.container_in(file.read())
            except OSError:
                continue
            if named and named not in there:
                yield path, text

    def bring_up(self) -> str | None:
        """Start the current release as the way back of a deploy does; return what is wrong in the end, or nothing, None where it was taken down on purpose."""
        manifest = manifests.read(os.path.join(self.directory, "current", manifests.NAME))
        try:
            tried = manifests.read(os.path.join(self.directory, "attempted", manifests.NAME))
        except manifests.ManifestError:
            tried = manifests.empty()
        if not project_containers(self.engine, manifest["project"]):
            # A deploy leaves some wherever it is cut off: these were removed on purpose.
            return None
        # A server that starts reads the passwords of the release that the other services have.
        links.renew(self.directory, manifest)
        # The jobs of the other release would go on giving out its passwords.
        obstacles.find(self.engine, manifest, [*manifest["jobs"], *tried["jobs"]]).remove(self.engine)
        # With the images that it had, whatever their names mean by now.
        with image_names.lending(self.engine, self.directory, os.path.join(self.directory, "current")):
            status = self._up(manifest)
        obstacles.give_names(self.engine, manifest["project"])
        self.forget_routes(manifest)
        deadline = time.monotonic() + (HEALTH_PATIENCE if status == 0 else 0)
        while ill := self.ill(manifest):
            if time.monotonic() >= deadline:
                return "; ".join(f"{service} is {state}" for service, state in sorted(ill.items()))
            self.pulse()
            time.sleep(INTERVAL)
        return ""

    def _up(self, manifest: Mapping[str, Any]) -> int:
        """Have Docker Compose start the jobs that give logins back, and the services; return its exit status."""
        up = ("up", "--detach", "--no-build", "--pull", "never")
        if manifest["restoring_jobs"]:
            # What is wrong with them shows in the services that sign in.
            self.compose(manifest, "--profile", "job", *up, *manifest["foundations"], *manifest["restoring_jobs"])
        return self.compose(manifest, *up, "--remove-orphans")


def main(directory: str) -> int:
    """Bring the current release up where a deploy was cut off, and return the exit status: 0 also where there was nothing to do."""
    if not is_cut_off(directory):
        return 0
    work = Resumption(directory, Engine(SOCKET, timeout=REQUEST_PATIENCE))
    try:
        if not work.take_lock():
            return 0
    except lock.MixedVolumesError as error:
        print(f"A deploy was cut off, and nothing is started. {error}", flush=True)
        return 1
    current, attempted = host.link_target(directory, "current"), host.link_target(directory, "attempted")
    print(f"The deploy of release {attempted} was cut off. Bringing release {current} up again.", flush=True)
    try:
        work.wait_for_engine()
        wrong = work.bring_up()
    except (EngineError, manifests.ManifestError, OSError) as error:
        wrong = str(error)
    if wrong is None:
        work.lock.record("taken_down")
        work.lock.release()
        print("Its containers were removed meanwhile, so nothing is started.", flush=True)
        return 0
    work.lock.record("not_resumed" if wrong else "resumed", release=current, attempted=attempted)
    work.lock.release()
    print(f"Release {current} did not come up again: {wrong}. Deploy again." if wrong else f"Release {current} serves again.", flush=True)
    return int(bool(wrong))
