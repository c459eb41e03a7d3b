#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage a whole release of a Compose stack on the host in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, activate and prune releases of a Compose stack
version_added: 0.1.0
description:
  - Writes every file of a release in one round trip. Config and secret files have names of their own generation and are never
    rewritten. The release's directory appears whole or not at all.
  - A file that is there already and differs (damage, or an edit by hand) is replaced and reported as a change.
options:
  directory:
    description: The stack's directory on the host. Required with O(state=current).
    type: path
  release:
    description: The release's id, the name of its directory below C(releases). Required with O(state=current).
    type: str
  state:
    description:
      - V(staged) makes the release complete and runnable on the host, and leaves what runs alone. Where the release is a new one, containers
        that jobs left behind are removed, because C(docker compose down) removes the networks that they are bound to and not them.
      - V(current) points C(current) and C(.env) to the release and prunes.
    type: str
    choices: [staged, current]
    default: staged
  plan:
    description: The release as P(campaign.platform.release_plan#filter) gives it. Required with O(state=staged).
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
      compose_files:
        description: Paths of the Compose files on the host.
        type: list
        elements: str
        required: true
      env_file:
        description: Path of the environment file on the host.
        type: str
        required: true
      services:
        description: Services that must run.
        type: list
        elements: str
        required: true
      jobs:
        description: Services that run once, before the others.
        type: list
        elements: str
        required: true
      foundations:
        description: Services that wait for no other.
        type: list
        elements: str
        required: true
      images:
        description: References of images by service, for the release's manifest.
        type: dict
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
  keep:
    description: How many releases to keep beside the current one when it is activated.
    type: int
    default: 3
  socket:
    description: The Engine's socket.
    type: path
    default: /var/run/docker.sock
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
- name: Stage a release
  campaign.platform.release:
    plan: "{{ catalogue | campaign.platform.release_plan('dev', {}, {}, {}, 'key', '/opt/campaign', 'campaign') }}"

- name: Make it the current one
  campaign.platform.release:
    directory: /opt/campaign
    release: 0123456789ab
    state: current
"""

RETURN = r"""
current:
  description: The id of the current release before this run, or null.
  type: str
  returned: always
pruned:
  description: Ids of the releases that were removed.
  type: list
  elements: str
  returned: when O(state=current)
"""

import json
import os
import re
import shutil
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, project_containers

_ID = re.compile(r"[0-9a-f]{12}\Z")
_MANIFEST = "manifest.json"
REMOVAL_ATTEMPTS = 60
REMOVAL_DELAY = 0.5


def read(path: str) -> bytes | None:
    """Return the bytes of a regular file, None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def link(path: str, target: str) -> None:
    """Point a symbolic link somewhere else in one step; leave it alone where it points there already."""
    if os.path.islink(path) and os.readlink(path) == target:
        return
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


class Release:
    """One release of a stack's directory."""

    def __init__(self, module: AnsibleModule, engine: Engine):
        self.module = module
        self.engine = engine
        params = module.params
        self.root = params["directory"]
        self.id = params["release"]
        self.path = os.path.join(self.root, "releases", self.id)
        self.current_link = os.path.join(self.root, "current")
        current = self.current()
        # Names a release whose jobs may have run although it was never taken into use: what they changed is still in force.
        self.attempt_link = os.path.join(self.root, "attempted")
        is_new = current != self.id or os.path.lexists(self.attempt_link)
        self.result = {"changed": False, "current": current, "is_new": is_new, "diff": []}

    def current(self) -> str | None:
        """Return the current release's id."""
        try:
            return os.path.basename(os.readlink(self.current_link))
        except OSError:
            return None

    def _wanted(self):
        """Yield path, content, mode, owner and whether it is secret, for everything outside the release's own directory."""
        params = self.module.params["plan"]
        for config in params["configs"]:
            yield os.path.join(self.root, config["path"]), config["content"].encode(), 0o444, (0, 0), False
        for secret in params["secrets"]:
            yield secret["path"], secret["content"].encode(), 0o400, (secret["uid"], secret["gid"]), True

    def _manifest(self) -> bytes:
        params = self.module.params["plan"]
        names = {
            "configs": sorted(config["path"] for config in params["configs"]),
            "secrets": sorted(os.path.relpath(secret["path"], self.root) for secret in params["secrets"]),
            "services": sorted(params["services"]),
            "images": dict(sorted(params["images"].items())),
        }
        return (json.dumps({"release": self.id, **names}, indent=1) + "\n").encode()

    def _check_paths(self) -> None:
        if not _ID.match(self.id):
            self.module.fail_json(msg=f"release: {self.id!r} is no release id. Twelve hexadecimal digits are one.")
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
        files = {item["name"]: item["content"].encode() for item in self.module.params["plan"]["files"]}
        files[_MANIFEST] = self._manifest()
        missing = [item for item in self._wanted() if not self._is_right(*item[:4])]
        stale = sorted(name for name, content in files.items() if read(os.path.join(self.path, name)) != content)
        if not missing and not stale:
            self._attempt()
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
        if stale:
            self._place(files)
        self._attempt()

    def _attempt(self) -> None:
        """Remember that this release is about to be started, and clear its jobs' way."""
        if self.result["is_new"] and not self.module.check_mode:
            link(self.attempt_link, os.path.join("releases", self.id))
            self._remove_jobs()

    def _remove_jobs(self) -> None:
        """Remove the containers of jobs, also those of a deploy that was killed and that run still."""
        plan = self.module.params["plan"]
        for container in project_containers(self.engine, plan["project"]):
            service = container["Labels"].get("com.docker.compose.service")
            if service in plan["jobs"]:
                self._remove_container(container["Id"], service)

    def _remove_container(self, identifier: str, job: str) -> None:
        for _attempt in range(REMOVAL_ATTEMPTS):
            status, body = self.engine.request("DELETE", f"/containers/{identifier}", {"force": "1", "v": "1"})
            # 404: it is gone already.
            if status in (204, 404):
                return
            # 409: it is being removed, by a deploy that was killed in the middle of it, for example.
            if status != 409:
                break
            time.sleep(REMOVAL_DELAY)
        raise EngineError(f"removing the container of the job {job}", body.decode(errors="replace"), status)

    def _make_directories(self) -> None:
        for path, mode in ((self.root, 0o755), (f"{self.root}/releases", 0o755), (f"{self.root}/secrets", 0o700)):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)

    def _place(self, files: dict[str, bytes]) -> None:
        """Validate the release under a temporary name, then give it its own."""
        temporary = tempfile.mkdtemp(dir=os.path.dirname(self.path), prefix=f".{self.id}-")
        try:
            os.chmod(temporary, 0o755)
            for name, content in files.items():
                write(os.path.join(temporary, name), content, 0o644)
            self._validate(temporary, files)
            if os.path.isdir(self.path):
                for name in files:
                    os.replace(os.path.join(temporary, name), os.path.join(self.path, name))
                shutil.rmtree(temporary)
            else:
                os.rename(temporary, self.path)
            sync_directory(os.path.dirname(self.path))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _validate(self, directory: str, files: dict[str, bytes]) -> None:
        command = ["docker", "compose", "--project-directory", self.root, "--env-file", f"{directory}/.env"]
        command += ["--project-name", self.module.params["plan"]["project"]]
        for name in files:
            if name.endswith(".yml"):
                command += ["--file", os.path.join(directory, name)]
        status, _output, error = self.module.run_command([*command, "--profile", "*", "config", "--quiet"], cwd=self.root)
        if status:
            shutil.rmtree(directory, ignore_errors=True)
            self.module.fail_json(
                msg=f"Docker Compose refuses the rendered files, so nothing was changed: {error.strip()}. Compare them with the service catalogue.",
            )

    def activate(self) -> None:
        """Make this release the current one and remove what only old releases name."""
        if not os.path.isdir(self.path):
            self.module.fail_json(msg=f"The release {self.id} is not below {self.root}/releases. Stage it first.")
        environment = os.path.join(self.root, ".env")
        wrong = self.current() != self.id or not os.path.islink(environment) or os.path.lexists(self.attempt_link)
        doomed = self._doomed()
        self.result.update(changed=bool(wrong or doomed), pruned=doomed)
        if self.module.check_mode or not self.result["changed"]:
            return
        if wrong:
            link(self.current_link, os.path.join("releases", self.id))
            link(environment, os.path.join("current", ".env"))
            os.utime(self.path, (time.time(), time.time()))
            if os.path.lexists(self.attempt_link):
                os.unlink(self.attempt_link)
        for name in doomed:
            shutil.rmtree(os.path.join(self.root, "releases", name))
        if doomed:
            self._prune()

    def _doomed(self) -> list[str]:
        releases = os.path.join(self.root, "releases")
        others = [name for name in os.listdir(releases) if _ID.match(name) and name not in (self.id, self.result["current"])]
        others.sort(key=lambda name: os.stat(os.path.join(releases, name)).st_mtime, reverse=True)
        room = self.module.params["keep"] - (self.result["current"] not in (None, self.id))
        return others[max(room, 0) :]

    def _prune(self) -> None:
        kept = set()
        releases = os.path.join(self.root, "releases")
        for name in os.listdir(releases):
            manifest = read(os.path.join(releases, name, _MANIFEST))
            if manifest is None:
                # A release under construction, or one that lost its manifest: nothing is known, so nothing goes.
                return
            named = json.loads(manifest)
            kept.update(named["configs"] + named["secrets"])
        for kind in ("config", "secrets"):
            for directory, _directories, names in os.walk(os.path.join(self.root, kind), topdown=False):
                for name in names:
                    path = os.path.join(directory, name)
                    if os.path.relpath(path, self.root) not in kept:
                        os.unlink(path)
                if directory != os.path.join(self.root, kind) and not os.listdir(directory):
                    os.rmdir(directory)


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
        "compose_files": {"type": "list", "elements": "str", "required": True},
        "env_file": text,
        "services": {"type": "list", "elements": "str", "required": True},
        "jobs": {"type": "list", "elements": "str", "required": True},
        "foundations": {"type": "list", "elements": "str", "required": True},
        "images": {"type": "dict", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "release": {"type": "str"},
            "state": {"type": "str", "choices": ["staged", "current"], "default": "staged"},
            "plan": {"type": "dict", "options": plan},
            "keep": {"type": "int", "default": 3},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
        required_if=[("state", "staged", ("plan",)), ("state", "current", ("directory", "release"))],
    )
    plan = module.params["plan"]
    if plan:
        module.params.update(directory=plan["directory"], release=plan["release"])
    release = Release(module, Engine(module.params["socket"], timeout=60))
    try:
        if module.params["state"] == "staged":
            release.stage()
            release.result.update({key: plan[key] for key in ("release", "compose_files", "env_file", "services", "jobs", "foundations", "images")})
        else:
            release.activate()
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not do it: {error}. No service was changed. Is it running, and may this user use its socket?")
    except OSError as error:
        module.fail_json(
            msg=f"{error.strerror}: {error.filename or module.params['directory']}. Nothing that runs was changed. "
            "Check the owner, the free space and the mount of that path.",
        )
    module.exit_json(**release.result)


if __name__ == "__main__":
    main()
