#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage a whole release of a Compose stack on the host in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, activate and prune releases of a Compose stack, and take a stack down
version_added: 0.1.0
description:
  - Writes every file of a release in one round trip. Config and secret files have names of their own generation and are never
    rewritten. The release's directory appears whole or not at all.
  - A file that is there already and differs (damage, or an edit by hand) is replaced and reported as a change.
  - Beside the releases it writes C(client/resume), a program that starts the current release again where the end of the machine or of the Engine cut a deploy
    off, and C(client/docker), a Docker client that takes nothing from the environment or the configuration of the user who
    calls it, because Docker Compose ranks both above a release's own values. Who deploys uses that client.
options:
  directory:
    description: The stack's directory on the host. Required unless O(state=staged).
    type: path
  release:
    description: The release's id, the name of its directory below C(releases). Required with O(state=attempted), O(state=cleared),
      O(state=switched) and O(state=current).
    type: str
  project:
    description: The Compose project's name. Required with O(state=down). With O(state=chosen), a release of another project is refused.
    type: str
  state:
    description:
      - V(staged) makes the release complete and runnable on the host: it writes files, and nothing else.
      - V(lent) has references mean the images that O(tags) names, because they have come to mean others since the release ran. They mean the others again
        with V(current) or V(ended), or with the next V(staged) or V(chosen).
      - V(attempted) notes that the release is about to be started, and clears the way as V(cleared) does.
      - V(cleared) removes containers that would stop the release from starting. Those are what its jobs left behind, because C(docker compose down) removes
        the networks that they are bound to and not them; what is bound to a network that was pruned; and what holds a port that the release gives to
        another service; and, of what was interrupted while a container was replaced without a gap, the new one. It also unpauses containers.
      - V(switched) has proxies hand requests on to the containers that the release means, where a service has more than one, and returns when nobody is handed
        on to another one any more. Where the release is the current one, the others are stopped and removed.
      - V(current) points C(current) and C(.env) to the release and prunes. It also writes down which volumes there are and, in the release's
        C(deployed.json), which images it runs with, who took it into use, when and from which commit; and stops and removes the containers that were replaced.
      - V(chosen) reads a release that was in use before, O(release) or the one before the current one, so that it can be started as one that was staged.
      - V(held) fails, with C(lost) in the result, where another run has taken the lock over meanwhile, and changes nothing.
      - V(stopped) stops the jobs of a release that failed and, with O(retire), everything of the project. Containers stay, to be looked at.
      - V(ended) ends a run that failed: it writes the O(outcome) down and gives the lock back.
      - V(down) stops and removes all containers and networks of the project, whichever release they are of, and the unit or init script that starts
        C(client/resume). Volumes stay.
    type: str
    choices: [staged, chosen, lent, attempted, cleared, switched, current, held, stopped, ended, down]
    default: staged
  images:
    description: >-
      References of images by key. With O(state=staged) in the role C(stack), the controller builds the release from the role's variables and these references.
    type: dict
  tags:
    description: With O(state=lent), ids of images by the reference that is to mean them. They have to be on the host.
    type: dict
  plan:
    description: A whole release, for those who build one themselves. Given with O(state=staged) in place of O(images).
    type: dict
    suboptions:
      release:
        description: The release's id.
        type: str
        required: true
      directory:
        description: The stack's directory on the host.
        type: str
        required: true
      project:
        description: The Compose project's name, to validate the rendered files with.
        type: str
        required: true
      files:
        description: The release's own files, written below C(releases/RELEASE), each with C(name) and C(content).
        type: list
        elements: dict
        required: true
      configs:
        description: Files that containers mount, world-readable, each with C(path) (relative to O(directory)) and C(content).
        type: list
        elements: dict
        required: true
      secrets:
        description: Secret files, mode 0400 in a directory of mode 0700, each with C(path), C(content), C(uid) and C(gid).
        type: list
        elements: dict
        required: true
      manifest:
        description:
          - What is deployed, written as C(manifest.json). Whoever acts on a release reads it there.
          - C(project), C(layer), C(compose_files), C(env_file), C(services), C(foundations) (services that wait for no other), C(jobs),
            C(networks), C(start_first) (services whose new container is started before the old one is stopped), C(ground) (a digest of what jobs work
            on beside their own definitions, empty where nobody knows that), C(routes) (ports of services by the proxy that
            hands requests on to them), C(references) (of all images that the host has for the release), C(first_jobs) (jobs that end before anything is
            started), C(restoring_jobs) (those that give logins back what the release knows of them), C(last_jobs) (jobs that run when the release is
            verified), C(images), C(settings), C(checks), C(loosened), C(configs), C(secrets), C(stable) (names of secrets that stay, with the file that each
            stands for) and C(earlier) (files of jobs that get every generation of them that is on the host).
        type: dict
        required: true
      boot:
        description:
          - Texts of a unit (C(systemd)) and of an init script (C(sysv)) that run C(client/resume) below O(directory) after each start of the machine and of
            the Docker Engine. That program does nothing unless a deploy was cut off; then it starts the current release again. The one that the machine
            has a use for is written and enabled. Without any, nothing is.
        type: dict
  compose_version:
    description: >-
      Version of Docker Compose on the host. The hashes of a release's definitions are written down beside it, for this version; without it, Docker Compose is
      asked for them each time. With O(state=staged).
    type: str
  holder:
    description:
      - Who works on the stack, which the controller fills in. One run at a time does, under a lock in O(directory); another one is refused.
        The lock is held from V(staged) on to V(current) or V(ended), or not beyond V(staged) where nothing has to be done. V(down) holds it while it works.
      - What was started, taken into use, failed, aborted or taken down is appended to C(history.jsonl) in that directory, with the holder.
    type: dict
    suboptions:
      user: {description: Who., type: str, required: true}
      controller: {description: Name of the controller., type: str, required: true}
      machine: {description: What tells the controller from any other machine., type: str, required: true}
      pid: {description: The run's process there., type: int, required: true}
      run: {description: What tells the run from any other one., type: str, required: true}
      commit: {description: The commit of the inventory., type: str}
  takeover:
    description: Take the lock from whoever holds it. What its Docker Compose still does is waited for.
    type: bool
    default: false
  ended_run:
    description: A run that is known to have ended, so that its lock counts no longer.
    type: str
  outcome:
    description: What to write down with O(state=ended).
    type: str
    choices: [failed, rolled_back, not_rolled_back]
    default: failed
  retire:
    description: >-
      With O(state=switched), also stop and remove the containers that were replaced. Docker Compose, when it is called for other services, would keep the
      oldest of two, whatever its definition. With O(state=stopped), stop all containers of the project.
    type: bool
    default: false
  idle:
    description: With O(state=current), nothing had to be done, so that staging has given the lock back.
    type: bool
    default: false
  rerun:
    description: With O(state=attempted) and O(state=cleared), also remove what the release's jobs left behind, so that they run again.
    type: bool
    default: true
  verify_depth:
    description: >-
      Given with O(state=staged), a release that runs already and needs nothing done is verified to this depth in the same step, without waiting for anything.
    type: str
    choices: [basic, full]
  keep:
    description: How many releases to keep beside the current one when it is activated.
    type: int
    default: 3
  index:
    description:
      - Directory of the host with a link to each stack's directory. With O(state=current), images that only removed releases name are removed from the host,
        unless a container, a kept release of this stack or one of another stack needs them.
    type: path
    default: /var/lib/campaign-stacks
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Predicts the change and writes nothing.
  diff_mode:
    support: full
    description: Shows the release's files against those of the current release, and secrets by name only.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Stage the release that the role's variables ask for
  campaign.platform.release:
    images: {postgis: "docker.io/postgis/postgis:18-3.6"}

- name: Make it the current one
  campaign.platform.release:
    directory: /opt/campaign
    release: 0123456789ab
    state: current

- name: Take the stack down
  campaign.platform.release:
    directory: /opt/campaign
    project: campaign
    state: down
"""

RETURN = r"""
release:
  description: The release's id.
  type: str
  returned: unless O(state=down)
is_new:
  description:
    - Whether the release has to be started with its jobs. It is not the current one, or another one was attempted since; or a volume is new since it was
      activated, so that nothing of what the jobs did is in it; or a container is bound to a network that is gone; or a reference means another image by now.
  type: bool
  returned: always
is_verified:
  description: Whether nothing has to be done and every service is healthy and passed its checks. Where it is false, the module C(verify) says what is wrong.
  type: bool
  returned: when O(state=staged) or O(state=chosen)
plan:
  description:
    - What C(docker compose up) would do to the services' containers, and why. Empty where all of them are what the release asks for, so that it need not run.
    - Each with C(service), C(action) (V(create), V(recreate), V(start) or V(remove)), C(reasons), which name what differs and hold no value of a setting or
      a secret, and C(forced), which says that Docker Compose would not do it by itself.
  type: list
  elements: dict
  returned: when O(state=staged)
beside:
  description: The services of the plan that are replaced by a container that is started beside the one that serves.
  type: list
  elements: str
  returned: when O(state=staged) or O(state=chosen)
others:
  description: The other services of the plan.
  type: list
  elements: str
  returned: when O(state=staged) or O(state=chosen)
manifest:
  description: The release's manifest, with the path of its file as C(path).
  type: dict
  returned: when O(state=staged) or O(state=chosen)
moved:
  description: >-
    Ids of the images that the current release runs with and that are on the host, by the reference that has come to mean another one since, or will where
    RV(tags) is carried out.
  type: dict
  returned: always
tags:
  description: Ids of the images that the chosen release ran with, by the reference that has come to mean another one since.
  type: dict
  returned: always
first_jobs:
  description: The jobs that have to end before anything is started. None where RV(jobs) has none because they are done.
  type: list
  elements: str
  returned: when O(state=staged) or O(state=chosen)
jobs:
  description:
    - The jobs that have to run before the services are started. Without migrations where the release was in use and its data is still there.
    - None where the release in use ran the same ones (of the same definition, image and secrets), they ended well, and only services change that are
      replaced by a container beside the one that serves, so that all that jobs work on stays as it is.
  type: list
  elements: str
  returned: when O(state=staged) or O(state=chosen)
last_jobs:
  description: The jobs that have to run when the release is verified. Without those that find nothing of an earlier release.
  type: list
  elements: str
  returned: when O(state=staged) or O(state=chosen)
previous:
  description: The manifest of the current release before this run, or null.
  type: dict
  returned: always
current:
  description: The id of the current release before this run, or null.
  type: str
  returned: always
locked_by:
  description: Who holds the lock, with C(user), C(controller), C(machine), C(pid), C(run) and C(since).
  type: dict
  returned: when another run works on the stack
pruned:
  description: Ids of the releases that were removed.
  type: list
  elements: str
  returned: when O(state=current)
pruned_images:
  description: References of the images that were removed.
  type: list
  elements: str
  returned: when O(state=current)
"""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import boot, host, image_names, links, lock, obstacles, replaced, resume, routes, verification
from ansible_collections.campaign.platform.plugins.module_utils import manifest as manifests
from ansible_collections.campaign.platform.plugins.module_utils import plan as plans
from ansible_collections.campaign.platform.plugins.module_utils.compose import HASHES, config_command, hashes_of, noted_hashes
from ansible_collections.campaign.platform.plugins.module_utils.engine import (
    PROJECT,
    Engine,
    EngineError,
    client_directory,
    project_containers,
    started_elsewhere,
)
from ansible_collections.campaign.platform.plugins.module_utils.links import link, sync_directory
from ansible_collections.campaign.platform.plugins.module_utils.obstacles import remove_container, stale_containers, stop_container
from ansible_collections.campaign.platform.plugins.module_utils.registry import image_path

_ID = re.compile(r"[0-9a-f]{12}\Z")
_MANIFEST = "manifest.json"
# Services of the collection whose data lies beside the place that images of PostgreSQL before 18 declare, in the same volume.
_BESIDE = frozenset(["postgres", "wal"])
# A release under construction.
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}-")
UNFINISHED_SECONDS = 3600
# Longer than the longest time that a service is given to stop, because the Engine answers when it has stopped.
ENGINE_SECONDS = 300
# Steps that change nothing of what runs.
HARMLESS = frozenset(["staged", "chosen", "lent", "held", "ended"])
VOLUMES = "volumes.json"
CLIENT = """#!/bin/sh
# Docker's client without the environment and the configuration of the user who calls it: Docker Compose ranks both above the release's own values.
# While it works, nobody else takes the stack's lock, whatever became of the run that called it.
exec 9<{directory}/running && flock --shared 9
# Of a run that has lost the lock of the stack meanwhile, another one has seen that nothing works here any more.
holds() {{
  [ -z "${{CAMPAIGN_RUN:-}}" ] || grep -qF "\\"run\\": \\"$CAMPAIGN_RUN\\"" {directory}/../lock.json
}}
if ! holds; then
  echo "This run has lost the lock of the stack, so nothing was done." >&2
  exit 1
fi
env -i PATH="$PATH" DOCKER_CONFIG={directory} DOCKER_HOST=unix://{socket} docker "$@"
status=$?
holds && touch -c {directory}/../lock.json 2>/dev/null
exit $status
"""


def read(path: str) -> bytes | None:
    """Return the bytes of a regular file, None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file whole: under a temporary name, synced, then renamed."""
    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if owner:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(directory)


def client_files(root: str, socket: str) -> dict[str, tuple[str, int]]:
    """Return content and mode of the files of the stack's own Docker client, by their paths below the stack's directory.

    The client's configuration is empty but for the places of plugins: the proxies of a user's own would go into every container.
    """
    own = client_directory()
    extra: list[str] = []
    try:
        with open(os.path.join(own, "config.json"), encoding="utf-8") as file:
            extra = [str(path) for path in json.load(file).get("cliPluginsExtraDirs") or []]
    except (OSError, ValueError, AttributeError):
        pass
    plugins = [path for path in (os.path.join(own, "cli-plugins"), *extra) if os.path.isdir(path)]
    configuration = {"cliPluginsExtraDirs": plugins} if plugins else {}
    return {
        "client/docker": (CLIENT.format(directory=os.path.join(root, "client"), socket=socket), 0o755),
        lock.RUNNING: ("", 0o644),
        "client/config.json": (json.dumps(configuration) + "\n", 0o644),
        **{name: (text, 0o644) for name, text in resume.program_files().items()},
    }


def births(paths: list[str]) -> dict[str, str]:
    """Return inode and time of birth of the directories that are on this machine, by path."""
    there = [path for path in paths if path and os.path.isdir(path)]
    if not there:
        return {}
    # The decimal point of whoever calls is a comma in half of the world.
    done = subprocess.run(["stat", "--format=%n|%i %.W", *there], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return dict(line.rsplit("|", 1) for line in done.stdout.splitlines() if "|" in line)


def volumes_of(engine: Engine, project: str) -> dict[str, str]:
    """Return what tells each of a project's volumes from one of the same name that was created later, by name.

    That is when its directory was born. What the Engine calls the time of its creation is, before Engine 23, that of the last change at its top: a bucket that
    somebody creates in MinIO changes it (https://github.com/moby/moby/blob/v20.10.24/volume/local/local_unix.go). Elsewhere it has to do.
    """
    found = engine.get("/volumes", filters=json.dumps({"label": [f"{PROJECT}={project}"]})).get("Volumes") or []
    born = births([volume.get("Mountpoint", "") for volume in found])
    return {volume["Name"]: born.get(volume.get("Mountpoint", "")) or volume.get("CreatedAt", "") for volume in found}


def lock_of(module: AnsibleModule) -> lock.Lock | None:
    """Return the lock of the stack for who asks, None where nobody is named."""
    return lock.Lock(module.params["directory"], module.params["holder"]) if module.params["holder"] else None


def acquire(wanted: lock.Lock | None, module: AnsibleModule, *, goes_on: bool = False) -> None:
    """Hold the lock, or fail by naming who does. A check changes nothing, so it needs none. A run that ``goes_on`` holds it already."""
    if wanted and not module.check_mode:
        try:
            wanted.acquire(takeover=module.params["takeover"], dead=module.params["ended_run"], goes_on=goes_on)
        except lock.LockedError as error:
            module.fail_json(msg=str(error), locked_by=error.holder, lost=goes_on)
        except OSError as error:
            unchanged = "" if goes_on else " Nothing was changed."
            module.fail_json(
                msg=f"The stack's lock {wanted.path} cannot be taken: {error.strerror}.{unchanged} "
                f"Check that {wanted.directory} is a directory with free space that root may write to, and remove what is in the place of the lock.",
            )


class Compose:
    """Docker Compose, asked about the files of a release. It starts nothing, and it needs no Engine."""

    def __init__(self, module: AnsibleModule, engine: Engine, root: str):
        self.module, self.root, self.socket = module, root, engine.socket_path
        self._read: dict[str, Mapping[str, dict] | None] = {}

    def _config(self, project: str, files: list[str], environment: str, *arguments: str, descriptors: tuple[int, ...] = ()) -> tuple[int, str, str]:
        command = config_command(self.socket, self.root, project, files, environment, *arguments)
        return self.module.run_command(command, cwd="/", pass_fds=descriptors)

    @contextlib.contextmanager
    def _in_memory(self, files: Mapping[str, bytes]) -> Iterator[tuple[list[str], str, tuple[int, ...]]]:
        """Yield paths of Compose files and of the environment file that are nowhere on disk, and their descriptors."""
        descriptors = {}
        try:
            for name, content in files.items():
                if name.endswith(".yml") or name == ".env":
                    descriptors[name] = os.memfd_create(name)
                    with open(descriptors[name], "wb", closefd=False) as file:
                        file.write(content)
            paths = {name: f"/proc/self/fd/{descriptor}" for name, descriptor in descriptors.items()}
            yield [path for name, path in paths.items() if name.endswith(".yml")], paths[".env"], tuple(descriptors.values())
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def ask(self, project: str, files: Mapping[str, bytes], *arguments: str) -> tuple[int, str, str]:
        """Return exit status, output and error of `docker compose config` over files that need not be on disk."""
        with self._in_memory(files) as (paths, environment, descriptors):
            return self._config(project, paths, environment, *arguments, descriptors=descriptors)

    def definitions(self, directory: str) -> Mapping[str, dict] | None:
        """Return the services of the release in a directory, None where they cannot be read."""
        if directory not in self._read:
            try:
                manifest = manifests.read(os.path.join(directory, _MANIFEST))
            except manifests.ManifestError:
                return None
            status, output, _error = self._config(manifest["project"], manifest["compose_files"], manifest["env_file"] or "/dev/null", "--format", "json")
            self.remember(directory, output if status == 0 else "")
        return self._read[directory]

    def remember(self, directory: str, output: str) -> None:
        """Take what Compose printed as the services of the release in a directory."""
        self._read[directory] = json.loads(output)["services"] if output else None


class Release:
    """One release of a stack's directory."""

    def __init__(self, module: AnsibleModule, engine: Engine):
        self.module = module
        self.engine = engine
        params = module.params
        self.root = params["directory"]
        self.id = params["release"] or ""
        self.path = os.path.join(self.root, "releases", self.id)
        self.compose = Compose(module, engine, self.root)
        self.lock = lock_of(module)
        self.is_chosen = False
        # Whether names have come to mean other images than the release in use runs with.
        self.has_moved = False
        self.current_link = os.path.join(self.root, "current")
        current = self.current()
        # Names a release whose jobs may have run although it was never taken into use: what they changed is still in force.
        self.attempt_link = os.path.join(self.root, "attempted")
        is_new = current != self.id or os.path.lexists(self.attempt_link)
        self.result = {"changed": False, "release": self.id, "current": current, "previous": self._read(self.current_link), "is_new": is_new, "diff": []}
        self.result["run"] = (params["holder"] or {}).get("run")
        self.result.update(moved={}, tags={})

    def _read(self, directory: str) -> dict | None:
        """Return a release's manifest, None where there is none that can be read."""
        try:
            return manifests.read(os.path.join(directory, _MANIFEST))
        except manifests.ManifestError:
            return None

    def current(self) -> str | None:
        """Return the current release's id."""
        try:
            return os.path.basename(os.readlink(self.current_link))
        except OSError:
            return None

    def _wanted(self):
        """Yield path, content, mode, owner and whether it is secret, for everything outside the release's own directory."""
        params = self.module.params["plan"]
        for name, (content, mode) in client_files(self.root, self.engine.socket_path).items():
            yield os.path.join(self.root, name), content.encode(), mode, (0, 0), False
        for config in params["configs"]:
            yield os.path.join(self.root, config["path"]), config["content"].encode(), 0o444, (0, 0), False
        for secret in params["secrets"]:
            yield secret["path"], secret["content"].encode(), 0o400, (secret["uid"], secret["gid"]), True

    def _manifest(self) -> bytes:
        return (json.dumps({"release": self.id, **self.module.params["plan"]["manifest"]}, indent=1, sort_keys=True) + "\n").encode()

    def _check_paths(self) -> None:
        if not _ID.match(self.id):
            self.module.fail_json(msg=f"release: {self.id!r} is not a release id. Twelve hexadecimal digits are one.")
        root = os.path.normpath(self.root) + os.sep
        for path, *_rest in self._wanted():
            if not os.path.normpath(path).startswith(root) or os.path.normpath(path) != path:
                self.module.fail_json(msg=f"{path} is not a plain path below {self.root}.")

    def _is_right(self, path: str, content: bytes, mode: int, owner: tuple[int, int]) -> bool:
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_mode & 0o7777, (status.st_uid, status.st_gid), read(path)) == (mode, owner, content)

    def _diff(self, name: str, before: bytes | None, after: bytes) -> None:
        if (before or b"") != after:
            self.result["diff"].append(
                {
                    "before_header": f"{name} (current release)",
                    "after_header": f"{name} (release {self.id})",
                    "before": (before or b"").decode(errors="replace"),
                    "after": after.decode(errors="replace"),
                }
            )

    def stage(self) -> None:
        """Write what is missing, the release's own directory last."""
        self._check_paths()
        acquire(self.lock, self.module)
        self._give_names_back()
        files = {item["name"]: item["content"].encode() for item in self.module.params["plan"]["files"]}
        files[_MANIFEST] = self._manifest()
        missing = [item for item in self._wanted() if not self._is_right(*item[:4])]
        stale = sorted(name for name, content in files.items() if read(os.path.join(self.path, name)) != content)
        self.result["manifest"] = {**self.module.params["plan"]["manifest"], "path": os.path.join(self.path, _MANIFEST)}
        project = self.module.params["plan"]["project"]
        self._check_project(project)
        has_new_volumes = self._has_new_volumes(project)
        self.has_moved = self._take_moved()
        if not self.result["is_new"] and (has_new_volumes or self.has_moved or self._has_stale_containers(project)):
            # What is done about it is reported by the steps that do it, of which a check has none.
            self.result.update(is_new=True, changed=self.module.check_mode)
        # The migrations of a release that was taken into use ran then, and the schema may be that of a newer one that failed since.
        again = self.result["current"] == self.id and not has_new_volumes and not self.has_moved
        if self.module.check_mode and not os.path.isfile(os.path.join(self.root, "client/docker")):
            # Nobody can ask Compose what it would do.
            self.result["is_new"] = True
        if self.result["is_new"]:
            self._check_volumes(files)
        self._write(files, missing, stale)
        if not self.result["is_new"]:
            # Otherwise not before the release is started.
            self._renew_links(self.result["manifest"])
        self._give_names(project)
        self._take_plan(self._plan(files, frozenset(path for path, *_rest in missing)))
        self._take_jobs(files, self.result["manifest"]["restoring_jobs" if again else "jobs"], has_new_volumes=has_new_volumes)
        if self.lock and self.result["plan"] and not self.result["is_new"] and not self.module.check_mode:
            # What is put right in the current release may be cut off, too.
            self._note()
        # The steps that do it report it otherwise.
        self.result["changed"] |= self.module.check_mode and bool(self.result["plan"])
        is_idle = not (self.result["is_new"] or self.result["plan"])
        # One of before this was written down is taken into use once more, which writes it down.
        is_known = os.path.isfile(os.path.join(self.path, image_names.DEPLOYED))
        self.result["is_verified"] = is_idle and (is_known or self.module.check_mode) and self._is_well()
        if self.lock and self.result["is_verified"]:
            self.lock.release()

    def _has_stale_containers(self, project: str) -> bool:
        return bool(stale_containers(self.engine, project_containers(self.engine, project)))

    def _give_names(self, project: str) -> None:
        """Give containers their own names that a run left under another one when it was killed: Docker Compose starts them, and renames none."""
        try:
            found = obstacles.own_names(project_containers(self.engine, project))
        except EngineError:
            if self.module.check_mode:
                # A check does not start the Engine.
                return
            raise
        if found:
            self.result["changed"] = True
            if not self.module.check_mode:
                obstacles.give_names(self.engine, project)

    def _check_project(self, project: str, other: str | None = None) -> None:
        """Fail where a release, or the one in use, is of a project of another name: what is stored for that is in volumes of its name."""
        other = other or (self.result["previous"] or {}).get("project", project)
        if other != project:
            self.module.fail_json(
                msg=f"{self.root} holds the project {other}, and stack_project is {project}. Nothing was changed. The volumes of {other} would stay behind. "
                f"Name {other} in stack_project, or another directory in stack_directory.",
            )

    def _check_volumes(self, files: Mapping[str, bytes]) -> None:
        """Fail where a service would write to a volume without a name, which no other container of it ever sees."""
        services = self.result["manifest"]["services"]
        images = self.result["manifest"]["images"]
        try:
            declared = {service: places for service in services if (places := plans.image_volumes(self.engine, images[service]))}
        except EngineError:
            if self.module.check_mode:
                # A host that is not prepared yet.
                return
            raise
        if not declared:
            return
        status, output, _error = self.compose.ask(self.module.params["plan"]["project"], files, "--format", "json")
        self.compose.remember(self.path, output if status == 0 else "")
        problems = [
            f"the image {images[service]} of {service} keeps its data in {place}"
            for service, places in declared.items()
            for place in places
            if not plans.is_mounted(place, (self.compose.definitions(self.path) or {}).get(service), above=service in _BESIDE)
        ]
        if status == 0 and problems:
            self.module.fail_json(
                msg=f"Nothing is mounted where services keep their data, so it would be lost to the stack with each new container: {'; '.join(problems)}. "
                "Nothing was changed. Mount a volume there, or a tmpfs where it need not be kept (stack_services).",
            )

    def _take_plan(self, changes: list[plans.Change]) -> None:
        self.result["plan"] = [change.as_dict() for change in changes]
        self.result["beside"] = [change.service for change in changes if change.beside]
        self.result["others"] = [change.service for change in changes if not change.beside]

    def _take_jobs(self, files: dict[str, bytes], jobs: list[str], *, has_new_volumes: bool) -> None:
        manifest = self.result["manifest"]
        # Where the release is not new no job runs, and nobody has to be asked.
        is_done = self.result["is_new"] and not has_new_volumes and self._has_done_jobs(manifest, files)
        first = manifest.get("first_jobs") or []
        self.result.update(first_jobs=[] if is_done else first, jobs=[] if is_done else jobs, last_jobs=self._last_jobs(manifest))

    def _has_done_jobs(self, manifest: Mapping, files: dict[str, bytes]) -> bool:
        """Return whether the release in use has run the same jobs, and all that they work on stays as it is: only what is replaced beside it changes."""
        previous = self.result["previous"]
        if previous is None or os.path.lexists(self.attempt_link) or self.result["others"] or self.has_moved or self.result["tags"]:
            return False
        if not previous["ground"] or previous["ground"] != manifest.get("ground"):
            return False
        project = manifest["project"]
        containers = project_containers(self.engine, project)
        if stale_containers(self.engine, containers):
            return False
        jobs = manifest["jobs"]
        names = [*jobs, *(manifest.get("first_jobs") or ())]

        def files_of_jobs(written: Mapping) -> set[str]:
            own = tuple(f"{name}_" for name in (*names, *(manifest.get("last_jobs") or ())))
            return {path for path in written["secrets"] if os.path.basename(path).startswith(own)}

        hashes, before = self._hashes(files), self._written_hashes(self.current_link)[1]
        if any(name not in before or before[name] != hashes.get(name) for name in names):
            return False
        if previous["stable"] != (manifest.get("stable") or {}) or files_of_jobs(previous) != files_of_jobs(manifest):
            return False
        ended = {
            container["Labels"].get(plans.SERVICE)
            for container in containers
            if container.get("Status", "").startswith("Exited (0)")
            and container["Labels"].get(plans.CONFIG_HASH) == hashes.get(container["Labels"].get(plans.SERVICE))
            # Of one whose tag has come to mean another image the Engine tells the id.
            and container["Image"] in manifest["references"]
            and (container["Labels"].get(plans.IMAGE) or container["ImageID"]) == plans.image_id(self.engine, container["Image"])
        }
        return ended.issuperset(jobs)

    def _is_well(self) -> bool:
        """Return whether the release that runs passes its verification at once, of which a check leaves out what writes or signs in."""
        if not (depth := self.module.params["verify_depth"]):
            return False
        params = {"manifest": os.path.join(self.path, _MANIFEST), "depth": depth, "timeout": 0, "jobs": [], **dict.fromkeys(verification.FROM_MANIFEST)}
        verification.from_manifest(params)
        if self.module.check_mode:
            params["checks"] = []
        stack = verification.Stack(self.engine, params)
        _passed, failures = stack.verify()
        # What these answers have to say is for the action to judge, as it is that of the module verify.
        self.result["answers"] = stack.answers
        return not failures

    def _write(self, files: dict[str, bytes], missing: list[tuple], stale: list[str]) -> None:
        known = routes.defaults(self.root, self.module.params["plan"]["manifest"].get("routes") or {})
        absent = {path: content for path, content in known.items() if not os.path.isfile(path)}
        starter, texts = boot.Starter(self.module.params["plan"]["project"]), self.module.params["plan"].get("boot") or {}
        starts = starter.is_right(texts)
        shut = [
            directory for directory in {os.path.dirname(path) for path in known} if os.path.isdir(directory) and os.stat(directory).st_mode & 0o055 != 0o055
        ]
        if not missing and not stale and not absent and starts and not shut:
            return
        self.result["changed"] = True
        for path, content, _mode, _owner, secret in missing:
            name = os.path.relpath(path, self.root)
            self._diff(name, None, b"(a secret of a new generation)\n" if secret else content)
        for name in stale:
            if name != _MANIFEST:
                self._diff(name, read(os.path.join(self.current_link, name)), files[name])
        if self.module.check_mode:
            return
        self._make_directories()
        for path, content, mode, owner, _secret in missing:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, content, mode, owner)
        for path, content in absent.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, content.encode(), 0o644)
        for directory in shut:
            # Its proxy is another user than root.
            os.chmod(directory, 0o755)
        if stale:
            self._place(files)
        if not starts:
            starter.install(texts)

    def _has_new_volumes(self, project: str) -> bool:
        """Return whether a volume was removed since the current release was activated: it comes back empty, and no login and no table is in it."""
        written = read(os.path.join(self.root, VOLUMES))
        if written is None:
            return False
        try:
            known = dict(json.loads(written))
        except (ValueError, TypeError):
            return True
        there = volumes_of(self.engine, project)
        return any(there.get(name) != created for name, created in known.items())

    def choose(self) -> None:
        """Read a release that was staged before, to go back to it: the one that is named, or the one that was in use before the current one."""
        self.is_chosen = True
        acquire(self.lock, self.module)
        self._give_names_back()
        kept = self._kept()
        if not self.id:
            self.id = next((name for name in kept if name != self.result["current"]), "")
        if self.id not in kept or self.id == self.result["current"]:
            others = ", ".join(name for name in kept if name != self.result["current"]) or "none"
            what, start = f"There is no release {self.id} to go back to".replace("  ", " "), ""
            if self.id and self.id == self.result["current"]:
                what = f"The release {self.id} is the one in use"
                start = (
                    f" If it does not run: `python3 -B {self.root}/{resume.PROGRAM}` on the host, as root, starts it again where a deploy failed or was "
                    f"cut off, and `docker compose up --detach` in {self.root} where it was stopped or taken down."
                )
            self.module.fail_json(msg=f"{what}. Nothing was changed. Those that were in use and are kept are: {others}. Name one in stack_rollback_to.{start}")
        self.path = os.path.join(self.root, "releases", self.id)
        if why := (read(os.path.join(self.path, replaced.UNUSABLE)) or b"").decode().partition("\n")[2].strip():
            self.module.fail_json(msg=f"The release {self.id} cannot be gone back to. Nothing was changed. {why}")
        manifest = manifests.read(os.path.join(self.path, _MANIFEST))
        lost = [name for name in [*manifest["configs"], *manifest["secrets"]] if not os.path.isfile(os.path.join(self.root, name))]
        problems = [f"the file {name} is gone" for name in lost]
        configs = [name for name in manifest["configs"] if name not in lost]
        problems += [f"the file {name} was changed by hand" for name in configs if not manifests.is_as_written(os.path.join(self.root, name))]
        problems += self._absent(manifest["images"].values())
        self._refuse(problems + self._taken(manifest))
        if self.module.params["project"]:
            self._check_project(self.module.params["project"])
            self._check_project(self.module.params["project"], manifest["project"])
        files = {os.path.basename(path): read(path) or b"" for path in [*manifest["compose_files"], manifest["env_file"] or ""] if path}
        self.module.params["plan"] = {"manifest": manifest, "project": manifest["project"]}
        self.result.update(release=self.id, is_new=True, manifest={**manifest, "path": os.path.join(self.path, _MANIFEST)})
        self.result.update(changed=True, is_verified=False, is_rollback=True)
        others = image_names.others(self.engine, self.path)
        self.result["tags"] = image_names.present(self.engine, others)
        for reference in sorted(others.keys() - self.result["tags"]):
            self.module.warn(f"The image that {self.id} ran with as {reference} is not on the host any more. It is started with what that name means now.")
        self.has_moved = self._take_moved()
        # Once that release has been lent its names, the one in use has to be lent them where it fails.
        self.result["moved"] = {**{reference: others[reference][1] for reference in self.result["tags"]}, **self.result["moved"]}
        self._take_plan(self._plan(files, frozenset()))
        self._take_jobs(files, manifest["jobs"], has_new_volumes=self._has_new_volumes(manifest["project"]))
        self._check_images_of_jobs()

    def _taken(self, manifest: Mapping) -> list[str]:
        """Return which ports of a release something else on the host holds by now."""
        own = {port.get("PublicPort") for container in project_containers(self.engine, manifest["project"]) for port in container.get("Ports") or []}
        wanted = sorted({(address, int(port)) for ports in manifest["ports"].values() for address, port in ports if port not in own})
        return [f"something else listens on port {port} of {address}" for address, port in wanted if host.is_busy(address, port)]

    def _take_moved(self) -> bool:
        """Find out which images the release in use runs with that their names do not mean any more; return whether there are any names that moved."""
        try:
            others = image_names.others(self.engine, self.current_link)
            if not others:
                return False
            there = image_names.present(self.engine, others)
            running = [one for one in project_containers(self.engine, (self.result["previous"] or {}).get("project", "")) if one["State"] == "running"]
        except EngineError:
            if not self.module.check_mode:
                raise
            # A check does not start the Engine.
            return False
        known = {identifier for one in running for identifier in (one["Labels"].get(plans.IMAGE), one.get("ImageID"))}
        # What runs already with what the name means now, started by hand, is not put back to something else.
        self.result["moved"] = {reference: before for reference, before in there.items() if before in known}
        return True

    def lend(self) -> None:
        """Have references mean the images that a release ran with, until it is taken into use or the run has ended."""
        acquire(self.lock, self.module, goes_on=True)
        if not self.module.check_mode:
            self.result["changed"] = image_names.lend(self.engine, self.root, self.module.params["tags"] or {})

    def _give_names_back(self) -> None:
        """Have references mean what they meant before, where a run that was killed had lent them."""
        if not self.module.check_mode and image_names.give_back(self.engine, self.root):
            self.result["changed"] = True

    def _check_images_of_jobs(self) -> None:
        """Fail where a job that would run has no image: the services might not find what it prepares."""
        names = {*self.result["first_jobs"], *self.result["jobs"], *self.result["last_jobs"]}
        definitions = (self.compose.definitions(self.path) if names else None) or {}
        self._refuse(self._absent({definitions[name]["image"] for name in names & set(definitions)}))

    def _absent(self, references: Iterable[str]) -> list[str]:
        """Return what is wrong with images that the host does not have, by reference."""
        return [f"the image {reference} is not on the host" for reference, found in plans.image_ids(self.engine, references).items() if found is None]

    def _refuse(self, problems: list[str]) -> None:
        """Fail where something speaks against going back."""
        if problems:
            self.module.fail_json(msg="\n- ".join([f"Release {self.id} cannot run again. Nothing was changed. Deploy its inputs instead:", *problems]))

    def _kept(self) -> list[str]:
        """Return the releases that were taken into use at some time and are kept, the latest first."""
        releases = os.path.join(self.root, "releases")
        succeeded = [line.get("release") for line in lock.history(self.root) if line.get("event") == "succeeded"]
        # Of a stack that was deployed before there was a history, nobody knows which of them failed.
        by_age = sorted((name for name in os.listdir(releases) if _ID.match(name)), key=lambda name: os.stat(os.path.join(releases, name)).st_mtime)
        latest = list(dict.fromkeys(reversed(succeeded or by_age)))
        return [name for name in latest if os.path.isfile(os.path.join(releases, name, _MANIFEST))]

    def attempt(self, note: bool = True) -> None:
        """Remove what would stop this release from starting; with ``note``, also write down that it is about to be started."""
        manifest = manifests.read(os.path.join(self.path, _MANIFEST))
        acquire(self.lock, self.module, goes_on=True)
        # Jobs that run still too, of a deploy that was killed.
        found = obstacles.find(self.engine, manifest, manifest["jobs"] if self.module.params["rerun"] else ())
        noted = os.path.islink(self.attempt_link) and os.readlink(self.attempt_link) == os.path.join("releases", self.id)
        self.result["changed"] = bool(found or (note and not noted))
        if self.module.check_mode:
            return
        if note:
            self._note()
            environment = os.path.join(self.root, ".env")
            if not os.path.lexists(environment):
                # So that plain `docker compose ps` works in the directory after a first deploy that failed.
                link(environment, os.path.join("attempted", ".env"))
        links.renew(self.root, manifest)
        self._link_earlier(manifest)
        found.remove(self.engine)
        obstacles.give_names(self.engine, manifest["project"])
        self._drop_unproven(manifest)

    def _note(self) -> None:
        """Write down that this release is about to be started."""
        if self.lock:
            self.lock.note(self.id)
            self.lock.record("started", release=self.id, previous=self.result["current"])
        link(self.attempt_link, os.path.join("releases", self.id))

    def _containers(self) -> tuple[dict, dict[str, list[dict]], dict[str, dict]]:
        """Return the release's manifest, the containers of its services, and of each service that has some the one that the release means."""
        manifest = manifests.read(os.path.join(self.path, _MANIFEST))
        files = {os.path.basename(path): read(path) or b"" for path in [*manifest["compose_files"], manifest["env_file"] or ""] if path}
        self.module.params["plan"] = {"manifest": manifest, "project": manifest["project"]}
        found = routes.by_service(project_containers(self.engine, manifest["project"]), manifest["services"])
        several = any(len(containers) > 1 for containers in found.values())
        hashes = self._hashes(files) if several else {}
        images = {service: plans.image_id(self.engine, manifest["images"][service]) for service, containers in found.items() if len(containers) > 1}
        meant = {service: routes.meant(containers, hashes.get(service), images.get(service)) for service, containers in found.items() if containers}
        return manifest, found, meant

    def switch(self) -> None:
        """Have proxies hand requests on to what the release means, where there is more than one container."""
        acquire(self.lock, self.module, goes_on=True)
        manifest, found, meant = self._containers()
        if self._pin(manifest, {service: meant[service] for service, containers in found.items() if len(containers) > 1}, found):
            # Until nobody is handed on to where it was found before.
            time.sleep(routes.DRAIN_SECONDS)
            routes.await_requests(self.engine, [one for proxy in manifest["routes"] for one in found.get(proxy, ())], manifest.get("layer"))
        if (self.module.params["retire"] or self.id == self.result["current"]) and not self.module.check_mode:
            # On the way back nothing more has to be seen. Docker Compose 2.26 would keep the oldest container, whatever its definition.
            self._remove(found, meant)

    def _remove(self, found: dict[str, list[dict]], kept: dict[str, dict]) -> None:
        """Stop and remove all containers of services but the one of each that is kept."""
        gone = [(one["Id"], service) for service, containers in found.items() for one in containers if one is not kept[service]]
        self.result["changed"] |= bool(gone)
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda item: stop_container(self.engine, *item), gone))
            list(pool.map(lambda item: remove_container(self.engine, *item), gone))

    def _drop_unproven(self, manifest: dict) -> None:
        """Remove what a run that was interrupted started beside what serves, so that there is one container again to start another one beside."""
        proxies = manifest["routes"]
        targets = {service for behind in proxies.values() for service in behind}
        found = routes.by_service(project_containers(self.engine, manifest["project"]), {*manifest["start_first"], *proxies, *targets})
        serving = {routes.container_in(read(routes.path(self.root, proxy, service))) for proxy, behind in proxies.items() for service in behind}
        kept = {}
        for service, containers in found.items():
            if running := [one for one in containers if one["State"] == "running"] or containers:
                kept[service] = next((one for one in running if routes.name_of(one) in serving), running[0])
        self._pin(manifest, kept, found)
        self._remove({service: found[service] for service in manifest["start_first"] if service in found}, kept)

    def _pin(self, manifest: dict, meant: dict[str, dict], found: dict[str, list[dict]]) -> bool:
        """Name the container of each service in the routes to it, and tell the proxies; return whether there was anything to tell.

        The service's own name would mean a second container too as soon as that runs.
        """
        wanted = {
            (proxy, service): routes.text(service, port, routes.name_of(meant[service]))
            for proxy, targets in manifest["routes"].items()
            for service, port in targets.items()
            if service in meant
        }
        different = {key: text for key, text in wanted.items() if read(routes.path(self.root, *key)) != text.encode()}
        self.result["changed"] |= bool(different)
        if self.module.check_mode or not different:
            return False
        for (proxy, service), text in different.items():
            write(routes.path(self.root, proxy, service), text.encode(), 0o644)
        routes.reload(self.engine, [container for proxy in {proxy for proxy, _service in different} for container in found.get(proxy, ())])
        return True

    def _retire(self) -> None:
        """Stop and remove the containers that were replaced, and name the others in the routes."""
        manifest, found, meant = self._containers()
        self._pin(manifest, meant, found)
        self._remove(found, meant)

    def _generations(self, row: Mapping) -> list[str]:
        """Return the names of all generations of a job's secret file that are on this host."""
        name = re.compile(rf"{re.escape(row['job'])}_{re.escape(row['target'])}_[0-9a-f]{{12}}\Z")
        directory = os.path.join(self.root, "secrets")
        return [entry for entry in os.listdir(directory) if name.match(entry)] if os.path.isdir(directory) else []

    def _last_jobs(self, manifest: Mapping) -> list[str]:
        """Return the jobs that take away what only earlier releases needed, of which there is something."""
        known = {os.path.basename(path) for path in manifest.get("secrets") or ()}
        older = {row["job"] for row in manifest.get("earlier") or () if set(self._generations(row)) - known}
        return [job for job in manifest.get("last_jobs") or () if job in older]

    def _renew_links(self, manifest: Mapping) -> None:
        """Put names of secrets right that stay and do not stand for those of the current release."""
        if links.stale(self.root, manifest):
            self.result["changed"] = True
            if not self.module.check_mode:
                links.renew(self.root, manifest)

    def _link_earlier(self, manifest: Mapping) -> None:
        """Give jobs every generation of a secret file that is on this host. What they find works where the newest one is not in force yet, or no longer."""
        for row in manifest.get("earlier") or ():
            directory = os.path.join(self.root, "secrets")
            for part in ("earlier", row["job"], row["target"]):
                directory = os.path.join(directory, part)
                os.makedirs(directory, mode=0o700, exist_ok=True)
            os.chown(directory, row["uid"], row["gid"])
            os.chmod(directory, 0o500)
            for name in self._generations(row):
                path = os.path.join(directory, name)
                if not os.path.lexists(path):
                    # The content of a generation never changes, so that one file under two names stays right.
                    os.link(os.path.join(self.root, "secrets", name), path)

    def _make_directories(self) -> None:
        for path, mode in ((self.root, 0o755), (f"{self.root}/releases", 0o755), (f"{self.root}/secrets", 0o700)):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)

    def _place(self, files: dict[str, bytes]) -> None:
        """Validate the release under a temporary name, then give it its own."""
        parent = os.path.dirname(self.path)
        for name in os.listdir(parent):
            # Of a run that was killed: nobody else works here, under the lock.
            if _UNFINISHED.match(name):
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
        temporary = tempfile.mkdtemp(dir=os.path.dirname(self.path), prefix=f".{self.id}-")
        try:
            os.chmod(temporary, 0o755)
            for name, content in {**files, HASHES: self._validate(files)}.items():
                write(os.path.join(temporary, name), content, 0o644)
            if os.path.isdir(self.path):
                for name in os.listdir(temporary):
                    os.replace(os.path.join(temporary, name), os.path.join(self.path, name))
                shutil.rmtree(temporary)
            else:
                os.rename(temporary, self.path)
            sync_directory(os.path.dirname(self.path))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _validate(self, files: dict[str, bytes]) -> bytes:
        """Return what to write down of the hashes of the release's services; fail where Docker Compose refuses its files."""
        status, output, error = self.compose.ask(self.module.params["plan"]["project"], files, "--hash", "*")
        if status:
            self.module.fail_json(
                msg=f"Docker Compose refuses the rendered files, so nothing was changed: {error.strip()}. Compare them with the service catalogue.",
            )
        return (json.dumps({"compose": self.module.params["compose_version"], "hashes": hashes_of(output)}, indent=1, sort_keys=True) + "\n").encode()

    def _written_hashes(self, directory: str) -> tuple[str | None, dict[str, str]]:
        return noted_hashes(read(os.path.join(directory, HASHES)))

    def _hashes(self, files: dict[str, bytes]) -> dict[str, str]:
        """Return the hashes of the services' definitions: as written down, where that was done for the Compose of this host, or as Compose says now."""
        path, version = os.path.join(self.path, HASHES), self.module.params["compose_version"]
        asked, hashes = self._written_hashes(self.path)
        if version and asked == version:
            return hashes
        said = self._validate(files)
        if version and not self.module.check_mode:
            write(path, said, 0o644)
        return json.loads(said)["hashes"]

    def _plan(self, files: dict[str, bytes], damaged: frozenset[str]) -> list[plans.Change]:
        """Return what would be done to the services' containers."""
        manifest, project = self.module.params["plan"]["manifest"], self.module.params["plan"]["project"]
        if self.module.check_mode and not self.module.params["compose_version"] and not self.is_chosen:
            # A host that is not prepared yet.
            return [plans.Change(service, plans.CREATE, ["there is no Docker Compose yet to be asked"]) for service in sorted(manifest["services"])]

        def definitions(directory: str) -> Mapping[str, dict] | None:
            if directory == self.path and not os.path.isdir(directory):
                status, output, _error = self.compose.ask(project, files, "--format", "json")
                self.compose.remember(directory, output if status == 0 else "")
            return self.compose.definitions(directory)

        version, hashes = self._written_hashes(self.current_link)
        wanted = plans.Wanted(
            project,
            self.path,
            manifest["images"],
            self._hashes(files),
            manifest.get("networks") or {},
            damaged,
            frozenset(os.path.join(self.root, name) for name in [*manifest["configs"], *manifest["secrets"]]),
            start_first=frozenset(manifest.get("start_first") or ()),
            foundations=frozenset(manifest.get("foundations") or ()),
            recreates_dependents=plans.recreates_dependents(self.module.params["compose_version"] or version),
            current=self.current_link,
            current_hashes=hashes,
            tags=self.result["tags"],
        )
        try:
            return plans.compute(self.engine, wanted, definitions)
        except EngineError as error:
            # Nothing runs where the Engine does not either, and a check does not start it.
            if self.module.check_mode and not error.status:
                return [plans.Change(service, plans.CREATE, ["the Docker Engine does not run"]) for service in sorted(manifest["services"])]
            raise

    def activate(self) -> None:
        """Make this release the current one and remove what only old releases name."""
        if not os.path.isdir(self.path):
            self.module.fail_json(msg=f"The release {self.id} is not below {self.root}/releases. Stage it first.")
        # Where nothing was to be done, staging gave the lock back.
        acquire(self.lock, self.module, goes_on=not self.module.params["idle"])
        environment = os.path.join(self.root, ".env")
        wrong = self.current() != self.id or not os.path.islink(environment) or os.path.lexists(self.attempt_link)
        volumes = json.dumps(volumes_of(self.engine, self._project()), indent=1, sort_keys=True).encode() + b"\n"
        wrong = wrong or read(os.path.join(self.root, VOLUMES)) != volumes
        images, before = self._images(), image_names.ran_with(self.path)
        wrong = wrong or images != before
        doomed = self._doomed()
        self.result.update(changed=bool(wrong or doomed), pruned=doomed, pruned_images=[])
        if self.module.check_mode:
            return
        self._retire()
        if wrong:
            write(os.path.join(self.root, VOLUMES), volumes, 0o644)
            if not os.path.islink(environment) or os.readlink(environment) != os.path.join("current", ".env"):
                link(environment, os.path.join("current", ".env"))
            write(os.path.join(self.path, image_names.DEPLOYED), self._deployed(images), 0o644)
            link(self.current_link, os.path.join("releases", self.id))
        # From here on it is in use, and nothing that goes wrong is a reason to go back.
        try:
            self._settle(wrong, doomed, {*before.values()} - {*images.values()})
        except (OSError, EngineError, manifests.ManifestError, ValueError, KeyError, TypeError) as error:
            self.module.warn(f"Release {self.id} is in use and serves. What comes after that failed, and the next release does it again: {error!r}")
        if self.lock:
            self.lock.release()

    def _images(self) -> dict[str, str]:
        """Return the ids of the images of the release's services and jobs by reference, but for references by digest, which never mean another one."""
        manifest = manifests.read(os.path.join(self.path, _MANIFEST))
        references = {reference for reference in (*manifest["images"].values(), *manifest["job_images"].values()) if "@" not in reference}
        return {reference: found for reference, found in plans.image_ids(self.engine, references).items() if found}

    def _deployed(self, images: Mapping[str, str]) -> bytes:
        who = {key: value for key, value in (self.module.params["holder"] or {}).items() if key in ("user", "controller", "commit") and value is not None}
        note = {"result": "succeeded", "time": lock.now(), **who, "images": images}
        return (json.dumps(note, indent=1, sort_keys=True) + "\n").encode()

    def _settle(self, wrong: bool, doomed: list[str], replaced_images: Collection[str]) -> None:
        """Write down that the release is in use, and remove what only old ones name."""
        if self.lock:
            self.lock.record("succeeded", release=self.id, previous=self.result["current"])
        self._give_names_back()
        if wrong:
            os.utime(self.path, (time.time(), time.time()))
            if os.path.lexists(self.attempt_link):
                os.unlink(self.attempt_link)
            self._enter_index()
        paths = [os.path.join(self.root, "releases", name) for name in doomed]
        named = {reference for path in paths for reference in self._references(path) or ()}
        identifiers = {*replaced_images, *(identifier for path in paths for identifier in image_names.ran_with(path).values())}
        for path in paths:
            shutil.rmtree(path)
        if doomed:
            self._prune()
        if doomed or identifiers:
            self.result["pruned_images"] = self._prune_images(named, identifiers)

    def hold(self) -> None:
        """Fail where another run has taken the lock over."""
        acquire(self.lock, self.module, goes_on=True)

    def stop(self) -> None:
        """Stop what a release that failed has started: its jobs, or all of the project."""
        acquire(self.lock, self.module, goes_on=True)
        manifest = manifests.read(os.path.join(self.path, _MANIFEST))
        jobs = {*manifest["jobs"], *manifest["first_jobs"], *manifest["last_jobs"]}
        every = project_containers(self.engine, manifest["project"], one_off=True)
        doomed = [one for one in every if self.module.params["retire"] or one["Labels"].get(plans.SERVICE) in jobs]
        self.result["changed"] = any(one["State"] not in ("exited", "created", "dead") for one in doomed)
        if not self.module.check_mode:
            stop_in_order(self.engine, doomed)

    def end(self) -> None:
        """Write down that a run failed, and give the lock back."""
        if self.lock and not self.module.check_mode:
            self.lock.record(self.module.params["outcome"], release=self.id, previous=self.result["current"])
        try:
            self._give_names_back()
        finally:
            if self.lock and not self.module.check_mode:
                self.lock.release()

    def _project(self) -> str:
        return manifests.read(os.path.join(self.path, _MANIFEST))["project"]

    def _doomed(self) -> list[str]:
        # What an upgrade's old data is read by stays as long as that.
        needed = [row["release"] for row in replaced.records(self.root)]
        releases = os.path.join(self.root, "releases")
        others = [name for name in os.listdir(releases) if _ID.match(name) and name not in (self.id, self.result["current"], *needed)]
        # One that was never taken into use is nothing to go back to.
        served = {name: number for number, name in enumerate(self._kept())}
        others.sort(key=lambda name: (served.get(name, len(served)), -os.stat(os.path.join(releases, name)).st_mtime))
        room = self.module.params["keep"] - (self.result["current"] not in (None, self.id))
        return others[max(room, 0) :]

    def _prune(self) -> None:
        kept = set()
        releases = os.path.join(self.root, "releases")
        for name in os.listdir(releases):
            try:
                named = manifests.read(os.path.join(releases, name, _MANIFEST))
            except manifests.ManifestError:
                # A release under construction, or one that lost its manifest: nothing is known, so nothing goes.
                return
            kept.update([*named["configs"], *named["secrets"], *named["stable"]])
        generations = {os.path.basename(path) for path in kept}
        for kind in ("config", "secrets"):
            for directory, _directories, names in os.walk(os.path.join(self.root, kind), topdown=False):
                for name in names:
                    path = os.path.join(directory, name)
                    # An earlier generation that jobs are given goes with its file.
                    is_earlier = path.startswith(os.path.join(self.root, "secrets/earlier/")) and name in generations
                    if os.path.relpath(path, self.root) not in kept and not is_earlier:
                        os.unlink(path)
                if directory != os.path.join(self.root, kind) and not os.listdir(directory):
                    os.rmdir(directory)

    def _enter_index(self) -> None:
        """Have other stacks on this host know of this one, whose images they leave alone."""
        index = self.module.params["index"]
        os.makedirs(index, mode=0o755, exist_ok=True)
        link(os.path.join(index, self._project()), self.root)

    def _references(self, release: str) -> set[str] | None:
        """Return the references of the images of a release, None where nothing is known of it."""
        try:
            written = manifests.read(os.path.join(release, _MANIFEST))
        except manifests.ManifestError:
            return None
        return {*written["references"], *written["images"].values()}

    def _prune_images(self, named: set[str], identifiers: set[str]) -> list[str]:
        """Remove images that only removed releases named, or ran with under a reference that has come to mean another one; return what was removed.

        What is in use stays, and so does what cannot be removed.
        """
        index = self.module.params["index"]
        for root in [self.root, *(os.path.join(index, name) for name in os.listdir(index))]:
            releases = os.path.join(root, "releases")
            for name in os.listdir(releases) if os.path.isdir(releases) else ():
                kept = self._references(os.path.join(releases, name))
                if kept is None and is_left_over(os.path.join(releases, name)):
                    continue
                if kept is None:
                    # What a release under construction needs, nobody knows yet.
                    return []
                named = named - kept
                identifiers = identifiers - {*image_names.ran_with(os.path.join(releases, name)).values()}
        # Without force, so that the Engine keeps what a container of whomever was made from.
        doomed = sorted(named) + sorted(identifier for identifier in identifiers if plans.has_no_name(self.engine, identifier))
        return [reference for reference in doomed if self.engine.request("DELETE", image_path(reference).removesuffix("/json"))[0] == 200]


