# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the machine run something for a Compose project after each start of the machine or of the Docker Engine."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Mapping

# Where systemd is the init system, this directory exists: https://www.freedesktop.org/software/systemd/man/latest/sd_booted.html
BOOTED = "/run/systemd/system"
UNITS = "/etc/systemd/system"
# What the Engine's unit pulls in when it starts.
WANTS = "docker.service.wants"
SCRIPTS = "/etc/init.d"
LEVELS = "/etc/rc[2-5].d"
REGISTER = "update-rc.d"
SYSTEMD, SYSV = "systemd", "sysv"


class BootError(Exception):
    """The init system refused; the text says what and why."""


def name_of(project: str) -> str:
    """Return the name of a project's unit or init script."""
    return f"docker-resume-{project}"


def init_system() -> str | None:
    """Return which of the two init systems this machine has, None where it has neither."""
    if os.path.isdir(BOOTED):
        return SYSTEMD
    return SYSV if os.path.isdir(SCRIPTS) and shutil.which(REGISTER) else None


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BootError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise BootError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


class Starter:
    """The unit or the init script of a project, whichever this machine has a use for."""

    def __init__(self, project: str):
        self.name, self.init = name_of(project), init_system()
        self.unit, self.script = os.path.join(UNITS, f"{self.name}.service"), os.path.join(SCRIPTS, self.name)
        self.wanted = os.path.join(UNITS, WANTS, f"{self.name}.service")

    @property
    def path(self) -> str:
        """Return the path of the file that counts."""
        return self.unit if self.init == SYSTEMD else self.script

    def is_right(self, texts: Mapping[str, str]) -> bool:
        """Return whether the machine runs it as ``texts`` says, by init system. One without an init system has nothing to be wrong."""
        if not self.init or self.init not in texts:
            return True
        try:
            with open(self.path, encoding="utf-8") as file:
                same = file.read() == texts[self.init]
        except OSError:
            return False
        return same and bool(os.path.exists(self.wanted) if self.init == SYSTEMD else self._levels())

    def _levels(self) -> list[str]:
        return glob.glob(os.path.join(LEVELS, f"S[0-9][0-9]{self.name}"))

    def install(self, texts: Mapping[str, str]) -> None:
        """Write and register it; raise OSError or BootError."""
        if not self.init or self.init not in texts:
            return
        temporary = f"{self.path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(texts[self.init])
            os.fchmod(file.fileno(), 0o644 if self.init == SYSTEMD else 0o755)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        if self.init == SYSTEMD:
            os.makedirs(os.path.dirname(self.wanted), exist_ok=True)
            if not os.path.lexists(self.wanted):
                os.symlink(self.unit, self.wanted)
            # The Engine may be started again before the machine is.
            _run("systemctl", "daemon-reload")
        else:
            _run(REGISTER, self.name, "defaults")

    def is_there(self) -> bool:
        """Return whether something of it is there."""
        return any(os.path.lexists(path) for path in (self.unit, self.wanted, self.script, *self._levels()))

    def remove(self) -> None:
        """Take it away; raise OSError or BootError."""
        had_unit, had_script = os.path.lexists(self.unit), bool(os.path.lexists(self.script) or self._levels())
        for path in (self.wanted, self.unit, self.script):
            if os.path.lexists(path):
                os.unlink(path)
        if had_unit and self.init == SYSTEMD:
            _run("systemctl", "daemon-reload")
        if had_script and shutil.which(REGISTER):
            _run(REGISTER, self.name, "remove")
