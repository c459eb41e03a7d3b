# SPDX-License-Identifier: GPL-3.0-or-later
"""A moment brought back: exactly what was committed by then, whatever happened to what receives and ships the log."""

import dataclasses
import io
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import moments
from deployed import await_receiver, docker, full_only

TICKS = """
CREATE TABLE IF NOT EXISTS public.ticks (n bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), filler text);
"""
# Each in a transaction of its own.
TICK = "INSERT INTO public.ticks (filler) SELECT repeat(md5(random()::text), {0});"
MOMENT = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


class Log:
    """The log of the stack's PostgreSQL."""

    def __init__(self, stack):
        self.stack, self.receiver = stack, f"{stack.project}-wal-1"

    def tick(self, seconds: float, filler: int = 1) -> None:
        """Write rows for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.stack.sql(TICK.format(filler))
            time.sleep(0.1)

    def now(self) -> str:
        return self.stack.sql(f"SELECT {MOMENT.format('clock_timestamp()')}")

    def rows(self, until: str | None = None) -> str:
        condition = f"WHERE at <= '{until}'" if until else ""
        return self.stack.sql(f"SELECT count(*), md5(string_agg(n || ' ' || at || filler, '|' ORDER BY n)) FROM public.ticks {condition}")

    def state(self) -> dict:
        return json.loads((self.stack.directory / "backup/wal.json").read_text())

    def segment(self) -> None:
        self.stack.sql("SELECT pg_switch_wal()")


@pytest.fixture(scope="module")
def log(stack) -> Iterator[Log]:
    for playbook in ("site", "backup"):
        done = stack.play(playbook, stack_point_in_time=True)
        assert done.status == 0, done.text[-4000:]
    found = Log(stack)
    stack.sql(TICKS)
    yield found
    # Turned off again, as the page says.
    for playbook in ("site", "backup"):
        done = stack.play(playbook)
        assert done.status == 0, done.text[-4000:]
    assert stack.sql("SELECT slot_name FROM pg_replication_slots") == ""
    assert not (stack.directory / "backup/wal.json").exists()


def test_a_moment_comes_back_and_the_receiver_was_away(stack, log):
    log.tick(2)
    # What is written while nobody receives it comes later.
    docker("kill", log.receiver)
    log.tick(2)
    log.segment()
    log.tick(1)
    docker("start", log.receiver)
    log.tick(1)
    before = stack.fingerprint()
    moment = log.now()
    wanted = log.rows()
    time.sleep(0.1)
    log.tick(2)
    stack.sql("DROP TABLE public.shapes; DELETE FROM public.ticks WHERE n % 2 = 0;")
    until = time.time()
    stack.well("ship")
    # Two a minute, so nothing is further behind than a minute.
    assert until - 2 < log.state()["covered"]
    listed = stack.well("list")
    assert "Every moment from" in listed, listed
    # Nothing is named, as on schedule: the newest set, and the last moment.
    said = stack.well("drill")
    assert "came back whole in" in said, said
    assert f"came back in {stack.state()['last_good_moment_drill']['seconds']:g} s" in said, said
    said = stack.run("restore", "--moment", moment)
    assert said.status == 3, said.text
    assert f"after {moment[:19]}Z would be lost" in said.text
    assert "Nothing was changed" in said.text
    for refused, why in (
        ("2020-01-01T00:00:00Z", "every moment from"),
        ("2100-01-01T00:00:00+01:00", "every moment from"),
        (moment.removesuffix("Z"), "no time zone"),
        ("yesterday", "it is not a moment"),
    ):
        said = stack.run("restore", "--moment", refused, "--confirm", stack.project)
        assert said.status == 1, said.text
        assert why in said.text
    restored = stack.well("restore", "--moment", moment, "--confirm", stack.project)
    assert "replayed" in restored or "reading every row" in restored, restored
    assert log.rows() == wanted, restored
    after = stack.fingerprint()
    assert {name: value for name, value in after.items() if before.get(name) != value} == {}
    assert stack.own() == []
    verified = stack.play("verify", stack_point_in_time=True)
    assert verified.status == 0, verified.text[-3000:]
    # What was received of the new timeline, whose history lies beside it, is still of the same cluster when the receiver starts again.
    await_receiver(stack.project, stack.sql)
    docker("restart", log.receiver)
    await_receiver(stack.project, stack.sql)
    found = docker("exec", log.receiver, "sh", "-c", "ls /var/lib/postgresql /var/lib/postgresql/wal").split()
    assert "00000002.history" in found
    assert [name for name in found if name.startswith("wal-of-")] == []


def test_after_a_restore_the_log_begins_anew(stack, log):
    """With a base backup that ship makes by itself; and the moments before the restore are still there."""
    log.tick(1)
    line = log.state()["line"]
    stack.well("ship")
    found = log.state()
    assert found["base"]["line"] == found["line"] != line
    # Nothing is written from then on, so no commit is later than the moment.
    docker("stop", f"{stack.project}-scheduler-1", f"{stack.project}-rules-engine-1")
    log.tick(1)
    time.sleep(1.2)
    moment, wanted = log.now(), log.rows()
    time.sleep(3)
    stack.well("ship")
    restored = stack.well("restore", "--moment", moment, "--confirm", stack.project)
    assert "nothing was written after that moment" in restored
    assert log.rows() == wanted


def test_a_killed_shipping_loses_nothing(stack, log):
    stack.well("ship")
    for delay in (0.3, 0.8, 1.2, 1.6, 2, 2.5):
        log.tick(1, filler=20000)
        process = stack.start("ship")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    log.segment()
    log.tick(1)
    moment, wanted = log.now(), log.rows()
    time.sleep(2)
    log.tick(1)
    stack.well("ship")
    stack.well("restore", "--moment", moment, "--confirm", stack.project)
    assert log.rows() == wanted


def test_a_backup_goes_on_beside_the_shipping(stack, log):
    stack.well("ship")
    beside = stack.start("backup")
    results = []
    while beside.poll() is None:
        log.tick(0.5, filler=2000)
        results.append(stack.run("ship").status)
    assert beside.returncode == 0, beside.stdout.read()
    assert set(results) == {0}
    moment, wanted = log.now(), log.rows()
    time.sleep(2)
    log.tick(0.5)
    stack.well("ship")
    stack.well("restore", "--moment", moment, "--confirm", stack.project)
    assert log.rows() == wanted


@full_only
def test_an_earlier_base_backup_leads_there_where_the_last_one_is_damaged(stack, log):
    """One file of it is not what was copied. The drill tells of it, and a restore does not need it."""
    stack.well("backup")
    base = moments.index(json.loads(stack.restic("snapshots", "--json")))[0][-1]
    content = bytearray(stack.dumped(base.snapshot, "base.tar"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        largest = max(archive, key=lambda member: member.size)
    content[largest.offset_data + largest.size // 2] ^= 1
    snapshot = stack.stored("base.tar", bytes(content), f"base=damaged,line={base.line}")
    later = dataclasses.replace(base, snapshot=snapshot, name="damaged", end=base.end + 0.01)
    stack.stored("mark.json", b"{}\n", moments.tags_of(later))
    log.tick(1)
    moment, wanted = log.now(), log.rows()
    time.sleep(2)
    log.tick(0.5)
    stack.well("ship")
    drilled = stack.run("drill", "--moment", moment)
    assert drilled.status == 1, drilled.text
    assert "The base backup damaged is not what was written" in drilled.text
    said = stack.well("restore", "--moment", moment, "--confirm", stack.project)
    assert "The base backup damaged is not what was written" in said
    assert "Another way is taken" in said
    assert log.rows() == wanted


def test_a_slot_that_was_lost_begins_anew(stack, log):
    stack.well("ship")
    line = log.state()["line"]
    docker("stop", log.receiver)
    stack.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    stack.sql("SELECT pg_reload_conf()")
    for _turn in range(8):
        log.tick(0.3, filler=20000)
        log.segment()
    stack.sql("CHECKPOINT")
    said = stack.run("ship")
    assert said.status == 1, said.text
    assert "away for longer" in said.text
    time.sleep(3)
    stack.well("ship")
    assert log.state()["line"] != line
    assert log.state()["base"]["line"] == log.state()["line"]
    done = subprocess.run(["docker", "exec", log.receiver, "sh", "/etc/campaign/wal.sh", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