def is_left_over(directory: str) -> bool:
    """Return whether a directory of releases is one that a killed run left under construction, which takes seconds."""
    try:
        return bool(_UNFINISHED.match(os.path.basename(directory))) and time.time() - os.stat(directory).st_mtime > UNFINISHED_SECONDS
    except FileNotFoundError:
        return True


def is_job(engine: Engine, container: Mapping) -> bool:
    """Return whether a container ends by itself, so that a volume without a name has nothing of it that anybody keeps."""
    if container["Labels"].get("com.docker.compose.oneoff") == "True":
        return True
    try:
        policy = engine.get(f"/containers/{container['Id']}/json")["HostConfig"].get("RestartPolicy") or {}
    except EngineError:
        return False
    return policy.get("Name") in ("", "no")


def stop_in_order(engine: Engine, containers: list[dict]) -> None:
    """Stop containers; what others depend on stops after them, as Compose does it. Raises EngineError."""
    named = [(container["Id"], container["Labels"].get(plans.SERVICE, "")) for container in containers]
    needed = {
        service: {item.partition(":")[0] for item in container["Labels"].get("com.docker.compose.depends_on", "").split(",") if item}
        for container, (_identifier, service) in zip(containers, named, strict=True)
    }
    left = list(named)
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        while left:
            awaited = {other for _identifier, service in left for other in needed[service] if other != service}
            wave = [item for item in left if item[1] not in awaited] or left
            list(pool.map(lambda item: stop_container(engine, *item), wave))
            left = [item for item in left if item not in wave]


