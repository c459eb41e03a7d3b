#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Set up the backups of a stack on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Set up the backups of a stack on its host
version_added: 0.4.0
description:
  - Writes a program below the stack's directory that backs the stack up, tries its sets and restores one, with its configuration and its secrets, and the
    schedule by which the host calls it. The controller is not needed from then on.
  - It makes no backup. C(BACKUP/run backup) does, where BACKUP is C(backup) in O(directory); C(run --help) says what else there is.
options:
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
  project:
    description: The stack's Compose project.
    type: str
    required: true
  image:
    description: Reference of an image with restic, which has to be on the host. Required with O(repository).
    type: str
  repository:
    description:
      - Directory of the host, or an address of restic's such as C(sftp:USER@HOST:/PATH) or C(s3:https://HOST/BUCKET), without credentials.
      - Without it, the program is written, for what needs no repository, and backups stay as they were set up before, or not at all.
    type: str
  secrets:
    description: >-
      Contents of secret files by name. V(password) is the repository's and required. A changed one is added to the repository with the one on the
      host, and is in force once it opens it; then the old one is refused. V(aws_credentials), V(ssh_key), V(known_hosts) and V(ca) are for repositories
      elsewhere. One that is not named is removed. Required with O(repository).
    type: dict
  settings:
    description: The program's other settings, without secrets, as the role P(campaign.platform.backup#role) has them.
    type: dict
    default: {}
  times:
    description: When the host makes a backup, such as V(02:30) each day or V(Sun 04:00).
    type: list
    elements: str
    default: []
  schedule:
    description:
      - Whether the schedule is set up, or taken away without O(times), and the directory of O(repository) created.
      - With V(false), for what only reads, a schedule stays as it is, also where there is none. What O(repository) lies on has to be there.
      - Where backups are set up with another repository, they stay so. What reads O(repository) is kept in a directory of its own then, for so long.
    type: bool
    default: true
  drill_times:
    description: When the host tries the newest set, as O(times).
    type: list
    elements: str
    default: []
  drill_after_backup:
    description: Whether each backup on schedule is tried at once.
    type: bool
    default: false
  point_in_time:
    description: Whether PostgreSQL's log is shipped, twice a minute, so that any moment can be brought back.
    type: bool
    default: false
  scheduler:
    description: V(systemd) writes timers, V(cron) a file in C(/etc/cron.d), V(none) neither. V(auto) takes systemd where it runs, and cron elsewhere.
    type: str
    choices: [auto, systemd, cron, none]
    default: auto
  python:
    description: Interpreter that runs the program, Python 3.11 or later. By default C(/usr/bin/python3), or the one that runs the module.
    type: path
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Predicts the change and writes nothing.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Set the backups up
  campaign.platform.backup:
    directory: /opt/campaign
    project: campaign
    image: campaign/backup:0123456789ab
    repository: /srv/backup
    secrets:
      password: "{{ vault_backup_password }}"
    times: ["02:30"]
"""

RETURN = r"""
run:
  description: Path of the program, as it reads O(repository).
  type: str
  returned: always
scheduler:
  description: What calls the program.
  type: str
  returned: always
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import compose, engine, host, image_names, links, lock, manifest, plan, registry
from ansible_collections.campaign.platform.plugins.module_utils.backup import (
    copies,
    docker,
    making,
    moments,
    moving,
    password,
    plain,
    postgres,
    program,
    redis,
    remote,
    repository,
    s3,
    sets,
    state,
    swap,
    wal,
)

