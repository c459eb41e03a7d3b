# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees who tries the project for the first time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def play(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run ansible-playbook in the checkout, as a person would type it there."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *arguments]
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> str:
    variables = ["-e", "stack_log_level=loud", "-e", "stack_frontend_port=0"]
    done = play("-i", "inventories/local", "site.yml", *variables, XDG_STATE_HOME=str(tmp_path_factory.mktemp("state")))
    assert done.returncode == 2
    return done.stdout + done.stderr


def test_a_failed_validation_ends_with_its_list(refused):
    """One problem a line, and nothing behind the last one but Ansible's own recap."""
    shown = [line.strip() for line in refused[: refused.index("PLAY RECAP")].strip().splitlines()]
    assert shown[-3] == "Nothing was changed. Fix these first:"
    assert [line.split()[1] for line in shown[-2:]] == ["stack_frontend_port", "stack_log_level"]


def test_a_failed_validation_shows_nothing_of_the_source(refused):
    assert "Origin:" not in refused
    assert "[ERROR]" not in refused
    assert "register: __stack_validated" not in refused
