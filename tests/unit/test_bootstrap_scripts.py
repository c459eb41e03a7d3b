# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootstrap jobs' scripts, run with stand-ins for the programs that they call, and what they may call in upstream's images."""

import os
import re
import subprocess
from pathlib import Path

import program
import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden/prod"
# Bash and coreutils: what upstream's image of MinIO has beside mc.
SHELL = {"cat", "do", "done", "echo", "else", "exit", "export", "fi", "if", "set", "sleep", "then", "timeout", "until", "while", "["}


@pytest.fixture
def run(tmp_path):
    """Run the bootstrap of PostgreSQL; ``programs`` are shell texts by name. sleep takes no time, and the clock goes on by a second each time it is read."""

    def start(**programs: str) -> subprocess.CompletedProcess:
        for name, text in {"sleep": "", "date": f"grep -c ^date {tmp_path}/calls", **programs}.items():
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{text}\n')
            path.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGHOST": "postgres"}
        script = ["sh", str(GOLDEN / "postgres-bootstrap.sh")]
        return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return start


def test_a_server_that_is_starting_is_waited_for(run, tmp_path):
    done = run(pg_isready=f"[ $(grep -c pg_isready {tmp_path}/calls) -gt 100 ]", getent="", psql="")
    assert (done.returncode, done.stderr) == (0, "")
    # In a database that is there in every cluster.
    assert "psql --no-psqlrc --quiet --no-password -v ON_ERROR_STOP=1 -d postgres -f /run/secrets/bootstrap_sql" in (tmp_path / "calls").read_text()


def test_a_server_that_does_not_stay_up_is_given_up_soon(run, tmp_path):
    # Its name is known while its container runs, and gone until it is started again.
    done = run(pg_isready="exit 2", getent=f"[ $(($(grep -c getent {tmp_path}/calls) % 2)) = 0 ]", psql="")
    assert done.returncode == 1
    found = re.search(r"postgres does not answer after (\d+) s; (\d+) times its name was not known either", done.stderr)
    assert found, done.stderr
    assert int(found[1]) < 20
    assert int(found[2]) >= 3
    assert "psql" not in (tmp_path / "calls").read_text()


def test_a_server_that_never_answers_is_given_up_in_the_end(run):
    done = run(pg_isready="exit 2", getent="", psql="")
    assert (done.returncode, "after 180 s; 0 times" in done.stderr) == (1, True), done.stderr


def test_a_name_that_is_unknown_for_a_moment_is_no_reason(run, tmp_path):
    done = run(pg_isready=f"[ $(grep -c pg_isready {tmp_path}/calls) -gt 100 ]", getent=f"[ $(grep -c getent {tmp_path}/calls) -gt 2 ]", psql="")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("status", "is_told"), [(0, False), (1, False), (2, True), (3, False)])
def test_a_server_that_refuses_its_administrator_is_told_what_to_do(run, status, is_told):
    done = run(pg_isready="", getent="", psql=f"exit {status}")
    assert done.returncode == status
    assert ("remove the volume postgres-data" in done.stderr) == is_told


def script_of(name: str, tmp_path: Path, **files: str) -> Path:
    """Return a copy of a job's script that reads its files below a directory, with these in it."""
    for path, content in files.items():
        (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / path).write_text(content)
    script = tmp_path / name
    text = (GOLDEN / name).read_text().replace("/run/", f"{tmp_path}/files/").replace("> /tmp/", f"> {tmp_path}/").replace("ask /tmp/", f"ask {tmp_path}/")
    script.write_text(text)
    return script


def job(script: Path, tmp_path: Path, *arguments: str, **programs: str) -> subprocess.CompletedProcess:
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGHOST": "postgres"}
    return subprocess.run(["sh", str(script), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)


PSQL = 'echo "${PGPASSFILE##*/}" >> %s/calls; [ "${PGPASSFILE##*/}" = "%s" ] || exit %d'


@pytest.mark.parametrize(("right", "calls", "status"), [("old_a", ["", "old_a"], 0), ("old_b", ["", "old_a", "old_b"], 0), ("none", ["", "old_a", "old_b"], 2)])
def test_the_password_that_the_volume_still_has_is_found(tmp_path, right, calls, status):
    script = script_of("postgres-bootstrap.sh", tmp_path, **{"earlier/pgpass/old_a": "a", "earlier/pgpass/old_b": "b", "secrets/bootstrap_sql": ""})
    done = job(script, tmp_path, pg_isready="", psql=PSQL % (tmp_path, right, 2))
    assert done.returncode == status
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert ("refuses its own administrator" in done.stderr) == (status == 2)


def test_what_fails_for_another_reason_is_not_tried_with_other_passwords(tmp_path):
    script = script_of("postgres-bootstrap.sh", tmp_path, **{"earlier/pgpass/old_a": "a", "secrets/bootstrap_sql": ""})
    done = job(script, tmp_path, pg_isready="", psql=PSQL % (tmp_path, "old_a", 3))
    assert done.returncode == 3
    assert (tmp_path / "calls").read_text().splitlines() == [""]


# What a server answers to the commands on its standard input: to AUTH only with the right password.
REDIS = r"""
for word in "$@"; do [ "$word" != ping ] || { echo PONG; exit; }; done
in=
while read -r line; do
  echo "$line" >> %s/said
  case $line in
    "AUTH bootstrap %s") in=yes; echo OK ;;
    AUTH*) echo "WRONGPASS invalid username-password pair or user is disabled."; echo ;;
    *) if [ -z "$in" ]; then echo "NOAUTH Authentication required."; elif [ "$line" = "ACL USERS" ]; then printf 'default\nhealth\nbootstrap\napi\ngone\n'
       else echo "%s"; fi ;;
  esac
done
"""
USERS = {
    "secrets/admin_password": "new",
    "earlier/admin_password/a": "old",
    "secrets/users_prepare": "ACL SETUSER api on #1\n",
    "secrets/users_finish": "ACL SETUSER api resetpass #1\n",
    "secrets/users_known": "default\nhealth\nbootstrap\napi\n",
}


@pytest.mark.parametrize("password", ["new", "old"])
def test_redis_is_told_of_its_users_whatever_password_its_administrator_has(tmp_path, password):
    script = script_of("redis-bootstrap.sh", tmp_path, **USERS)
    done = job(script, tmp_path, "prepare", **{"redis-cli": REDIS % (tmp_path, password, "OK")})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "said").read_text().splitlines()[-2:] == [f"AUTH bootstrap {password}", "ACL SETUSER api on #1"]