# Everything that the program consists of, which is written to the host as it is.
SOURCES = (
    compose,
    engine,
    host,
    image_names,
    links,
    lock,
    manifest,
    plan,
    registry,
    copies,
    docker,
    making,
    moments,
    moving,
    password,
    plain,
    postgres,
    program,
    redis,
    remote,
    repository,
    s3,
    sets,
    state,
    swap,
    wal,
)
# Of the container that runs restic.
OWNER = 10010
SECRETS = ("password", "aws_credentials", "ssh_key", "known_hosts", "ca")
SYSTEMD, UNITS, CRON = "/run/systemd/system", state.UNITS, state.CRONTABS
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUN = """#!/bin/sh
# Backups of this stack: {directory}/backup/run --help
exec env -i PATH={path} LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={directory}/backup/program \\
  {python} -m {module} --directory {directory}{other} "$@"
"""
# sshd's client asks for the name of its own user.
PASSWD = f"root:x:0:0:root:/root:/sbin/nologin\nbackup:x:{OWNER}:{OWNER}:backup:/tmp:/sbin/nologin\n"
WATCH = "hourly"
# Each begins before what the one before it has brought is a minute old.
SHIP = ("*-*-* *:*:00", "*-*-* *:*:30")
SERVICE = """# Written by campaign.platform.
[Unit]
Description={description}
After=docker.service
Wants=docker.service

[Service]
Type=oneshot
ExecStart={command}
Nice=10
IOSchedulingClass=idle
TimeoutStartSec=infinity
MemoryMax=512M
"""
TIMER = """# Written by campaign.platform.
[Unit]
Description={description}, on schedule

[Timer]
{calendars}
{precision}

[Install]
WantedBy=timers.target
"""


def files_of(params: dict[str, Any], python: str, kept: str = "backup") -> dict[str, tuple[bytes, int, int]]:
    """Return content, mode and owner of each file below the stack's directory, by its path there. Configuration and secrets are ``kept`` in a place of it."""
    found: dict[str, tuple[bytes, int, int]] = {}
    for module in SOURCES:
        name = module.__name__
        source = module.__loader__.get_source(name)
        # Ansible's own loader, which is at work where nothing is shipped, gives bytes.
        found[f"backup/program/{name.replace('.', '/')}.py"] = (source if isinstance(source, bytes) else source.encode(), 0o644, 0)
    settings = {
        **params["settings"],
        **{name: params[name] or "" for name in ("project", "image", "repository", "socket")},
        **({"point_in_time": True} if params.get("point_in_time") else {}),
    }
    for place, option in (("backup", ""), *([(kept, " --other")] if kept != "backup" else [])):
        text = RUN.format(directory=params["directory"], path=PATH, python=python, module=program.__name__, other=option)
        found[f"{place}/run"] = (text.encode(), 0o755, 0)
    found[f"{kept}/config.json"] = ((json.dumps(settings, indent=1, sort_keys=True) + "\n").encode(), 0o644, 0)
    found[f"{kept}/passwd"] = (PASSWD.encode(), 0o644, 0)
    for name, content in (params["secrets"] or {}).items():
        found[f"{kept}/secrets/{name}"] = (content.encode(), 0o400, OWNER)
    return found


def holds_another(path: str, content: bytes) -> bool:
    """Return whether a file is there with something else in it."""
    try:
        with open(path, "rb") as file:
            return file.read() not in (b"", content)
    except OSError:
        return False


