# SPDX-License-Identifier: GPL-3.0-or-later
"""The module writes a program that runs by itself, its secrets for nobody else, and the host's schedule; a second run changes nothing."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.modules import backup as module

PARAMS = {
    "project": "p",
    "image": "campaign/backup:1",
    "secrets": {"password": "correct horse battery\n"},
    "settings": {"memory": "1g", "cpus": "1.0"},
    "times": ["02:30"],
    "scheduler": "cron",
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of the test's own. Nobody but root may give files away."""
    for name in ("CRON", "UNITS"):
        place = tmp_path / name.lower()
        place.mkdir()
        monkeypatch.setattr(module, name, str(place))
    return tmp_path


@pytest.fixture
def systemd(host, monkeypatch):
    """A systemd that has started what it was told to. What it was told, or asked, stands in a list, and what is not active in a set."""
    asked, inactive = [], set()
    wants = host / "units/timers.target.wants"

    def run_command(_self, command, **_options):
        word, *units = command[1:]
        if word == "is-active":
            return 0, "".join(f"{'inactive' if unit in inactive else 'active'}\n" for unit in units), ""
        asked.append(tuple(command[1:]))
        wants.mkdir(exist_ok=True)
        for unit in units[1:]:
            if word == "enable":
                (wants / unit).write_text("")
                inactive.discard(unit)
            else:
                (wants / unit).unlink()
        return 0, "", ""

    monkeypatch.setattr(module.AnsibleModule, "run_command", run_command)
    return SimpleNamespace(asked=asked, inactive=inactive, wants=wants)


@pytest.fixture
def set_up(host, run_module):
    def run(check: bool = False, **params) -> dict:
        given = {**PARAMS, "directory": str(host / "stack"), "repository": str(host / "repository"), **params}
        return run_module(module, check_mode=check, **given)

    return run


def test_a_second_run_changes_nothing_and_a_check_neither(set_up, host):
    assert set_up(check=True)["changed"]
    assert not (host / "stack").exists()
    assert set_up()["changed"]
    assert not set_up(check=True)["changed"]
    assert not set_up()["changed"]
    (host / "stack/backup/secrets/password").chmod(0o644)
    assert set_up(check=True)["changed"]
    assert set_up()["changed"]
    assert not set_up()["changed"]


def test_the_secrets_are_files_of_the_one_who_reads_them(set_up, host):
    set_up(secrets={"password": "p" * 16, "ssh_key": "key\n"})
    for name in ("password", "ssh_key"):
        status = (host / "stack/backup/secrets" / name).stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o400, module.OWNER)
    assert (host / "stack/backup/secrets").stat().st_mode & 0o777 == 0o700
    assert "p" * 16 not in (host / "stack/backup/config.json").read_text()
    # One that is not given any more goes.
    set_up(secrets={"password": "p" * 16})
    assert os.listdir(host / "stack/backup/secrets") == ["password"]


