# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of stacks that are really deployed have in common."""

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

Function = TypeVar("Function", bound=Callable[..., Any])
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Result:
    """How something ended; ``text`` is what it printed, on one line."""

    status: int
    text: str


def full_only(function: Function) -> Function:
    """Have a test run with `--full` only, and be left out otherwise."""
    function.full_only = True  # type: ignore[attr-defined]
    return function


def docker(*arguments: str, check: bool = True, stdin: str | None = None, seconds: float = 120) -> str:
    """Return what Docker's client prints; fail where it does not end well, unless ``check`` is false, or within ``seconds``."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, input=stdin)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def write_inventory(path: Path, project: str, ports: Mapping[str, int], host: str = "this_machine", **more: Any) -> None:
    """Write the inventory of a stack of its own on this machine: in a directory by the project's name, with secrets that are generated beside the inventory."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "stack_variant": "local",
        "stack_project": project,
        "stack_directory": f"/opt/{project}",
        "stack_generate_secrets": True,
        "stack_generated_secrets_file": str(path.parent / "secrets.json"),
        "stack_settle_seconds": 1,
        **{f"stack_{name}_port": port for name, port in ports.items()},
        "images_source": "build",
        **more,
    }
    path.write_text(yaml.safe_dump({"campaign": {"hosts": {host: None}, "vars": variables}}))


def images() -> dict[str, str]:
    """Return the references of the images that tests share, by their keys, once the Engine has them all.

    A stack that is given other images prunes those which no stack on the machine names any more, as it should. They are built from the cache then.
    """
    references: dict[str, str] = json.loads((ROOT / ".cache/tests/images.json").read_text())
    if subprocess.run(["docker", "image", "inspect", *references.values()], capture_output=True, timeout=120).returncode:
        command = ["ansible-playbook", "-i", "inventories/local", "tests/images.yml"]
        made = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        assert made.returncode == 0, made.stdout + made.stderr
    return references


def build(reference: str, base: str, *lines: str, context: Path | None = None) -> str:
    """Build an image of a few lines on top of one that the Engine has; return its id."""
    dockerfile = "\n".join([f"FROM {base}", *lines, ""])
    docker("build", "--quiet", "--tag", reference, *(["--file", "-", str(context)] if context else ["-"]), stdin=dockerfile)
    return docker("image", "inspect", "--format", "{{.Id}}", reference)


def sweep(project: str) -> None:
    """Remove a stack of its own with its data, images named after it, and what backups and restores of it left on the Engine."""
    for label in (f"com.docker.compose.project={project}", f"campaign.platform.backup={project}", f"campaign.platform.restore={project}"):
        for kind, options in (("container", ["--force", "--volumes"]), ("network", []), ("volume", [])):
            every = ["--all"] if kind == "container" else []
            if found := docker(kind, "ls", *every, "--quiet", "--filter", f"label={label}").split():
                docker(kind, "rm", *options, *found, seconds=200)
    if images := docker("image", "ls", "--filter", f"reference={project}/*", "--format", "{{.Repository}}:{{.Tag}}").split():
        docker("image", "rm", *images)
    shutil.rmtree(f"/opt/{project}", ignore_errors=True)


_PLANTED = "canary-planted-5a"


@contextlib.contextmanager
def seen_in_processes(wanted: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Give where values were seen meanwhile in arguments and environments of the machine's processes, by the names of the values, once the block has ended.

    A canary in the environment of a process of its own has to be seen too, so nothing that is seen means something.
    """
    seen: dict[str, str] = {}
    sought = {what: value.encode() for what, value in {**wanted, _PLANTED: _PLANTED}.items()}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_bytes()
                    except OSError:
                        continue
                    for what, value in sought.items():
                        if value in text:
                            seen.setdefault(what, f"{name} of {text[:200]!r}")

    thread = threading.Thread(target=look)
    planted = subprocess.Popen(["sleep", "2"], env={"A": _PLANTED})
    thread.start()
    try:
        yield seen
        planted.wait()
    finally:
        ended.set()
        thread.join()
        planted.wait()
    assert seen.pop(_PLANTED)


def await_receiver(project: str, ask: Callable[[str], str]) -> None:
    """Wait until the log of a stack's PostgreSQL is received while it is written; ``ask`` asks the database."""
    deadline = time.monotonic() + 120
    while ask("SELECT application_name || ' ' || state FROM pg_stat_replication") != "pg_receivewal streaming":
        if time.monotonic() >= deadline:
            said = subprocess.run(["docker", "logs", "--tail", "20", f"{project}-wal-1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            raise AssertionError(f"The log is not received: {said.stdout}")
        time.sleep(0.5)