def schedule_of(params: dict[str, Any], scheduler: str) -> dict[str, str]:
    """Return the files of the schedule by path."""
    run, project = f"{params['directory']}/backup/run", params["project"]
    backup = f"{run} --quiet backup{' --drill' if params['drill_after_backup'] else ''}"
    rows = {
        f"{project}-backup": (f"Backup of {project}", backup, params["times"]),
        f"{project}-backup-drill": (f"Drill of a backup of {project}", f"{run} --quiet drill", params["drill_times"]),
    }
    if not params["times"] or scheduler == "none":
        return {}
    if scheduler == "cron":
        lines = ["# Written by campaign.platform.", "SHELL=/bin/sh", f"PATH={PATH}"]
        lines += [f"{state.in_crontab(when)} root {command} >/dev/null" for _text, command, times in rows.values() for when in times]
        if params.get("point_in_time"):
            lines += [f"* * * * * root {wait}{run} --quiet ship >/dev/null 2>&1" for wait in ("", "sleep 30; ")]
        return {f"{CRON}/{project}-backup": "\n".join([*lines, f"17 * * * * root {run} watch >/dev/null", ""])}
    found = {}
    for name, (text, command, times) in rows.items():
        if times:
            calendars = "\n".join(f"OnCalendar={state.on_calendar(when)}" for when in times)
            found[f"{UNITS}/{name}.service"] = SERVICE.format(description=text, command=command)
            found[f"{UNITS}/{name}.timer"] = TIMER.format(description=text, calendars=calendars, precision="Persistent=true")
    if params.get("point_in_time"):
        text = f"Log of {project}"
        found[f"{UNITS}/{project}-backup-ship.service"] = SERVICE.format(description=text, command=f"{run} --quiet ship")
        calendars = "\n".join(f"OnCalendar={when}" for when in SHIP)
        found[f"{UNITS}/{project}-backup-ship.timer"] = TIMER.format(description=text, calendars=calendars, precision="AccuracySec=1s")
    text = f"Look at the backups of {project}"
    found[f"{UNITS}/{project}-backup-watch.service"] = SERVICE.format(description=text, command=f"{run} watch")
    found[f"{UNITS}/{project}-backup-watch.timer"] = TIMER.format(description=text, calendars=f"OnCalendar={WATCH}", precision="Persistent=true")
    return found


def own_schedules(project: str) -> list[str]:
    """Return the files of this stack's schedule that are on the host."""
    names = [f"{CRON}/{project}-backup"]
    names += [f"{UNITS}/{project}-backup{part}.{kind}" for part in ("", "-drill", "-ship", "-watch") for kind in ("service", "timer")]
    return [name for name in names if os.path.lexists(name)]


def is_right(path: str, content: bytes, mode: int, owner: int) -> bool:
    """Return whether a file is as it should be."""
    try:
        status = os.lstat(path)
        with open(path, "rb") as file:
            return stat.S_ISREG(status.st_mode) and (stat.S_IMODE(status.st_mode), status.st_uid, file.read()) == (mode, owner, content)
    except OSError:
        return False


