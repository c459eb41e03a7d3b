# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of backups: what is late, what failed, and to whom."""

import json
import re
import time

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import state

NOW = 1_795_000_000.0
CONFIG = {"project": "p", "repository": "/srv/backup", "late_hours": 26, "drill_days": 8}


def ago(hours: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 3600 * hours))


def known(**rows) -> dict:
    good = {"set": "s", "at": ago(1), "result": "ok", "seconds": 21.0}
    found = {"installed": ago(1000), "last_run": {"result": "ok", "ended": ago(1)}, "last_success": {"moment": ago(1), "bytes": 5, "seconds": 2}}
    return {**state._EMPTY, **found, "last_drill": good, "last_good_drill": good, **rows}


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ({}, []),
        ({"last_success": {"moment": ago(25.9)}}, []),
        ({"last_success": {"moment": ago(26.1)}}, ["backup late"]),
        ({"last_success": None, "last_run": None, "last_drill": None, "last_good_drill": None}, ["backup late"]),
        ({"installed": ago(2), "last_success": None, "last_run": None, "last_drill": None, "last_good_drill": None}, []),
        ({"last_run": {"result": "failed", "ended": ago(1), "error": "why"}}, ["backup failed"]),
        ({"last_run": {"result": "missing", "ended": ago(1), "error": "why"}}, ["backup failed"]),
        ({"last_drill": {"result": "failed", "set": "s", "at": ago(1), "error": "why"}}, ["drill failed"]),
        # What is no damage.
        ({"last_drill": {"result": "ok", "remarks": ["The lifecycle of the bucket b was not brought back."]}}, ["not brought back"]),
        ({"last_drill": None, "last_good_drill": None}, ["never restored"]),
        ({"last_good_drill": {"at": ago(8 * 24 + 25)}}, ["drill late"]),
        # What is known of sets may be lost, and the drill was as long ago.
        ({"last_success": None, "last_good_drill": {"at": ago(8 * 24 + 25)}}, ["backup late", "drill late"]),
        # The clock of the host that made it was not quite this one's.
        ({"newest_set": time.strftime("%Y%m%dT%H%M%SZ-ab12", time.gmtime(NOW + 299))}, []),
        ({"newest_set": time.strftime("%Y%m%dT%H%M%SZ-ab12", time.gmtime(NOW + 301))}, ["clock wrong"]),
        ({"newest_set": "20991231T235959Z-ab12"}, ["clock wrong"]),
        ({"newest_set": "my-own"}, []),
        # Nobody asked for moments.
        ({"log": {"covered": NOW - 1000, "error": "why"}}, []),
    ],
)
def test_what_is_wrong_is_found(rows, names):
    assert [row["name"] for row in state.findings(known(**rows), CONFIG, NOW)] == names


@pytest.mark.parametrize(
    ("log", "seen"),
    [
        ({"covered": NOW - 299, "line": "a", "base": {"line": "a"}}, None),
        (
            {"covered": NOW - 301, "line": "a", "base": {"line": "a"}, "error": "The service wal is away."},
            "last 301 s could not be .*: The service wal is away",
        ),
        ({"covered": NOW - 1, "line": "b", "base": {"line": "a"}}, "No moment can be brought back yet"),
        (None, "No moment can be brought back yet"),
    ],
)
def test_a_log_that_is_late_is_found(log, seen):
    found = state.findings(known(log=log, last_good_moment_drill={"at": ago(1)}), {**CONFIG, "point_in_time": True}, NOW)
    assert [row["name"] for row in found] == (["log late"] if seen else [])
    assert not seen or re.search(seen, found[0]["seen"])
    # Set up a moment ago.
    assert state.findings(known(log=None, installed=ago(0.05)), {**CONFIG, "point_in_time": True}, NOW) == []


@pytest.mark.parametrize(
    ("tried", "name"),
    [({"at": ago(1), "seconds": 30.0}, None), ({"at": ago(8 * 24 + 25), "seconds": 30.0}, "drill late"), (None, "never restored")],
)
def test_a_moment_that_nobody_has_brought_back_is_found(tried, name):
    log = {"covered": NOW - 1, "line": "a", "base": {"line": "a"}}
    found = known(log=log, last_good_moment_drill=tried)
    rows = state.findings(found, {**CONFIG, "point_in_time": True}, NOW)
    assert [row["name"] for row in rows] == ([name] if name else [])
    assert all("moment" in row["seen"] for row in rows)
    # Not where moments are not kept any more.
    assert state.findings(found, CONFIG, NOW) == []