def test_redis_loses_what_no_service_signs_in_with(tmp_path):
    script = script_of("redis-bootstrap.sh", tmp_path, **USERS)
    done = job(script, tmp_path, "finish", **{"redis-cli": REDIS % (tmp_path, "new", "OK")})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    said = [line for line in (tmp_path / "said").read_text().splitlines() if not line.startswith("AUTH")]
    assert said == ["ACL SETUSER api resetpass #1", "ACL USERS", "ACL DELUSER gone"]


@pytest.mark.parametrize(("password", "answer", "words"), [("another", "OK", "refuses its own administrator"), ("new", "ERR Error in #1", "refuses a user")])
def test_what_redis_refuses_is_told_without_what_it_says(tmp_path, password, answer, words):
    script = script_of("redis-bootstrap.sh", tmp_path, **USERS)
    done = job(script, tmp_path, "prepare", **{"redis-cli": REDIS % (tmp_path, password, answer)})
    assert done.returncode == 1
    assert words in done.stderr
    assert "#1" not in done.stderr


MC = r"""
echo "$@" >> %s/said
case "$*" in "alias set"*) cat > /dev/null ;; "admin user info -- stack gone") exit 1 ;; esac
"""


def test_minio_loses_the_accounts_of_earlier_keys_and_no_other(tmp_path):
    files = {"secrets/api_access_key": "new", "secrets/root_credentials": "root\npassword\n"}
    files |= {f"earlier/api_access_key/{number}": key for number, key in enumerate(("old", "new", "gone", "-dashed"))}
    done = job(script_of("retire.sh", tmp_path, **files), tmp_path, mc=MC % tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    removed = [line for line in (tmp_path / "said").read_text().splitlines() if " rm " in line]
    assert removed == ["admin user rm -- stack old", "admin user rm -- stack -dashed"]


def test_the_bootstrap_completes_a_cluster_that_was_interrupted():
    sql = (GOLDEN / "secrets/postgres-bootstrap_bootstrap_sql").read_text()
    database, connected, extension = (sql.index(text) for text in ("CREATE DATABASE", '\\connect "campaign_db"', "CREATE EXTENSION IF NOT EXISTS postgis"))
    # The log is told to keep statements with passwords out, in the session that has them.
    assert database < connected < extension < sql.index("SET log_statement = 'none'") < sql.index("PASSWORD")


def test_no_statement_with_a_password_is_kept_by_the_server():
    sql = (GOLDEN / "secrets/postgres-bootstrap_bootstrap_sql").read_text()
    # Of these a superuser alone decides, and others would be refused.
    start, end = sql.index("\\if :is_superuser"), sql.index("\\endif")
    kept = (
        "SET log_min_duration_statement = -1;",
        "('log_min_duration_sample', -1)",
        "('log_transaction_sample_rate', 0)",
        "SET pg_stat_statements.track_utility = off;",
    )
    assert all(start < sql.index(text) < end for text in kept)
    printed = [sql.index(f"SET debug_print_{kind} = off;") for kind in ("parse", "rewritten", "plan")]
    assert end < min(printed)
    assert max(printed) < sql.index("PASSWORD")


def test_a_database_that_no_service_logs_in_to_is_not_open_to_everybody():
    others = dict.fromkeys(("api", "frontend", "minio", "page", "redis", "rules-engine", "scheduler"))
    sql = program.golden("local", stack_services=others)["secrets/postgres-bootstrap_bootstrap_sql"]
    assert 'REVOKE ALL ON DATABASE "campaign_db" FROM PUBLIC;\n' in sql
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC;\n" in sql
    assert "GRANT CONNECT" not in sql


def test_what_upstream_adds_to_a_database_is_not_open_to_everybody():
    sql = (GOLDEN / "secrets/postgres-bootstrap_bootstrap_sql").read_text()
    assert re.search(r"REVOKE ALL ON SCHEMA %I FROM PUBLIC.*'tiger', 'tiger_data', 'topology'\) \\gexec", sql)


def test_the_bootstrap_of_minio_calls_nothing_that_upstream_s_image_does_not_have():
    script = re.sub(r"^#.*$|'[^']*'|\"[^\"]*\"|\$\(\([^)]*\)\)", "", (GOLDEN / "bootstrap.sh").read_text(), flags=re.MULTILINE)
    commands = set(re.findall(r"(?:^|[;|&(]|\bdo |\bthen |\buntil |\bif |\btimeout 1 )\s*([a-z_\[]+)(?=[ \n;)]|$)", script, re.MULTILINE))
    assert "mc" in commands
    assert commands - SHELL <= {"mc"}


def test_a_new_cluster_has_a_locale_that_every_image_has():
    compose = (GOLDEN / "docker-compose.yml").read_text()
    assert 'POSTGRES_INITDB_ARGS: "--locale=C.UTF-8 ' in compose
