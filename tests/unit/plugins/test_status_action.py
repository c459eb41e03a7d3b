# SPDX-License-Identifier: GPL-3.0-or-later
"""What the actions status and doctor do on the controller: where they write, what they refuse, and what a playbook gets."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.campaign.platform.plugins.action.status import place_of, write
from ansible_collections.campaign.platform.plugins.plugin_utils.inputs import RefusedError

ROOT = Path(__file__).resolve().parents[3]
ONE_HOST = {"inventory_hostname": "one", "ansible_play_hosts_all": ["one"]}
TWO_HOSTS = {"inventory_hostname": "one", "ansible_play_hosts_all": ["one", "two"]}


def test_a_path_is_one_of_the_person_who_typed_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_of("status.json", ONE_HOST, "json") == place_of("~/status.json", ONE_HOST, "json") == str(tmp_path / "status.json")


@pytest.mark.parametrize("path", ["nowhere/status.json", "."])
def test_a_path_that_cannot_be_written_is_refused_before_anything(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError, match=r"json: .* cannot be written"):
        place_of(path, ONE_HOST, "json")


def test_two_hosts_do_not_write_one_file(tmp_path):
    with pytest.raises(RefusedError, match="page: 2 hosts would write"):
        place_of(str(tmp_path / "status.html"), TWO_HOSTS, "page")
    assert place_of(str(tmp_path / "status-one.html"), TWO_HOSTS, "page")


def test_a_new_file_is_its_owner_s_and_one_that_is_there_keeps_its_mode(tmp_path):
    path = tmp_path / "status.json"
    write(str(path), "ä\n")
    assert (path.read_text(encoding="utf-8"), stat.S_IMODE(path.stat().st_mode)) == ("ä\n", 0o600)
    path.chmod(0o644)
    write(str(path), "b\n")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("b\n", 0o644)
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.fixture
def play(tmp_path):
    """Run a playbook of the collection for a directory without a stack, or with what a test put there, and an Engine that may not answer."""

    def run(playbook: str, *arguments: str, **variables) -> subprocess.CompletedProcess[str]:
        (tmp_path / "hosts.yml").write_text("campaign: {hosts: {localhost: {ansible_connection: local}}}\n")
        given = {"stack_directory": str(tmp_path / "stack"), "ansible_python_interpreter": sys.executable, **variables}
        command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), f"campaign.platform.{playbook}", "-e", json.dumps(given), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_the_status_is_shown_and_written(play, tmp_path):
    places = {"stack_status_json": str(tmp_path / "status.json"), "stack_status_page": str(tmp_path / "status.html")}
    done = play("status", **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Release  none is in use" in done.stdout
    assert json.loads((tmp_path / "status.json").read_text())["directory"] == str(tmp_path / "stack")
    assert "none is in use" in (tmp_path / "status.html").read_text()


def test_in_check_mode_no_file_is_written(play, tmp_path):
    done = play("status", "--check", stack_status_json=str(tmp_path / "status.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none is in use" in done.stdout
    assert "changed=0" in done.stdout
    assert not (tmp_path / "status.json").exists()


def test_a_question_is_answered_in_the_place_of_the_text(play):
    done = play("status", stack_status_query="{release: release, services: services[].name}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"release": null' in done.stdout
    assert "none is in use" not in done.stdout


def test_a_wrong_question_is_refused_without_lines_of_the_collection(play):
    done = play("status", stack_status_query="services[?health")
    assert done.returncode != 0
    assert "is not a question in JMESPath" in done.stdout
    assert "tasks/status.yml" not in done.stdout + done.stderr


def test_a_host_without_a_stack_fails_the_doctor(play):
    done = play("doctor")
    assert done.returncode != 0
    assert "FAILURE  release: No release is in use below" in done.stdout
    assert "Fix: Deploy" in done.stdout
    # Once, and without the lines of the collection's own task.
    assert done.stdout.count("FAILURE  release") == 1
    assert "tasks/doctor.yml" not in done.stdout + done.stderr
    # Nothing else is wrong with it that would be a failure of the stack.
    assert "FAILURE  services" not in done.stdout


def test_a_verification_that_fails_says_it_once_and_keeps_what_a_playbook_needs(tmp_path, engine):
    engine.container("api", {"Status": "exited", "ExitCode": 3})
    asked = {"project": "p", "services": ["api"], "timeout": 0, "socket": engine.path}
    tasks = [
        {"campaign.platform.verify": asked, "register": "first", "failed_when": False},
        {"ansible.builtin.debug": {"msg": "{{ first.failures[0].got }} of {{ first.logs | length }}, {{ first.passed }} passed"}},
        {"campaign.platform.verify": asked},
    ]
    variables = {"ansible_python_interpreter": sys.executable}
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.yml")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    shown = done.stdout + done.stderr
    assert "msg: exited (exit code 3) of 1" in shown
    failed = shown[shown.index("fatal:") :]
    assert failed.count("checks failed:") == 1
    assert "[ERROR]" not in shown
    assert "Origin:" not in shown


def test_checks_can_be_left_out_by_their_names(play):
    everything = "engine,compose,release,lock,services,jobs,restarts,oom,memory,ports,disk,clock,dns,secrets,drift,certificates,metrics,backup"
    done = play("doctor", stack_doctor_skip=everything)
    assert done.returncode == 0, done.stdout + done.stderr
    # Long lines are folded, and how long this one is depends on the directory.
    assert "0 checks, no finding. Left out: engine, compose" in " ".join(done.stdout.split())
    done = play("doctor", stack_doctor_skip="cloc")
    assert done.returncode != 0
    assert "There is no check cloc. Did you mean clock?" in done.stdout


def test_wrong_limits_are_refused(play):
    done = play("doctor", stack_doctor_disk=[95, 85])
    assert done.returncode != 0
    assert "stack_doctor_disk must be two whole numbers" in done.stdout