def test_the_program_runs_without_the_collection_and_without_ansible(set_up, host):
    set_up()
    run = host / "stack/backup/run"
    text = run.read_text()
    assert "env -i" in text
    done = subprocess.run([str(run), "--help"], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    for word in ("backup", "drill", "restore", "undo", "remove-old"):
        assert word in done.stdout
    imported = (
        "import ansible_collections.campaign.platform.plugins.module_utils.backup.program, sys; print([n for n in sys.modules if n.split('.')[0] == 'ansible'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path = [p for p in sys.path if 'site-packages' not in p] + ['{host}/stack/backup/program']; {imported}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_cron_calls_it_where_there_is_no_systemd(set_up, host):
    set_up(times=["02:30", "Sun 14:00"], drill_times=["Sun 04:00"])
    lines = (host / "cron/p-backup").read_text().splitlines()
    run = f"{host}/stack/backup/run"
    assert f"30 2 * * * root {run} --quiet backup >/dev/null" in lines
    assert f"0 14 * * sun root {run} --quiet backup >/dev/null" in lines
    assert f"0 4 * * sun root {run} --quiet drill >/dev/null" in lines
    assert f"17 * * * * root {run} watch >/dev/null" in lines
    set_up(drill_after_backup=True)
    assert f"30 2 * * * root {run} --quiet backup --drill >/dev/null" in (host / "cron/p-backup").read_text()
    assert set_up(times=[])["changed"]
    assert os.listdir(host / "cron") == []


def test_systemd_calls_it_where_it_runs(set_up, host, systemd):
    asked = systemd.asked
    set_up(scheduler="systemd", times=["02:30", "14:30"])
    timer = (host / "units/p-backup.timer").read_text()
    assert "OnCalendar=*-*-* 02:30:00\nOnCalendar=*-*-* 14:30:00\nPersistent=true" in timer
    assert f"ExecStart={host}/stack/backup/run --quiet backup\n" in (host / "units/p-backup.service").read_text()
    assert asked == [("daemon-reload",), ("enable", "--now", "p-backup.timer", "p-backup-watch.timer")]
    asked.clear()
    assert not set_up(scheduler="systemd", times=["02:30", "14:30"])["changed"]
    assert asked == []
    # From the one to the other.
    set_up(scheduler="cron")
    assert os.listdir(host / "units") == ["timers.target.wants"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_host_without_cron_is_told_that_nothing_calls_it(set_up, monkeypatch, is_there):
    """The directory of crontabs is there without it, as on Debian."""
    monkeypatch.setattr(module.state, "has_cron", lambda: is_there)
    told = []
    monkeypatch.setattr(module.AnsibleModule, "warn", lambda _self, text: told.append(text))
    set_up(scheduler="none")
    set_up(schedule=False)
    assert told == []
    assert set_up()["changed"]
    assert [text.partition(",")[0] for text in told] == ([] if is_there else ["Neither cron nor crond is on the host"])


def test_a_timer_that_is_off_is_put_on_by_the_next_run(set_up, systemd):
    """A set-up that was cut off, or `systemctl disable` or `stop` by hand: the files are right, and nothing calls the program."""
    set_up(scheduler="systemd")
    started = [("daemon-reload",), ("enable", "--now", "p-backup.timer", "p-backup-watch.timer")]
    for put_off in (lambda: (systemd.wants / "p-backup.timer").unlink(), lambda: systemd.inactive.add("p-backup-watch.timer")):
        systemd.asked.clear()
        put_off()
        # Who only reads leaves it as it is.
        assert not set_up(scheduler="systemd", schedule=False)["changed"]
        assert set_up(check=True, scheduler="systemd")["changed"]
        assert systemd.asked == []
        assert set_up(scheduler="systemd")["changed"]
        assert systemd.asked == started
        assert not set_up(scheduler="systemd")["changed"]


def test_the_log_is_shipped_twice_a_minute_where_that_is_asked_for(set_up, host, monkeypatch):
    monkeypatch.setattr(module.Setup, "systemctl", lambda _self, *_arguments: None)
    set_up(point_in_time=True)
    run = f"{host}/stack/backup/run --quiet ship"
    assert [line for line in (host / "cron/p-backup").read_text().splitlines() if "quiet ship" in line] == [
        f"* * * * * root {run} >/dev/null 2>&1",
        f"* * * * * root sleep 30; {run} >/dev/null 2>&1",
    ]
    assert json.loads((host / "stack/backup/config.json").read_text())["point_in_time"] is True
    set_up(point_in_time=True, scheduler="systemd")
    timer = (host / "units/p-backup-ship.timer").read_text()
    assert "OnCalendar=*-*-* *:*:00\nOnCalendar=*-*-* *:*:30\nAccuracySec=1s\n" in timer
    assert not (host / "cron/p-backup").exists()
    # No longer.
    set_up(scheduler="systemd")
    assert not (host / "units/p-backup-ship.timer").exists()
    assert "point_in_time" not in json.loads((host / "stack/backup/config.json").read_text())


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"times": ["2:30"]}, "2:30 is not a time"),
        ({"secrets": {}}, "secrets must hold password"),
        ({"secrets": {"password": "x" * 16, "other": "y"}}, "secrets must hold password"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(set_up, host, params, told):
    assert told in set_up(**params)["msg"]
    assert not (host / "stack").exists()


def test_a_directory_of_somebody_else_is_no_repository(set_up, host):
    (host / "repository").mkdir()
    (host / "repository/file").write_text("x")
    assert "holds what is not of the user 10010" in set_up()["msg"]
    (host / "repository/file").unlink()
    set_up()
    assert (host / "repository").stat().st_uid == module.OWNER
    (host / "file").write_text("")
    assert "is not a directory" in set_up(repository=str(host / "file"))["msg"]


def test_the_settings_stand_in_one_file(set_up, host):
    set_up()
    found = json.loads((host / "stack/backup/config.json").read_text())
    assert found == {
        "project": "p",
        "image": "campaign/backup:1",
        "repository": f"{host}/repository",
        "socket": "/var/run/docker.sock",
        "memory": "1g",
        "cpus": "1.0",
    }


def test_a_changed_password_is_left_to_the_program(set_up, host, monkeypatch):
    """It is told of the new one by a file, and the one in force is replaced by nobody else."""
    set_up()
    (host / "repository/config").write_text("a repository")
    secret_files, calls = host / "stack/backup/secrets", []

    def run_command(_self, command, **_options):
        calls.append((command, {path.name: path.read_text() for path in secret_files.iterdir()}))
        return 1, "", "The repository does not open. another horse battery"

    monkeypatch.setattr(module.AnsibleModule, "run_command", run_command)
    changed = {"password": "another horse battery\n"}
    assert set_up(check=True, secrets=changed)["changed"]
    assert calls == []
    told = set_up(secrets=changed)["msg"]
    assert "The password of the repository was not changed" in told
    assert "another horse" not in told
    (call,) = calls
    assert call[0] == [f"{host}/stack/backup/run", "--quiet", "change-password"]
    assert call[1] == {"password": "correct horse battery\n", "password.next": changed["password"]}
    assert (secret_files / "password.next").stat().st_mode & 0o777 == 0o400
    # Nobody takes up what was cut off but a run that is asked for it, and one that goes back does not go on with it.
    assert set_up(check=True)["changed"]
    set_up()
    assert "password.next" not in calls[-1][1]
    assert sorted(calls[-1][1].values()) == ["another horse battery\n", "correct horse battery\n"]


def test_without_a_repository_a_new_password_is_in_force_and_the_old_one_is_kept(set_up, host):
    set_up()
    changed = {"password": "another horse battery\n"}
    assert set_up(secrets=changed)["changed"]
    secret_files = host / "stack/backup/secrets"
    assert (secret_files / "password").read_text() == changed["password"]
    assert sorted(path.read_text() for path in secret_files.iterdir()) == ["another horse battery\n", "correct horse battery\n"]
    assert not set_up(secrets=changed)["changed"]


@pytest.mark.parametrize("scheduler", ["cron", "systemd"])
def test_who_only_reads_sets_up_no_schedule_and_no_repository(set_up, host, monkeypatch, scheduler):
    asked = []
    monkeypatch.setattr(module.Setup, "systemctl", lambda _self, *arguments: asked.append(arguments))
    reads = {"schedule": False, "scheduler": scheduler, "point_in_time": True}
    assert set_up(check=True, **reads)["changed"]
    assert set_up(**reads)["changed"]
    assert not set_up(**reads)["changed"]
    assert (host / "stack/backup/secrets/password").exists()
    assert json.loads((host / "stack/backup/config.json").read_text())["repository"] == f"{host}/repository"
    assert (os.listdir(host / "cron"), os.listdir(host / "units"), asked) == ([], [], [])
    assert not (host / "repository").exists()
    assert module.state.read(str(host / "stack"))["installed"] is None
    # It is what a restore that was carried out brings.
    assert set_up(scheduler=scheduler, point_in_time=True)["changed"]
    assert os.listdir(host / "cron") + os.listdir(host / "units")
    assert (host / "repository").exists()
    assert module.state.read(str(host / "stack"))["installed"]


def test_what_only_a_set_up_brings_comes_after_somebody_has_read(set_up, host):
    """Without a schedule, and with another place that whoever reads has written down already, no file differs."""
    reads, sets = {"schedule": False, "scheduler": "none"}, {"scheduler": "none"}
    set_up(**reads)
    assert set_up(check=True, **sets)["changed"]
    assert set_up(**sets)["changed"]
    assert (host / "repository").is_dir()
    assert module.state.read(str(host / "stack"))["installed"]
    assert not set_up(**sets)["changed"]
    another = {"repository": f"{host}/another"}
    set_up(**reads, **another)
    assert not (host / "another").exists()
    assert set_up(**sets, **another)["changed"]
    assert (host / "another").is_dir()
    assert not set_up(**sets, **another)["changed"]


def test_who_reads_another_repository_moves_no_backups_there(set_up, host):
    """The next backup on schedule would have gone into a copy, and nobody would have known."""
    stack, reads = host / "stack/backup", {"schedule": False, "repository": str(host / "copy"), "secrets": {"password": "the one of a copy"}}
    assert set_up()["run"] == f"{stack}/run"

    def kept() -> dict:
        return {name: (stack / name).read_bytes() for name in ("config.json", "run", "secrets/password")}

    before = kept()
    assert set_up(check=True, **reads)["changed"]
    assert not (stack / "other").exists()
    found = set_up(**reads)
    assert (found["changed"], found["run"]) == (True, f"{stack}/other/run")
    assert not set_up(**reads)["changed"]
    assert kept() == before
    assert json.loads((stack / "other/config.json").read_text())["repository"] == str(host / "copy")
    assert (stack / "other/secrets/password").read_text() == "the one of a copy"
    assert f"--directory {host}/stack --other " in (stack / "other/run").read_text()
    assert not set_up(check=True, **reads)["changed"]
    # What it needed goes with the next one who reads the stack's own, and its secrets with it.
    assert set_up(schedule=False)["run"] == f"{stack}/run"
    assert not (stack / "other").exists()
    assert not set_up()["changed"]
    # On a host on which nobody has set backups up, nothing is to be left as it is.
    module.state.update(str(host / "stack"), installed=None)
    assert set_up(**reads)["run"] == f"{stack}/run"


def test_who_only_reads_leaves_a_schedule_as_it_is(set_up, host):
    set_up()
    kept = (host / "cron/p-backup").read_bytes()
    for times in ([], ["04:30"]):
        set_up(schedule=False, times=times, settings={"memory": "2g", "cpus": "1.0"})
        assert (host / "cron/p-backup").read_bytes() == kept
    assert json.loads((host / "stack/backup/config.json").read_text())["memory"] == "2g"
    assert not set_up(settings={"memory": "2g", "cpus": "1.0"})["changed"]


def test_without_a_repository_only_the_program_is_written(set_up, host, run_module):
    """An export needs none, and leaves backups as they were set up."""
    params = {"directory": str(host / "stack"), "project": "p", "settings": {"memory": "1g"}}
    assert run_module(module, check_mode=True, **params)["changed"]
    assert run_module(module, **params)["changed"]
    assert not run_module(module, **params)["changed"]
    assert json.loads((host / "stack/backup/config.json").read_text())["repository"] == ""
    assert os.listdir(host / "stack/backup/secrets") == []
    assert os.listdir(host / "cron") == []
    assert set_up()["changed"]
    kept = {path: path.read_bytes() for path in (host / "stack/backup").rglob("*") if path.is_file()}
    assert not run_module(module, **params)["changed"]
    assert {path: path.read_bytes() for path in (host / "stack/backup").rglob("*") if path.is_file()} == kept
    assert os.listdir(host / "cron") == ["p-backup"]
    assert not set_up()["changed"]