def take_down(engine: Engine, project: str, directory: str, *, check_mode: bool) -> tuple[bool, str | None]:
    """Stop and remove all containers and networks of a project; return whether there were any, and the directory of a stranger, where nothing is done.

    By their labels and not by a release's files, so that what another variant or a deploy that failed left behind goes too.
    """
    containers = project_containers(engine, project, one_off=True)
    for container in containers:
        if elsewhere := started_elsewhere(container["Labels"], directory):
            return False, elsewhere
    networks = [
        network for network in engine.get("/networks", filters=json.dumps({"label": [f"{PROJECT}={project}"]})) if network["Labels"].get(PROJECT) == project
    ]
    if check_mode or not (containers or networks):
        return bool(containers or networks), None
    stop_in_order(engine, containers)
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda one: remove_container(engine, one["Id"], one["Labels"].get(plans.SERVICE, ""), volumes=is_job(engine, one)), containers))
    for network in networks:
        status, body = engine.request("DELETE", f"/networks/{network['Id']}")
        if status not in (204, 404):
            raise EngineError(f"removing the network {network['Name']}", body.decode(errors="replace"), status)
    return True, None


def down(module: AnsibleModule, engine: Engine) -> None:
    """Take a stack down and exit."""
    project, directory = module.params["project"], module.params["directory"]
    # Where there is no directory there may still be containers.
    held = lock_of(module) if os.path.isdir(directory) else None
    acquire(held, module)
    try:
        with beating(held, module):
            changed, elsewhere = take_down(engine, project, directory, check_mode=module.check_mode)
        starter = boot.Starter(project)
        starts = not elsewhere and starter.is_there()
        if starts and not module.check_mode:
            starter.remove()
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not do it: {error}. Is it running, and may this user use its socket? Then take the stack down again.")
    except boot.BootError as error:
        module.fail_json(msg=f"The containers and networks are gone, and this machine still starts the stack's {resume.PROGRAM} by itself: {error}.")
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename or directory}. The stack may be down in part. Put that right, and take it down again.")
    if elsewhere:
        module.fail_json(
            msg=f"Nothing was changed. Containers of a Compose project named {project} were started from {elsewhere}, and not from {directory}. "
            "Take them down there, or name the stack's own project in stack_project.",
        )
    if held and not module.check_mode:
        try:
            if changed:
                held.record("taken_down")
            held.release()
        except OSError as error:
            module.fail_json(msg=f"The containers and networks are gone, and that cannot be written down: {error.strerror}: {held.path}. Take it down again.")
    module.exit_json(changed=changed or starts)


