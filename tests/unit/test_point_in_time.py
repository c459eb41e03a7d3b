# SPDX-License-Identifier: GPL-3.0-or-later
"""The service that receives PostgreSQL's log is there where it is asked for, and nothing of the release is another one where it is not."""

import subprocess
from pathlib import Path

import program
import pytest
import yaml

PROD = {"stack_variant": "prod"}


@pytest.fixture(scope="module")
def plans() -> tuple[dict, dict]:
    return program.build(PROD), program.build({**PROD, "stack_point_in_time": True})


def composed(plan: dict) -> dict:
    return yaml.safe_load(next(file["content"] for file in plan["files"] if file["name"] == "docker-compose.yml"))


def test_it_is_a_service_with_a_volume_and_a_secret_of_its_own(plans):
    without, with_it = map(composed, plans)
    assert set(with_it["services"]) - set(without["services"]) == {"wal"}
    assert set(with_it["volumes"]) - set(without["volumes"]) == {"wal-data"}
    service = with_it["services"]["wal"]
    assert service["restart"] == "unless-stopped"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    texts = program.secret_texts(plans[1])
    assert texts["wal_pgpass"].startswith("postgres:5432:*:campaign_wal_login:")
    assert "wal_pgpass" not in program.secret_texts(plans[0])


def test_no_other_service_is_recreated_for_it(plans):
    without, with_it = map(composed, plans)
    for name, body in without["services"].items():
        # The job's SQL is another one, which is what creates the login.
        if name != "postgres-bootstrap":
            assert with_it["services"][name] == body


def test_the_login_may_copy_the_cluster_and_nothing_else(plans):
    without, with_it = (program.secret_texts(plan)["postgres-bootstrap_bootstrap_sql"] for plan in plans)
    added = [line for line in with_it.splitlines() if line not in without.splitlines()]
    own = [line for line in added if "campaign_wal_login" in line]
    assert any("LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS" in line for line in own)
    assert not [line for line in own if line.startswith("GRANT")]
    assert any("host replication campaign_wal_login samenet scram-sha-256" in line for line in own)
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '1GB';" in added
    assert not [line for line in without.splitlines() if "wal" in line.lower()]


@pytest.fixture
def script(plans, tmp_path):
    """Run the receiver's script with an own psql, which knows a system and a slot."""
    (text,) = [config["content"] for config in plans[1]["configs"] if config["name"] == "wal.sh"]
    (tmp_path / "wal.sh").write_text(text)

    def run(there: str, here: str, what: str = "check") -> subprocess.CompletedProcess:
        answers = f"case \"$*\" in *IDENTIFY*) echo '77|1|{there}|' ;; *READ*) echo 'physical|{here}|1' ;; *SHOW*) echo 1MB ;; esac"
        (tmp_path / "psql").write_text(f"#!/bin/sh\n{answers}\n")
        (tmp_path / "psql").chmod(0o755)
        path = f"{tmp_path}:/usr/bin:/bin"
        return subprocess.run(["/bin/sh", str(tmp_path / "wal.sh"), what], capture_output=True, text=True, env={"PATH": path}, timeout=20)

    return run


@pytest.mark.parametrize(
    ("there", "here", "behind", "is_healthy"),
    [
        ("0/24DE548", "0/24DE548", 0, True),
        ("0/24DE548", "0/24DE000", 0x548, True),
        ("2/10", "1/FFFFFFF0", 32, True),
        # The receiver is told later than it has it.
        ("0/10", "0/20", 0, True),
        ("0/8000000", "0/0", 134217728, False),
    ],
)
def test_its_health_says_how_far_behind_it_is(script, there, here, behind, is_healthy):
    done = script(there, here)
    assert done.stdout == f"{behind} bytes behind\n"
    assert (done.returncode == 0) is is_healthy
    assert script(there, here, "behind").stdout == f"{behind}\n"


def test_a_slot_that_is_gone_is_no_health(script):
    done = script("0/10", "")
    assert done.returncode != 0
    assert "has no slot" in done.stderr


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (None, ["wal"]),
        (77, ["wal"]),
        # A header that is not written yet.
        (0, ["wal"]),
        (7713089784327467046, ["wal", "wal-of-7713089784327467046-until-"]),
    ],
)
def test_the_log_of_another_cluster_is_set_aside(script, tmp_path, segment, expected):
    """After an upgrade of PostgreSQL the receiver would go on after what it has, of which the new server knows nothing."""
    script("0/10", "0/10")
    text = (tmp_path / "wal.sh").read_text()
    assert text.count("directory=/var/lib/postgresql/wal\n") == 1
    (tmp_path / "wal.sh").write_text(text.replace("/var/lib/postgresql", str(tmp_path / "volume")))
    (tmp_path / "pg_receivewal").write_text("#!/bin/sh\n")
    (tmp_path / "pg_receivewal").chmod(0o755)
    (tmp_path / "volume/wal").mkdir(parents=True)
    # It comes first in the directory, and has no header: what is at the place of one is text.
    (tmp_path / "volume/wal/00000002.history").write_text("1\t0/A000000\tbefore 2026-11-27 05:00:00.000000+00\n")
    if segment is not None:
        (tmp_path / "volume/wal/000000020000000000000002.partial").write_bytes((bytes(24) + segment.to_bytes(8, "little")).ljust(2**20, b"\0"))

    def receive() -> int:
        return subprocess.run(["/bin/sh", str(tmp_path / "wal.sh")], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, timeout=20).returncode

    assert receive() == 0
    found = sorted(path.name for path in (tmp_path / "volume").iterdir())
    assert [name.rstrip("0123456789T") if "until" in name else name for name in found] == expected
    # A server that does not answer says nothing of what is there.
    (tmp_path / "psql").write_text("#!/bin/sh\nexit 2\n")
    assert receive() != 0
    assert sorted(path.name for path in (tmp_path / "volume").iterdir()) == found