def write(path: str, content: bytes, mode: int, owner: int) -> None:
    """Write a file whole."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(file.fileno(), owner, owner)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_directories(directory: str, kept: str) -> None:
    """Create the directories of the backup, and of where its configuration and its secrets are kept."""
    own = os.path.join(directory, "backup")
    for path, mode, owner in ((directory, 0o755, 0), (own, 0o755, 0), (kept, 0o755, 0), (f"{kept}/secrets", 0o700, 0), (f"{kept}/cache", 0o700, OWNER)):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        if owner:
            os.chown(path, owner, owner)


def repository_problem(path: str) -> str | None:
    """Return why a directory cannot be the repository, None where it can."""
    if not path.startswith("/") or not os.path.lexists(path):
        return None
    if not os.path.isdir(path):
        return f"{path} is not a directory."
    if os.listdir(path) and os.stat(path).st_uid != OWNER:
        return f"{path} holds what is not of the user {OWNER}, who writes the repository. Name another directory, or `chown -R {OWNER}:{OWNER} {path}`."
    return None


def make_repository(path: str) -> None:
    """Create the directory of the repository for who writes it, or give it an empty one that is there."""
    if path.startswith("/"):
        os.makedirs(path, exist_ok=True)
        if not os.listdir(path):
            os.chmod(path, 0o700)
            os.chown(path, OWNER, OWNER)


def is_recent(python: str) -> bool:
    """Return whether an interpreter is one that runs the program."""
    try:
        return subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def interpreter(given: str | None) -> str:
    """Return the Python that runs the program: the host's own, which stays when an environment of Ansible's is removed."""
    return given or ("/usr/bin/python3" if is_recent("/usr/bin/python3") else sys.executable)


class Setup:
    """What is to be done on the host."""

    def __init__(self, module: AnsibleModule):
        self.module, params = module, module.params
        self.directory = params["directory"]
        self.scheduler = params["scheduler"]
        if self.scheduler == "auto":
            self.scheduler = "systemd" if os.path.isdir(SYSTEMD) else "cron"
        self.schedule = schedule_of(params, self.scheduler)
        # What was set up for backups stays as it is.
        self.is_program_only = not params["repository"]
        self.is_scheduled = params["schedule"] and not self.is_program_only
        place = state.place_of(self.directory)
        # Who reads another repository moves no backups there.
        self.is_other = bool(place and params["repository"] and place != params["repository"] and not self.is_scheduled)
        self.other = os.path.join(self.directory, "backup", state.OTHER)
        self.kept = self.other if self.is_other else os.path.join(self.directory, "backup")
        files = files_of(params, interpreter(params["python"]), os.path.relpath(self.kept, self.directory))
        self.files = {os.path.join(self.directory, name): row for name, row in files.items()}
        if not self.is_scheduled:
            self.schedule = {}
        if self.is_program_only:
            config = os.path.join(self.directory, "backup/config.json")
            if os.path.exists(config):
                del self.files[config]

    def wrong(self) -> list[str]:
        """Return the paths of what is not as it should be."""
        found = [path for path, row in self.files.items() if not is_right(path, *row)]
        found += [path for path, text in self.schedule.items() if not is_right(path, text.encode(), 0o644, 0)]
        return found + self.surplus() + self.unfinished() + self.missing() + self.asleep()

    def asleep(self) -> list[str]:
        """Return the links by which systemd starts the timers that it does not start, or that nobody has started."""
        timers = [os.path.basename(path) for path in self.schedule if path.endswith(".timer") and os.path.exists(path)]
        links_of = {name: f"{UNITS}/timers.target.wants/{name}" for name in timers}
        found = [name for name in timers if not os.path.lexists(links_of[name])]
        if timers and not found:
            # Where systemd is not there to be asked, as in an image that is built, it prints nothing.
            _status, output, _error = self.module.run_command(["systemctl", "is-active", *timers])
            found = [name for name, word in zip(timers, output.split(), strict=False) if word in ("inactive", "failed")]
        return [links_of[name] for name in found]

    def missing(self) -> list[str]:
        """Return what who only reads does not leave: the directory of the repository, and the note that backups are set up."""
        if not self.is_scheduled:
            return []
        place = self.module.params["repository"]
        found = [place] if place.startswith("/") and not os.path.isdir(place) else []
        return found if state.read(self.directory)["installed"] else [*found, os.path.join(self.directory, "backup/status.json")]

    def unfinished(self) -> list[str]:
        """Return the files of a change of the password that did not end. Old ones are kept as long as there is no repository that could tell."""
        if self.is_program_only or self.is_other:
            return []
        place, secret_files = self.module.params["repository"], os.path.join(self.directory, "backup/secrets")
        is_there = not place.startswith("/") or os.path.exists(os.path.join(place, "config"))
        return [os.path.join(secret_files, name) for name in password.leftovers(secret_files) if is_there or name == password.NEXT]

    def change_password(self) -> None:
        """Have the repository open with another password than the one on the host, before the host forgets that one; fail where it does not."""
        path = os.path.join(self.directory, "backup/secrets", password.IN_FORCE)
        content, mode, owner = self.files[path]
        given = content.decode()
        following = os.path.join(os.path.dirname(path), password.NEXT)
        if not is_right(path, content, mode, owner) and not is_right(following, content, mode, owner):
            password.set_aside(os.path.dirname(path))
            write(following, content, mode, owner)
        elif is_right(path, content, mode, owner):
            # Back to the one in force, before the change to another one has ended.
            password.set_aside(os.path.dirname(path))
        # As for everything else that the program does, its client of Docker has neither the secrets nor their names in its arguments.
        status, output, error = self.module.run_command([os.path.join(self.directory, "backup/run"), "--quiet", "change-password"])
        if status != 0:
            told = docker.told(f"{output} {error}".replace(given.strip(), "***"))
            self.module.fail_json(msg=f"The password of the repository was not changed, and the old one stays in force. {told}")

    def surplus(self) -> list[str]:
        """Return the paths of what should not be there."""
        if self.is_program_only:
            return []
        secrets = [os.path.join(self.kept, "secrets", name) for name in SECRETS if name not in self.module.params["secrets"]]
        schedules = own_schedules(self.module.params["project"]) if self.is_scheduled else []
        others = [] if self.is_other else [self.other]
        return [path for path in secrets + others if os.path.lexists(path)] + [path for path in schedules if path not in self.schedule]

    def apply(self, wrong: list[str]) -> None:
        """Write and remove what is wrong."""
        make_directories(self.directory, self.kept)
        if self.is_scheduled:
            make_repository(self.module.params["repository"])
        secret = os.path.join(self.directory, "backup/secrets", password.IN_FORCE)
        is_changed = not self.is_program_only and not self.is_other and (holds_another(secret, self.files[secret][0]) or bool(self.unfinished()))
        for path, row in self.files.items():
            if path in wrong and not (path == secret and is_changed):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                write(path, *row)
        if is_changed:
            # With the program that was just written.
            self.change_password()
        gone = [path for path in self.surplus() if path.endswith(".timer")]
        if gone and self.scheduler == "systemd":
            self.systemctl("disable", "--now", *[os.path.basename(path) for path in gone])
        for path in self.surplus():
            if path == self.other:
                shutil.rmtree(path)
            else:
                os.unlink(path)
        for path, text in self.schedule.items():
            write(path, text.encode(), 0o644, 0)
        if self.scheduler == "systemd" and any(path.startswith(UNITS) for path in wrong):
            self.systemctl("daemon-reload")
            timers = [os.path.basename(path) for path in self.schedule if path.endswith(".timer")]
            if timers:
                self.systemctl("enable", "--now", *timers)
        if self.is_scheduled and state.read(self.directory)["installed"] is None:
            state.update(self.directory, installed=sets.moment())

    def systemctl(self, *arguments: str) -> None:
        """Ask systemd for something; fail where it refuses."""
        status, _output, error = self.module.run_command(["systemctl", *arguments])
        if status != 0:
            self.module.fail_json(msg=f"systemctl {arguments[0]} failed: {docker.told(error)}")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "project": {"type": "str", "required": True},
            "image": {"type": "str"},
            "repository": {"type": "str"},
            "secrets": {"type": "dict", "no_log": True},
            "settings": {"type": "dict", "default": {}},
            "times": {"type": "list", "elements": "str", "default": []},
            "schedule": {"type": "bool", "default": True},
            "drill_times": {"type": "list", "elements": "str", "default": []},
            "drill_after_backup": {"type": "bool", "default": False},
            "point_in_time": {"type": "bool", "default": False},
            "scheduler": {"type": "str", "choices": ["auto", "systemd", "cron", "none"], "default": "auto"},
            "python": {"type": "path"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        required_together=[("image", "repository", "secrets")],
        supports_check_mode=True,
    )
    params = module.params
    given = params["secrets"]
    if params["repository"] and not (set(given) <= set(SECRETS) and given.get("password")):
        module.fail_json(msg=f"secrets must hold password, and may hold {', '.join(SECRETS[1:])}.")
    try:
        setup = Setup(module)
        if problem := repository_problem(params["repository"] or ""):
            module.fail_json(msg=f"The repository cannot be used. Nothing was changed. {problem}")
        if setup.schedule and setup.scheduler == "cron" and not os.path.isdir(CRON):
            module.fail_json(msg=f"The host has neither systemd nor {CRON}, so nothing would call the backup. Install cron, or set backup_scheduler to none.")
        if setup.schedule and setup.scheduler == "cron" and not state.has_cron():
            module.warn(f"{state.NO_CRON}. Install cron, or set backup_scheduler to none.")
        wrong = setup.wrong()
        if wrong and not module.check_mode:
            setup.apply(wrong)
    except ValueError as error:
        module.fail_json(msg=f"{error} is not a time. 02:30 is one, and so is Sun 04:00.")
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename or params['directory']}. Check the owner, the free space and the mount of that path.")
    module.exit_json(changed=bool(wrong), run=f"{setup.kept}/run", scheduler=setup.scheduler)


if __name__ == "__main__":
    main()