def beating(held: lock.Lock | None, module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Give signs of life while the work takes long."""
    return held.beating() if held and not module.check_mode else contextlib.nullcontext()


def give_back_on_failure(release: Release, work: Callable[[], None]) -> None:
    """Do what comes before anything is started; where that fails, nobody has to wait for the lock. A check of what is chosen gives it back, too."""
    try:
        work()
    except BaseException:
        if release.lock and not release.module.check_mode:
            release.lock.release()
        raise


def failure(error: Exception, state: str, directory: str) -> str:
    """Return what to say of an error in a step, of which some change nothing that runs."""
    stays = " No service was changed." if state in HARMLESS else f" That was the step `{state}`, which may have changed containers."
    if isinstance(error, EngineError):
        ask = "" if error.status else " Is it running, and may this user use its socket?"
        return f"The Docker Engine did not do it: {error}.{stays}{ask}"
    if isinstance(error, boot.BootError):
        return f"This machine does not start the stack's {resume.PROGRAM} by itself: {error}.{stays}"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename or directory}.{stays} Check the owner, the free space and the mount of that path."
    return f"{error}{stays}"


def main() -> None:
    """Entry point."""
    text = {"type": "str", "required": True}
    number = {"type": "int", "required": True}
    plan = {
        "release": text,
        "directory": text,
        "project": text,
        "files": {"type": "list", "elements": "dict", "required": True, "options": {"name": text, "content": text}},
        "configs": {"type": "list", "elements": "dict", "required": True, "options": {"name": text, "path": text, "content": text}},
        "secrets": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "no_log": False,
            "options": {"path": text, "content": {**text, "no_log": True}, "uid": number, "gid": number},
        },
        "manifest": {"type": "dict", "required": True},
        "boot": {"type": "dict"},
    }
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "release": {"type": "str"},
            "project": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["staged", "chosen", "lent", "attempted", "cleared", "switched", "current", "held", "stopped", "ended", "down"],
                "default": "staged",
            },
            "images": {"type": "dict"},
            "tags": {"type": "dict"},
            "plan": {"type": "dict", "options": plan},
            "compose_version": {"type": "str"},
            "holder": {"type": "dict", "options": lock.OPTIONS},
            "takeover": {"type": "bool", "default": False},
            "ended_run": {"type": "str"},
            "outcome": {"type": "str", "choices": ["failed", "rolled_back", "not_rolled_back"], "default": "failed"},
            "retire": {"type": "bool", "default": False},
            "idle": {"type": "bool", "default": False},
            "rerun": {"type": "bool", "default": True},
            "verify_depth": {"type": "str", "choices": ["basic", "full"]},
            "keep": {"type": "int", "default": 3},
            "index": {"type": "path", "default": "/var/lib/campaign-stacks"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
        required_if=[
            ("state", "staged", ("plan",)),
            *(("state", state, ("directory", "release")) for state in ("lent", "attempted", "cleared", "switched", "current", "held", "stopped", "ended")),
            ("state", "down", ("directory", "project")),
            ("state", "chosen", ("directory",)),
        ],
    )
    engine = Engine(module.params["socket"], timeout=ENGINE_SECONDS)
    if module.params["state"] == "down":
        down(module, engine)
    plan = module.params["plan"]
    if plan:
        module.params.update(directory=plan["directory"], release=plan["release"])
    # What containers of other users read is not shut by the umask of a hardened host; what is for nobody has a mode of its own.
    os.umask(0o022)
    release = Release(module, engine)
    work = {
        "staged": lambda: give_back_on_failure(release, release.stage),
        "chosen": lambda: give_back_on_failure(release, release.choose),
        "lent": release.lend,
        "attempted": release.attempt,
        "cleared": lambda: release.attempt(note=False),
        "switched": release.switch,
        "current": release.activate,
        "held": release.hold,
        "stopped": release.stop,
        "ended": release.end,
    }
    try:
        with beating(release.lock, module):
            work[module.params["state"]]()
    except lock.LockedError as error:
        module.fail_json(msg=str(error), locked_by=error.holder)
    except (manifests.ManifestError, boot.BootError, EngineError, OSError) as error:
        module.fail_json(msg=failure(error, module.params["state"], module.params["directory"]))
    module.exit_json(**release.result)


if __name__ == "__main__":
    main()
