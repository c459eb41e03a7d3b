# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small questions to the machine itself, with the standard library only. None of them raises where the machine does not say."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import getpass
import hashlib
import os
import re
import socket
import subprocess
from typing import Any

MEMINFO = "/proc/meminfo"
RESOLV_CONF = "/etc/resolv.conf"
MACHINE_ID = "/etc/machine-id"
PROC = "/proc"
CGROUPS = "/sys/fs/cgroup"
_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)?)")
# What adjtimex returns for a clock that nothing keeps right: https://man7.org/linux/man-pages/man2/adjtimex.2.html
_NOT_SYNCHRONISED = 5


def is_mount(path: str) -> bool:
    """Return whether something is mounted at a path, be it a directory or a file of the same file system."""
    # Where a blank is spelled like this.
    shown = os.path.realpath(path).replace("\\", r"\134").replace(" ", r"\040")
    return os.path.ismount(path) or any(line.split()[4:5] == [shown] for line in read(f"{PROC}/self/mountinfo").splitlines())


def read(path: str) -> str:
    """Return a text file's content, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def link_target(directory: str | None, name: str) -> str | None:
    """Return the last part of what a link in a directory points to, None where there is no such link."""
    if not directory:
        return None
    try:
        return os.path.basename(os.readlink(os.path.join(directory, name)))
    except OSError:
        return None


def user() -> str:
    """Return the name of the user who runs this, or the number of one that this machine has no name for, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"


def machine() -> str:
    """Return what tells this machine, since it was started, from any other one, and its processes from those of a container on it."""
    try:
        with open(f"{PROC}/sys/kernel/random/boot_id", encoding="ascii") as file:
            told = file.read() + os.readlink(f"{PROC}/self/ns/pid")
    except OSError:
        # No Linux.
        told = socket.gethostname()
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def installation() -> str:
    """Return what tells this machine's installation from any other one, also after it was started again (machine-id(5))."""
    told = read(MACHINE_ID).strip() or socket.gethostname()
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def started(pid: int) -> str | None:
    """Return when a process was started, as the kernel counts, None where there is none of that number."""
    try:
        with open(f"{PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # See proc(5); the command's name may hold anything.
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def tool_version(*command: str) -> str | None:
    """Return the version that a command prints, None where it does not run."""
    # Neither the Engine nor the context that the user's environment names has a say in what is installed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_", "BUILDX_")) or name == "DOCKER_CONFIG"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout)
    return found[1] if done.returncode == 0 and found else None


def memory() -> dict[str, int] | None:
    """Return total and available memory in bytes, None where the kernel does not say."""
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", read(MEMINFO), re.MULTILINE))
    return {"total": int(found["MemTotal"]) * 1024, "available": int(found["MemAvailable"]) * 1024} if len(found) == 2 else None


def is_clock_synchronised() -> bool | None:
    """Return whether the kernel's clock is kept right by something, such as chrony; None where the kernel does not say."""
    try:
        # Without a mode, the call changes nothing. The structure has 208 bytes on 64-bit machines.
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _NOT_SYNCHRONISED


def dns() -> dict[str, Any]:
    """Return the machine's name servers, and why it does not know its own name localhost, None where it does."""
    servers = re.findall(r"^\s*nameserver\s+(\S+)", read(RESOLV_CONF), re.MULTILINE)
    try:
        socket.getaddrinfo("localhost", None)
    except OSError as error:
        return {"nameservers": servers, "localhost_error": str(error.strerror or error)}
    return {"nameservers": servers, "localhost_error": None}


def filesystem(path: str) -> dict[str, Any] | None:
    """Return the file system that a path lies on: mount point, and bytes and inodes in total, used and free for who is not root.

    Inodes are None on a file system that has no fixed number of them. None is returned where the path cannot be looked at, such as below a directory of
    another user.
    """
    try:
        device, status = os.stat(path).st_dev, os.statvfs(path)
    except OSError:
        return None
    mount = os.path.realpath(path)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    block = status.f_frsize
    found = {"mount": mount, "device": device, "bytes": {"used": (status.f_blocks - status.f_bfree) * block, "free": status.f_bavail * block}, "inodes": None}
    if status.f_files:
        found["inodes"] = {"used": status.f_files - status.f_ffree, "free": status.f_favail}
    return found


def size_of(path: str) -> int:
    """Return the bytes that a directory takes on its disk. What is removed meanwhile takes none."""
    total = 0
    for directory, _directories, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def oom_kills(pid: int) -> int | None:
    """Return how many processes the kernel ended for want of memory in a process' cgroup since that was created; None where it does not say."""
    for line in read(f"{PROC}/{pid}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found = re.search(r"^oom_kill (\d+)", read(f"{CGROUPS}/memory{path}/memory.oom_control"), re.MULTILINE)
        elif number == "0":
            found = re.search(r"^oom_kill (\d+)", read(f"{CGROUPS}{path}/memory.events"), re.MULTILINE)
        else:
            continue
        if found:
            return int(found[1])
    return None


def is_busy(address: str, port: int) -> bool:
    """Return whether something listens there already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def accepts(address: str, port: int, seconds: float = 2) -> bool:
    """Return whether something accepts a connection there. Of all addresses, loopback is asked."""
    try:
        with socket.create_connection(("127.0.0.1" if address == "0.0.0.0" else address, port), timeout=seconds):
            return True
    except OSError:
        return False