def test_what_ships_the_log_has_a_file_of_its_own(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/wal.json").write_text('{"covered": 1}')
    assert state.update(str(tmp_path), sets=None)["log"] == {"covered": 1}
    assert "log" not in json.loads((tmp_path / "backup/status.json").read_text())


def test_a_stack_without_backups_has_no_summary(tmp_path):
    assert state.summary(str(tmp_path), NOW) is None


def test_a_stack_that_was_only_read_for_has_no_summary(tmp_path):
    """What nobody has set up is not late: a restore that nobody has confirmed writes a configuration, too."""
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/config.json").write_text(json.dumps(CONFIG))
    assert state.summary(str(tmp_path), NOW) is None
    state.update(str(tmp_path), installed=ago(1))
    assert state.summary(str(tmp_path), NOW)["findings"] == []


def test_the_summary_says_how_old_and_how_long(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/config.json").write_text(json.dumps(CONFIG))
    state.update(str(tmp_path), **known())
    found = state.summary(str(tmp_path), NOW)
    assert (found["age_seconds"], found["drill_age_seconds"], found["recovery_seconds"], found["findings"]) == (3600, 3600, 21.0, [])
    assert (tmp_path / "backup/status.json").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host without cron, whose places are the test's own."""
    for place in ("cron.d", "units", "bin", "backup"):
        (tmp_path / place).mkdir()
    monkeypatch.setattr(state, "CRONTABS", str(tmp_path / "cron.d"))
    monkeypatch.setattr(state, "UNITS", str(tmp_path / "units"))
    monkeypatch.setattr(state, "CRONS", (str(tmp_path / "bin/crond"),))
    (tmp_path / "backup/config.json").write_text(json.dumps(CONFIG))
    state.update(str(tmp_path), **known())
    return tmp_path


def seen(host) -> list[str]:
    return [row["seen"] for row in state.summary(str(host), NOW)["findings"] if row["name"] == "nothing calls it"]


def test_a_crontab_that_nobody_reads_is_told(host):
    """/etc/cron.d is there on a Debian without cron: e2fsprogs has a file in it."""
    assert seen(host) == []
    (host / "cron.d/p-backup").write_text("")
    (told,) = seen(host)
    assert "Neither cron nor crond is on the host" in told
    (host / "bin/crond").write_text("")
    (host / "bin/crond").chmod(0o755)
    assert seen(host) == []


def test_a_timer_that_is_off_is_told(host):
    (host / "units/p-backup.timer").write_text("")
    assert seen(host) == ["The timer p-backup.timer is not enabled, so nothing calls the backup."]
    (host / "units/timers.target.wants").mkdir()
    (host / "units/timers.target.wants/p-backup.timer").symlink_to("../p-backup.timer")
    assert seen(host) == []


def test_metrics_can_be_read_by_prometheus(tmp_path):
    state.publish({**CONFIG, "prometheus_directory": str(tmp_path)}, known())
    lines = (tmp_path / "p_backup.prom").read_text().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['campaign_backup_last_success_timestamp_seconds{project="p"}'] == str(int(NOW - 3600))
    assert values['campaign_backup_last_run_failed{project="p"}'] == "0"
    assert all(f"# TYPE {name.partition('{')[0]} gauge" in lines for name in values)
    # A directory that is gone is no reason to fail.
    state.publish({**CONFIG, "prometheus_directory": str(tmp_path / "gone")}, known())


def test_the_hook_is_told_by_arguments_and_on_its_input(tmp_path):
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\nprintf \'%s|%s|\' "$1" "$2" > {tmp_path}/told; cat >> {tmp_path}/told\n')
    hook.chmod(0o755)
    assert state.tell({**CONFIG, "hook": [str(hook)]}, "failed", "the target is full") is None
    event, message, text = (tmp_path / "told").read_text().split("|")
    assert (event, message) == ("failed", "the target is full")
    assert json.loads(text) == {"project": "p", "event": "failed", "message": "the target is full"}


def test_a_hook_that_fails_is_told():
    assert state.tell({**CONFIG, "hook": ["/bin/false"]}, "failed", "x") == "the hook ended with exit code 1"
    assert "does not run" in state.tell({**CONFIG, "hook": ["/nowhere/hook"]}, "failed", "x")
    assert state.tell(CONFIG, "failed", "x") is None


@pytest.mark.parametrize(
    ("text", "calendar", "crontab"),
    [("02:30", "*-*-* 02:30:00", "30 2 * * *"), ("Sun 04:05", "Sun *-*-* 04:05:00", "5 4 * * sun"), ("23:59", "*-*-* 23:59:00", "59 23 * * *")],
)
def test_a_time_as_systemd_and_as_cron_spell_it(text, calendar, crontab):
    assert (state.on_calendar(text), state.in_crontab(text)) == (calendar, crontab)


@pytest.mark.parametrize("text", ["24:00", "2:30", "02:60", "Son 02:30", "02:30\n", "*:00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(text)):
        state.parsed_time(text)
