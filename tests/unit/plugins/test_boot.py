# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine runs after each start is written where its init system looks, only where it differs, and taken away with the stack."""

import os
import stat
import subprocess

import program
import pytest
from ansible_collections.campaign.platform.plugins.module_utils import boot as module

TEXTS = {"systemd": "[Unit]\n", "sysv": "#!/bin/sh\n"}


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """A machine without an init system, on which each command that is run is written down."""
    for name in ("BOOTED", "UNITS", "SCRIPTS"):
        monkeypatch.setattr(module, name, str(tmp_path / name))
    monkeypatch.setattr(module, "LEVELS", str(tmp_path / "rc[2-5].d"))
    tools = tmp_path / "bin"
    tools.mkdir()
    script = f'#!/bin/sh\necho "${{0##*/}} $@" >>{tmp_path}/run\n'
    register = f'case "$2" in defaults) ln -sf x {tmp_path}/rc3.d/S01$1 ;; remove) rm -f {tmp_path}/rc3.d/S01$1 ;; esac\n'
    for name, text in (("systemctl", script), ("update-rc.d", script + register)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture(params=["systemd", "sysv"])
def init(etc, request):
    if request.param == "systemd":
        (etc / "BOOTED").mkdir()
        (etc / "UNITS").mkdir()
    else:
        (etc / "SCRIPTS").mkdir()
        (etc / "rc3.d").mkdir()
    return request.param


def run(etc):
    return (etc / "run").read_text().splitlines() if (etc / "run").exists() else []


def test_it_is_written_and_registered_once(etc, init):
    starter = module.Starter("p")
    assert not starter.is_right(TEXTS)
    starter.install(TEXTS)
    assert starter.is_right(TEXTS)
    with open(starter.path, encoding="utf-8") as file:
        assert file.read() == TEXTS[init]
    mode = stat.S_IMODE(os.stat(starter.path).st_mode)
    expected = {
        "systemd": (f"{etc}/UNITS/docker-resume-p.service", 0o644, "systemctl daemon-reload"),
        "sysv": (f"{etc}/SCRIPTS/docker-resume-p", 0o755, "update-rc.d docker-resume-p defaults"),
    }
    assert (starter.path, mode, *run(etc)) == expected[init]
    if init == "systemd":
        assert os.path.realpath(etc / "UNITS/docker.service.wants/docker-resume-p.service") == starter.path


def test_what_differs_or_is_not_enabled_is_not_right(etc, init):
    starter = module.Starter("p")
    starter.install(TEXTS)
    assert not starter.is_right({name: f"{text}# more\n" for name, text in TEXTS.items()})
    os.unlink(starter.wanted if init == "systemd" else etc / "rc3.d/S01docker-resume-p")
    assert not starter.is_right(TEXTS)
    starter.install(TEXTS)
    assert starter.is_right(TEXTS)


def test_nothing_of_it_stays(etc, init):
    starter = module.Starter("p")
    assert not starter.is_there()
    starter.install(TEXTS)
    other = module.Starter("q")
    other.install(TEXTS)
    assert starter.is_there()
    starter.remove()
    assert not starter.is_there()
    assert other.is_right(TEXTS)
    assert run(etc)[-1] == {"systemd": "systemctl daemon-reload", "sysv": "update-rc.d docker-resume-p remove"}[init]
    starter.remove()


def test_a_machine_without_an_init_system_gets_nothing(etc):
    starter = module.Starter("p")
    assert starter.is_right(TEXTS)
    starter.install(TEXTS)
    assert not starter.is_there()
    assert run(etc) == []


@pytest.mark.usefixtures("init")
def test_who_brings_no_texts_gets_nothing():
    starter = module.Starter("p")
    assert starter.is_right({})
    starter.install({})
    assert not starter.is_there()


@pytest.mark.usefixtures("init")
def test_an_init_system_that_refuses_is_an_error(etc):
    for name in ("systemctl", "update-rc.d"):
        (etc / "bin" / name).write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    with pytest.raises(module.BootError, match="no bus"):
        module.Starter("p").install(TEXTS)


@pytest.fixture(scope="module")
def texts():
    return program.build(program.VARIANTS["local"])["boot"]


def test_systemd_takes_the_unit(texts, tmp_path):
    path = tmp_path / "docker-resume-campaign.service"
    path.write_text(texts["systemd"])
    lines = texts["systemd"].splitlines()
    for line in ("After=docker.service", "PartOf=docker.service", "WantedBy=docker.service", "ExecStart=/usr/bin/env python3 -B /opt/campaign/client/resume"):
        assert line in lines


def test_the_init_script_starts_the_program_and_does_not_wait(texts, tmp_path):
    text = texts["sysv"].replace("/opt/campaign", str(tmp_path))
    path = tmp_path / "script"
    path.write_text(text)
    assert "# Required-Start:    $local_fs $remote_fs docker\n" in text
    # Before the first deploy and after the stack was removed.
    assert subprocess.run(["sh", str(path), "start"], check=False).returncode == 0
    (tmp_path / "client/resume").mkdir(parents=True)
    (tmp_path / "client/resume/__main__.py").write_text("print('ran')")
    for action in ("stop", "status"):
        assert subprocess.run(["sh", str(path), action], check=False).returncode == 0
    assert not (tmp_path / "client/resume.log").exists()
    done = subprocess.run(["sh", "-c", f"sh {path} start; wait"], check=False)
    assert done.returncode == 0
    assert subprocess.run(["sh", str(path), "nonsense"], check=False, capture_output=True).returncode == 2