SEGMENT = "000000010000000000000002"
WHOLE = (bytes(24) + (77).to_bytes(8, "little")).ljust(2**20, b"\0")


@pytest.fixture
def received(script, tmp_path):
    """Run the script over a volume with some files, as long as pg_receivewal has something to do; return how it ended, and the volume."""

    def run(files: dict[str, bytes], slot: str) -> tuple[subprocess.CompletedProcess, Path]:
        script("0/10", "0/10")
        (tmp_path / "wal.sh").write_text((tmp_path / "wal.sh").read_text().replace("/var/lib/postgresql", str(tmp_path / "volume")))
        (tmp_path / "psql").write_text((tmp_path / "psql").read_text().replace("physical|0/10|1", slot))
        (tmp_path / "pg_receivewal").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
        (tmp_path / "pg_receivewal").chmod(0o755)
        (tmp_path / "volume/wal").mkdir(parents=True, exist_ok=True)
        (tmp_path / "volume/line.json").write_text("{}")
        for name, content in files.items():
            (tmp_path / "volume/wal" / name).write_bytes(content)
        path = f"{tmp_path}:/usr/bin:/bin"
        done = subprocess.run(["/bin/sh", str(tmp_path / "wal.sh")], env={"PATH": path}, capture_output=True, text=True, timeout=20)
        return done, tmp_path / "volume"

    return run


@pytest.mark.parametrize(
    ("names", "slot", "expected"),
    [
        # The slot of a cluster that came back, whose position may be of a segment that the server does not keep any more.
        ([], "physical|0/10|1", ["--drop-slot", "--create-slot", "--directory"]),
        (["00000002.history"], "physical|0/10|1", ["--drop-slot", "--create-slot", "--directory"]),
        ([], "||", ["--create-slot", "--directory"]),
        # What is here is gone on after.
        (["000000010000000000000002"], "physical|0/10|1", ["--create-slot", "--directory"]),
        (["000000010000000000000002.partial"], "physical|0/10|1", ["--create-slot", "--directory"]),
    ],
)
def test_a_slot_of_which_nothing_is_here_is_made_anew(received, tmp_path, names, slot, expected):
    done, _volume = received(dict.fromkeys(names, WHOLE), slot)
    assert done.returncode == 0, done.stderr
    called = [next(way for way in ("--drop-slot", "--create-slot", "--directory") if way in line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert called == expected
    assert sorted(path.name for path in (tmp_path / "volume/wal").iterdir()) == names
    # Of another log, nothing is shipped into the line of before.
    assert (tmp_path / "volume/line.json").exists() == ("--drop-slot" not in expected and bool(names))


def test_a_log_whose_slot_is_gone_is_set_aside_with_its_line(received):
    """As when points in time were turned off and on again: what comes next is not there any more, and the deploy would be called a good one."""
    done, volume = received({SEGMENT: WHOLE}, "||")
    assert done.returncode == 0, done.stderr
    (aside,) = [path for path in volume.iterdir() if path.name.startswith("wal-of-77-until-")]
    assert [path.name for path in aside.iterdir()] == [SEGMENT]
    assert list((volume / "wal").iterdir()) == []
    assert not (volume / "line.json").exists()


def test_a_file_that_is_shorter_than_a_segment_does_not_stop_the_receiver(received):
    """As a full disk leaves it. pg_receivewal would wait for somebody to remove it, again and again."""
    done, volume = received({SEGMENT: WHOLE, f"{SEGMENT[:-1]}3.partial": b"short"}, "physical|0/10|1")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (volume / "wal").iterdir()] == [SEGMENT]
    assert (volume / "line.json").exists()
    done, volume = received({f"{SEGMENT[:-1]}3.partial": WHOLE}, "physical|0/10|1")
    assert f"{SEGMENT[:-1]}3.partial" in [path.name for path in (volume / "wal").iterdir()]


def test_where_only_such_a_file_is_there_the_slot_is_made_anew(received, tmp_path):
    done, volume = received({f"{SEGMENT}.partial": b"short"}, "physical|0/10|1")
    assert done.returncode == 0, done.stderr
    assert "--drop-slot" in (tmp_path / "calls").read_text()
    assert list((volume / "wal").iterdir()) == []
