# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that cannot carry the stack is refused before anything on it is changed, with the version that it has and the one that is needed.

Engines that old, and machines of another kind, do not run here, so what the module would say of them is made up.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
RIGHT = {
    "distribution": {"id": "debian", "version_id": "13", "codename": "trixie"},
    "architecture": "amd64",
    "memory_mb": 8192,
    "disk_free_mb": 100000,
    "apt_sources": {"uri": "http://debian.example.com/debian", "signed_by": None},
    "engine": {"version": "26.1.5", "api_version": "1.45", "data_root": "/var/lib/docker"},
    "engine_error": None,
    "engine_installed": True,
    "compose": "2.26.1",
    "buildx": "0.13.1",
    "ports": [],
    "addresses": ["192.0.2.7", "198.51.100.7"],
    "client": {},
}
ENGINE = RIGHT["engine"]
FEDORA = {"id": "fedora", "version_id": "43", "codename": ""}
CASES = {
    "right": ({}, None),
    "engine_at_the_floor": ({"engine": {**ENGINE, "version": "20.10.24"}}, None),
    "engine_too_old": ({"engine": {**ENGINE, "version": "19.03.15"}}, "Docker Engine 19.03.15 runs, at least 20.10 is needed"),
    "compose_too_old": ({"compose": "2.25.0"}, "Docker Compose 2.25.0 is installed, at least 2.26 is needed"),
    "compose_far_too_old": ({"compose": "2.3.3"}, "Docker Compose 2.3.3 is installed"),
    "architecture": ({"architecture": "riscv64"}, "The machine is riscv64"),
    # What the kernel shows of 2 GiB and of 1 GiB that somebody rents.
    "memory_of_2_gib": ({"memory_mb": 2014136 // 1024}, None),
    "memory": ({"memory_mb": 988200 // 1024}, "965 MiB of memory"),
    "disk": ({"disk_free_mb": 100}, "100 MiB free"),
    "port": ({"ports": [{"address": "127.0.0.1", "port": 5432, "local": True, "busy": True, "project": None, "docker": False}]}, "port 5432"),
    "own_port": ({"ports": [{"address": "127.0.0.1", "port": 5432, "local": True, "busy": True, "project": "campaign", "docker": False}]}, None),
    "address": (
        {"ports": [{"address": "203.0.113.10", "port": 80, "local": False, "busy": False, "project": None, "docker": False}]},
        "no address 203.0.113.10, so no port can be published there. It has 192.0.2.7, 198.51.100.7",
    ),
    "another_engine": ({"client": {"DOCKER_HOST": "tcp://192.0.2.1:2375"}}, "led elsewhere by DOCKER_HOST=tcp://192.0.2.1:2375"),
    "other_distribution_that_has_all": ({"distribution": FEDORA}, None),
    "other_distribution": ({"distribution": FEDORA, "engine": None, "engine_installed": False}, "Install Docker Engine, Compose and buildx yourself"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("preflight")
    hosts = {name: {"test_host": {**RIGHT, **changed}} for name, (changed, _told) in CASES.items()}
    shared = {"test_answers": str(directory), "ansible_python_interpreter": sys.executable}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": shared}}))
    command = ["ansible-playbook", "-i", str(directory / "hosts.yml"), "tests/integration/input/preflight.yml"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"ANSIBLE_FORKS": "3", "ANSIBLE_NOCOLOR": "1"}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return {name: (directory / name).read_text() if (directory / name).exists() else None for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_host_is_refused_with_the_reason_or_accepted(answers, name):
    told = CASES[name][1]
    if told is None:
        assert answers[name] is None
    else:
        assert told in answers[name]
        assert "Nothing was changed on this host" in answers[name]
