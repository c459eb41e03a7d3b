# SPDX-License-Identifier: GPL-3.0-or-later
"""The entrypoint of the image with PostgreSQL, run over a directory in the place of its volume and with stand-ins for the programs that it calls."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "files/images/postgis/docker-entrypoint.sh"
VOLUME = "/var/lib/postgresql"
PROGRAMS = {
    "initdb": 'for word; do case $word in --pgdata=*) mkdir "${word#*=}" && echo 18 > "${word#*=}/PG_VERSION" ;; esac; done',
    "pg_ctl": "",
    "createdb": "",
    "psql": "",
    "postgres": "echo started",
}


@pytest.fixture
def start(tmp_path):
    """Start the image of PostgreSQL 18 over a volume; ``data`` is where in it the server has its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "volume").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = tmp_path / "docker-entrypoint.sh"
    script.write_text(SCRIPT.read_text().replace(VOLUME, str(tmp_path / "volume")))

    def run(data: str = "18/docker") -> subprocess.CompletedProcess:
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PG_MAJOR": "18", "PGDATA": f"{tmp_path}/volume/{data}", "POSTGRES_PASSWORD": "x"}
        return subprocess.run(["sh", str(script), "postgres"], env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


def cluster(place: Path, major: str) -> None:
    for name in (".", "base/5"):
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name / "PG_VERSION").write_text(f"{major}\n")
    (place / "global").mkdir()


def test_a_cluster_is_made_on_an_empty_volume_and_found_again(start, tmp_path):
    for _time in range(2):
        assert (start().returncode, start().stdout) == (0, "started\n")
    assert (tmp_path / "volume/18/docker/PG_VERSION").read_text() == "18\n"


@pytest.mark.parametrize("place", [".", "data", "pgdata", "17/docker", "data/pgdata", "17/docker.making"])
def test_no_cluster_is_made_beside_another_one(start, tmp_path, place):
    cluster(tmp_path / "volume" / place, "17")
    before = sorted((tmp_path / "volume").rglob("*"))
    done = start()
    assert (done.returncode, done.stdout, sorted((tmp_path / "volume").rglob("*"))) == (1, "", before)
    where = os.path.normpath(tmp_path / "volume" / place)
    assert f"postgres: {where} has data of PostgreSQL 17, and this image, which has PostgreSQL 18, reads {tmp_path}/volume/18/docker" in done.stderr
    assert "Nothing was changed. The playbook campaign.platform.upgrade_postgres brings data of another major version over\n" in done.stderr


def test_the_own_cluster_is_started_whatever_lies_beside_it(start, tmp_path):
    for place, major in (("18/docker", "18"), ("17/docker", "17"), ("pgdata", "16")):
        cluster(tmp_path / "volume" / place, major)
    assert (start().returncode, start().stdout) == (0, "started\n")
    (tmp_path / "volume/pgdata/PG_VERSION").write_text("18\n")
    assert start("pgdata").returncode == 0


def test_what_is_no_cluster_is_in_nobody_s_way(start, tmp_path):
    """One that was interrupted half-way is made anew, and of a cluster that is gone a database's file may be left."""
    cluster(tmp_path / "volume/18/docker.making", "18")
    (tmp_path / "volume/base/5").mkdir(parents=True)
    (tmp_path / "volume/base/5/PG_VERSION").write_text("17\n")
    assert (start().returncode, start().stdout) == (0, "started\n")
    assert not (tmp_path / "volume/18/docker.making").exists()
