# SPDX-License-Identifier: GPL-3.0-or-later
"""No secret leaves a run: not by its most talkative output, and not by a module's file on the host."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from program import IMAGES, secret_names

ROOT = Path(__file__).resolve().parents[3]
NAMES = secret_names()


@pytest.fixture
def values() -> dict[str, str]:
    return {name: f"canary-{secrets.token_urlsafe(24)}" for name in NAMES}


def run(directory: Path, values: dict[str, str], *arguments: str, **variables) -> str:
    """Run the role as an installation without this repository's configuration would; in check mode nothing needs an engine."""
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "stack_variant": "prod",
        # Not the name of a stack that may run here.
        "stack_project": "campaign-canary",
        "stack_directory": str(directory / "stack"),
        "stack_images": {key: f"registry.example.com/{key}:1" for key in IMAGES},
        "stack_secrets": values,
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"one": common | variables}}}))
    (directory / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": ["campaign.platform.stack"]}]))
    (directory / "ansible.cfg").write_text(f"[defaults]\nlog_path = {directory}/log\nremote_tmp = {directory}/remote\nlocal_tmp = {directory}/local\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    # Modules' arguments are shown when someone asks for it.
    env |= {"ANSIBLE_INJECT_INVOCATION": "true"}
    env |= {"HOME": str(directory), "ANSIBLE_CONFIG": str(directory / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}
    command = ["ansible-playbook", "-vvv", "--diff", "-i", str(directory / "hosts.yml"), str(directory / "play.yml"), *arguments]
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=180)
    return done.stdout + done.stderr + (directory / "log").read_text()


def test_a_run_shows_no_secret_and_puts_no_module_with_one_on_the_host(tmp_path, values):
    output = run(tmp_path, values, "--check")
    assert "Write the release on the host" in output
    assert "failed=0" in output
    assert '"invocation": {' in output
    assert "canary-" not in output
    # What goes through a pipe has no name; a module's file would be called so.
    assert "AnsiballZ_release" not in output


def test_a_failure_shows_no_secret(tmp_path, values):
    # A file where the stack's directory should be, so that staging fails while it holds the secrets.
    (tmp_path / "file").write_text("")
    output = run(tmp_path, values, stack_directory=str(tmp_path / "file"))
    assert "Nothing was changed" in output
    assert "canary-" not in output


def test_a_refused_secret_is_not_shown(tmp_path, values):
    output = run(tmp_path, values | {"jwt_secret": "canary-short", "operator_password": values["s3_secret_key"]}, "--check")
    assert "jwt_secret must be at least 32 characters" in output
    assert "have the same value" in output
    assert "canary-" not in output


def hands_on_a_secret(task: dict) -> bool:
    """Tell a task that gives a module secrets: those of a release that is staged, and the password of a registry."""
    staged = task.get("campaign.platform.release")
    if staged is not None:
        return staged.get("state", "staged") == "staged"
    return any(isinstance(arguments, dict) and "password" in arguments for arguments in task.values())


def test_every_task_that_hands_a_secret_to_a_module_pipes_it():
    found = []
    for path in sorted((ROOT / "roles").glob("*/tasks/*.yml")):
        for task in tasks_in(yaml.safe_load(path.read_text())):
            if hands_on_a_secret(task):
                found.append(task["name"])
                assert task["vars"]["ansible_pipelining"] is True, task["name"]
    assert "stage | Write the release on the host" in found
    assert len(found) >= 2


def tasks_in(entries: list | None) -> Iterator[dict]:
    for entry in entries or []:
        yield entry
        for section in ("block", "rescue", "always"):
            yield from tasks_in(entry.get(section))
