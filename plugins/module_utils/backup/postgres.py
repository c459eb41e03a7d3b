# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's part of a set: a dump by the server's own programs, the roles, and what tells whether a copy holds the same.

All is asked in the server's container over loopback, so it is of the server's own version and needs no password. What the programs say is wrong may quote rows,
so of it only what names an object is told.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Process

# Where images keep a cluster below their volume: from 18 on by major version, before at the top, or one level down, such as in `data` or `pgdata`.
_PLACES = ("PG_VERSION", "*/PG_VERSION", "*/*/PG_VERSION")
# The same text of a row wherever it is asked, and no end before all is read.
_SETTINGS = """SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0;
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'; SET extra_float_digits = 1;
SET xmloption = 'content'; SET search_path = pg_catalog; SET row_security = off; SET client_encoding = 'UTF8';
"""
# Before PostgreSQL 17 there is no such setting, and nothing to turn off.
_OPTIONAL = "SET transaction_timeout = 0;"
# Tables with rows of their own, with the columns that a dump has: what is generated is computed anew. Of an extension's tables those rows count that a dump
# has: those that the extension says are the user's.
_TABLES = r"""
SELECT json_build_object('name', format('%I.%I', n.nspname, c.relname), 'where', coalesce(x.condition, ''), 'columns',
  (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attname), '[]') FROM pg_attribute a
   WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = ''))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_extension) x ON x.oid = c.oid
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
AND (x.oid IS NOT NULL OR NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
ORDER BY n.nspname, c.relname;
"""
# A sum of digests does not depend on the order of the rows, and needs no memory.
# The bytes are those of the database, of which some are of no encoding.
_HASH = "coalesce(sum(('x' || encode(substr(sha256(convert_to({0}, getdatabaseencoding())), 1, 8), 'hex'))::bit(64)::bigint::numeric), 0)::text"
# Pages without what is zero at their end: a dump writes the holes of a large object as zeros.
_LARGE_OBJECTS = f"""
SELECT json_build_object('count', (SELECT count(*) FROM pg_largeobject_metadata), 'hash',
  (SELECT {_HASH.format("loid || ':' || pageno || ':' || encode(trimmed, 'hex')")}
   FROM (SELECT loid, pageno, rtrim(data, '\\x00'::bytea) AS trimmed FROM pg_largeobject) p WHERE trimmed <> ''::bytea));
"""
_POSTGIS = """
SELECT json_build_object('extensions', (SELECT coalesce(json_object_agg(extname, extversion), '{}') FROM pg_extension));
"""
# Two points a degree of longitude apart at the equator are 111.3 km apart.
_SPATIAL = "SELECT round({0}.ST_DistanceSphere({0}.ST_MakePoint(0, 0), {0}.ST_MakePoint(1, 0)))::int;"
SCHEMA_OF_POSTGIS = (
    "SELECT coalesce((SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'postgis'), '');"
)
# Without what an interrupted DROP DATABASE left, which nobody can connect to (-2, see pg_database in PostgreSQL's documentation).
_DATABASES = "SELECT to_json(datname::text) FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname;"
# Of every cluster, for administration. People keep data in it all the same.
ADMINISTRATION = "postgres"
# Stronger than a setting of the database or of the role, which comes back with it before its tables do.
# And in the language in which what goes wrong is read.
WRITABLE = (
    "--env",
    "PGOPTIONS=-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c lc_messages=C",
    "--env",
    "LC_ALL=C",
)
# Before this major version there is neither a trigger on login nor the setting that turns it off, and a server refuses what it does not know.
LOGIN_TRIGGERS = 17
_NO_TRIGGERS = "event_triggers=off"
# Which version it is says the server's program, because a session that was asked would have fired the trigger already.
_CLIENT = (
    'v=$(postgres --version 2>/dev/null); v=${v#*") "}; v=${v%%[!0-9]*}; '
    f'[ "${{v:-0}}" -lt {LOGIN_TRIGGERS} ] || export PGOPTIONS="$PGOPTIONS -c {_NO_TRIGGERS}"; exec "$@"'
)
FILL_SECONDS = 3600.0
# What a cluster's own files may say otherwise, for another place than a throw-away container.
ELSEWHERE = {"ssl": "off", "archive_mode": "off", "logging_collector": "off", "log_destination": "stderr"}
HAS_OBJECTS = """
SELECT EXISTS (SELECT FROM pg_class WHERE oid >= 16384) OR EXISTS (SELECT FROM pg_proc WHERE oid >= 16384) OR EXISTS (SELECT FROM pg_type WHERE oid >= 16384)
  OR EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384) OR EXISTS (SELECT FROM pg_extension WHERE oid >= 16384)
  OR EXISTS (SELECT FROM pg_largeobject_metadata);
"""
# A list of names is kept with those quoted that need it, and each of them is a text of its own in a command.
_TO = r"""format(' SET %I TO %s;', name, CASE WHEN name NOT IN
  ('local_preload_libraries', 'search_path', 'session_preload_libraries', 'temp_tablespaces') THEN quote_literal(value) ELSE coalesce(
  (SELECT string_agg(quote_literal(coalesce(replace(found[1], '""', '"'), found[2])), ', ')
   FROM regexp_matches(value, '"((?:[^"]|"")*)"|([^,[:space:]]+)', 'g') AS found), $$''$$) END)
FROM pg_db_role_setting, unnest(setconfig) one, LATERAL (SELECT split_part(one, '=', 1), substr(one, position('=' IN one) + 1)) AS parts (name, value)"""
# What `pg_dumpall` writes for no role.
_FOR_ALL_ROLES = f"SELECT 'ALTER ROLE ALL' || {_TO} WHERE setrole = 0 AND setdatabase = 0 ORDER BY 1;"
# What comes with a database that is created, and that one is there already.
_FOR_ADMINISTRATION = f"""
SELECT CASE WHEN setrole = 0 THEN '' ELSE 'ALTER ROLE ' || quote_ident(pg_get_userbyid(setrole)) || ' IN ' END
  || CASE WHEN setrole = 0 THEN 'ALTER ' ELSE '' END || 'DATABASE {ADMINISTRATION}' || {_TO}
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{ADMINISTRATION}') ORDER BY 1;
SELECT format('ALTER DATABASE %I OWNER TO %I;', datname, rolname) FROM pg_database JOIN pg_roles r ON r.oid = datdba
WHERE datname = '{ADMINISTRATION}' AND rolname <> session_user;
SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s;', datname, datconnlimit) FROM pg_database WHERE datname = '{ADMINISTRATION}' AND datconnlimit >= 0;
SELECT format('GRANT %s ON DATABASE %I TO %I%s;', privilege_type, datname, rolname, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_database CROSS JOIN aclexplode(datacl) JOIN pg_roles r ON r.oid = grantee WHERE datname = '{ADMINISTRATION}' AND grantee <> datdba ORDER BY 1;
"""
# The stack's bootstrap decides about it, and who reads a set's roles into a cluster of others would close that one to them.
_FOR_EVERYBODY = f"""
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC;', datname) FROM pg_database WHERE datname = '{ADMINISTRATION}' AND datacl IS NOT NULL;
SELECT format('GRANT %s ON DATABASE %I TO PUBLIC;', privilege_type, datname) FROM pg_database CROSS JOIN aclexplode(datacl)
WHERE datname = '{ADMINISTRATION}' AND grantee = 0 ORDER BY 1;
"""
# The one that made the cluster, whose grants need no clause, and are refused with one where another made it.
_FOUNDER = "SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10;"
_CLOSED = "SELECT to_json(datname::text) FROM pg_database WHERE NOT datallowconn AND NOT datistemplate ORDER BY datname;"
LOCKED_AT_ONCE = 100
# Of what psql says of a whole database, in bytes.
LONGEST = 64 * 1024**2
_NAME = r'(?:"(?:[^"\n]|""){1,63}"|[a-z_][\w$]{0,62})'
# The words that a statement begins with, and the name that follows; of what a table's data failed at, the table.
_OBJECT = re.compile(
    rf"^Command was: ([A-Z][A-Z ]{{1,40}} {_NAME}(?:\.{_NAME})?)|^query was: LOCK (TABLE .{{1,200}}) IN |[Cc]ontents of (table {_NAME}) failed"
    rf"|COPY failed for (table {_NAME})",
    re.MULTILINE,
)
_TOLD = 5
# https://www.postgresql.org/docs/18/errcodes-appendix.html
_CODES = {"relation": "42P01", "function": "42883", "operator": "42883", "type": "42704"}
# Of a table, of a column, of a schema.
_UNKNOWN_NAMES = {"42P01", "42703", "3F000"}
_UNKNOWN = re.compile(rf"ERROR:  ({'|'.join(_CODES)})\b[^\n]{{0,300}} does not exist$", re.MULTILINE)
_REFRESH = "REFRESH MATERIALIZED VIEW "
_VIEW = re.compile(rf"^Command was: {_REFRESH}(.+);$", re.MULTILINE)
_ERROR = re.compile(r"^pg_restore: error: ", re.MULTILINE)
_IGNORED = re.compile(r"errors ignored on restore: (\d+)\s*\Z")
_SQL_ERROR = re.compile(r"(?:<stdin>:(\d+): )?\b(?:ERROR|FATAL|PANIC|error):\s*([0-9A-Z]{5}\b)?")
_RESTRICTED = re.compile(r"psql:<stdin>:(\d+): (?:ERROR|FATAL):\s+([0-9A-Z]{5})")
_ROLE = re.compile(r"CREATE ROLE (.+);\Z")
_GRANTOR = re.compile(r"""(GRANT .*) GRANTED BY ("(?:[^"]|"")+"|[^\s"]+);\Z""")


class UnknownNameError(BackupError):
    """A statement names a table, a column or a schema that the database does not have."""


def client(container: str, *command: str) -> list[str]:
    """Return what follows the options of `docker exec` for a client of the server in a container, whose sessions fire no event trigger.

    One on login may write a row for each session, or refuse it at night: https://www.postgresql.org/docs/18/event-trigger-database-login-example.html
    """
    return [container, "sh", "-c", _CLIENT, "sh", *command]


def without_triggers(major: str) -> list[str]:
    """Return the options of a server of a major version that fires no event trigger: what is restored has those of the database that it was made of."""
    return ["-c", _NO_TRIGGERS] if int(major) >= LOGIN_TRIGGERS else []


class Session:
    """A connection of psql that stays open, in one transaction that sees one moment and writes nothing."""

    def __init__(self, docker: Docker, container: str, user: str, database: str, *, held: bool = False):
        self.where = f"The database {database}"
        self.process: Process = docker.start(
            "exec", "--interactive", *client(container, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "--host=127.0.0.1"),
            f"--username={user}", f"--dbname={database}", stdin=subprocess.PIPE,
        )  # fmt: skip
        version = int(self.ask("SHOW server_version_num;")[0])
        self.ask(_SETTINGS if version >= 170000 else _SETTINGS.replace(_OPTIONAL, ""))
        self.version = version
        tables = [json.loads(line)["name"] for line in self.ask(_TABLES)] if held else []
        self.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
        self._hold(tables)

    def _hold(self, tables: Sequence[str]) -> None:
        """Keep tables from being truncated, changed or dropped, before the moment begins: what is truncated afterwards is empty in an earlier moment, too.

        https://www.postgresql.org/docs/18/mvcc-caveats.html
        """
        for first in range(0, len(tables), LOCKED_AT_ONCE):
            names = ", ".join(f"ONLY {name}" for name in tables[first : first + LOCKED_AT_ONCE])
            self.ask(f"SET LOCAL lock_timeout = '60s'; LOCK TABLE {names} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0;")

    def ask(self, statement: str) -> list[str]:
        """Return the lines that statements print; raise BackupError where they fail, with the code of the error and nothing of the data."""
        mark = secrets.token_hex(16)
        try:
            self.process.stdin.write(f"{statement}\n\\echo {mark}\n".encode())
            self.process.stdin.flush()
        except OSError:
            raise self._failed() from None
        lines = []
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            if text == mark:
                return lines
            lines.append(text)
        raise self._failed()

    def _failed(self) -> BackupError:
        status = self.process.wait(30)
        code = re.findall(r"(?:ERROR|FATAL):\s+([0-9A-Z]{5})\b", self.process.error())
        if code and code[-1] == "55P03":
            return BackupError(
                f"{self.where} has a table that somebody has locked for longer than a minute, such as by ALTER TABLE. Try again when that has ended."
            )
        why = f"{self.where} did not answer: psql ended with exit code {status}{', SQLSTATE ' + code[-1] if code else ''}."
        return UnknownNameError(why) if code and code[-1] in _UNKNOWN_NAMES else BackupError(why)

    def close(self) -> None:
        """End the connection."""
        self.process.kill()


@contextlib.contextmanager
def session(docker: Docker, container: str, user: str, database: str, *, held: bool = False) -> Iterator[Session]:
    """Open a session as long as it is needed. With ``held``, the tables stay as they are meanwhile."""
    opened = None
    try:
        opened = Session(docker, container, user, database, held=held)
        yield opened
    finally:
        if opened:
            opened.close()


def databases(docker: Docker, container: str, user: str, database: str) -> list[str]:
    """Return the databases of a server that hold data of users: all but the templates, and the one for administration where it is empty.

    The ``database`` that is connected to is one of them in any case.
    """
    with session(docker, container, user, database) as open_one:
        found = [json.loads(line) for line in open_one.ask(_DATABASES)]
    if ADMINISTRATION in found and database != ADMINISTRATION:
        with session(docker, container, user, ADMINISTRATION) as open_one:
            if open_one.ask(HAS_OBJECTS) == ["f"]:
                found.remove(ADMINISTRATION)
    return found


def beside(database: str) -> str:
    """Return a database to connect to while another one is replaced."""
    return "template1" if database == ADMINISTRATION else ADMINISTRATION


def closed_databases(open_one: Session) -> list[str]:
    """Return the databases of users that nobody may connect to, so that nobody can dump them."""
    return [json.loads(line) for line in open_one.ask(_CLOSED)]


def facts(open_one: Session, like: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return what a copy of the database has to be like, in the moment that the session sees: rows and a hash of each table, large objects and extensions.

    The hash is of the columns that a dump has, by their names: their order may be another one in the copy. Of tables in ``like``, which are facts of the
    original, the same columns count.
    """
    tables: dict[str, Any] = {}
    for line in open_one.ask(_TABLES):
        row = json.loads(line)
        columns = (like or {}).get(row["name"], row).get("columns")
        # A set that does not name them was made before they were.
        only, text = ("", "(t.*)::text") if columns is None else ("ONLY", f"ROW({', '.join(f't.{column}' for column in columns)})::text")
        # What is locked for it is free again at once: a table brings all of its indexes along.
        statement = f"SELECT json_build_object('rows', count(*), 'hash', {_HASH.format(text)}) FROM {only} {row['name']} AS t {row['where']};"
        counted = open_one.ask(f"SAVEPOINT counted; {statement} ROLLBACK TO SAVEPOINT counted; RELEASE SAVEPOINT counted;")[0]
        tables[row["name"]] = {**json.loads(counted), "columns": columns}
    found = {"tables": tables, "large_objects": json.loads(open_one.ask(_LARGE_OBJECTS)[0]), **json.loads(open_one.ask(_POSTGIS)[0])}
    schema = open_one.ask(SCHEMA_OF_POSTGIS)[0]
    found["spatial"] = int(open_one.ask(_SPATIAL.format(schema))[0]) if schema else None
    return found


def roles(docker: Docker, container: str, user: str, database: str, *, passwords: bool = False) -> bytes:
    """Return the roles as SQL, without their passwords unless these are asked for. The ``database`` is any that is there.

    Those are the inventory's: the release's jobs set them after a restore, so an old one can neither come back nor be read in a backup.
    """
    without = [] if passwords else ["--no-role-passwords"]
    status, output, _error = docker.attempt(
        "exec", *client(container, "pg_dumpall", "--roles-only", *without, "--host=127.0.0.1", f"--username={user}"), seconds=600
    )
    if status != 0:
        raise BackupError(f"The roles cannot be dumped: pg_dumpall ended with exit code {status}.")
    with session(docker, container, user, database) as opened:
        return "\n".join([whole_roles(opened, output), *administration(opened), ""]).encode()


def whole_roles(open_one: Session, text: str) -> str:
    """Return a dump of roles with what it lacks, and without what another cluster refuses."""
    (founder,) = open_one.ask(_FOUNDER)
    # Before 16 nobody looked at whether who granted a membership might, and from then on a server does.
    anybody = open_one.version < 160000
    return "\n".join([*(_without_grantor(line, None if anybody else founder) for line in text.split("\n")), *open_one.ask(_FOR_ALL_ROLES), ""])


def administration(open_one: Session, *, everybody: bool = False) -> list[str]:
    """Return the settings of the database for administration, and of roles in it, its owner and its rights as SQL; what all may with ``everybody``."""
    return open_one.ask(_FOR_ADMINISTRATION + (_FOR_EVERYBODY if everybody else ""))


def _without_grantor(line: str, founder: str | None) -> str:
    """Return a line of a dump of roles without the clause of who granted a membership where that is the founder, or whoever it is."""
    found = _GRANTOR.match(line)
    return f"{found[1]};" if found and founder in (None, found[2]) else line


def dump(docker: Docker, container: str, user: str, database: str, snapshot: str, plain: IO[bytes] | None = None) -> Process:
    """Start the dump of a database as it is in an exported snapshot: in the custom format, or as SQL into a file.

    It is not compressed: the repository compresses, and finds what is the same as the day before.
    """
    kind = ["--format=plain", "--create"] if plain else ["--format=custom", "--compress=0"]
    # Another server has none of the places outside of the volume that a tablespace stands for.
    kind.append("--no-tablespaces")
    return docker.start(
        "exec", *client(container, "pg_dump", *kind, f"--snapshot={snapshot}", "--lock-wait-timeout=60s", "--host=127.0.0.1"),
        f"--username={user}", f"--dbname={database}", stdout=plain or subprocess.PIPE,
    )  # fmt: skip


def size(open_one: Session) -> int:
    """Return how many bytes all databases of users take on the server's disk."""
    return int(open_one.ask("SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database WHERE NOT datistemplate;")[0])


def _drop(docker: Docker, container: str, user: str, database: str) -> None:
    """Remove a database of a new server, whatever of the server's own uses it, such as what pg_cron runs."""
    quoted = '"' + database.replace('"', '""') + '"'
    docker.ask(
        "exec", "--interactive", *WRITABLE, container, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "--host=127.0.0.1", f"--username={user}",
        f"--dbname={beside(database)}", stdin=f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE);".encode(),
    )  # fmt: skip


def restore_sql(docker: Docker, container: str, user: str, database: str, text: IO[bytes]) -> list[str]:
    """Load the SQL of a database into a new server, in the place of an empty one of its name; return materialized views that cannot be filled there.

    Raises BackupError where anything else fails.
    """
    _drop(docker, container, user, database)
    process = docker.start(
        "exec", "--interactive", *WRITABLE, container, "psql", "-Xq", "-v", "VERBOSITY=sqlstate", "--host=127.0.0.1",
        f"--username={user}", f"--dbname={beside(database)}", "--file=-", stdin=text.fileno(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        status = process.wait()
        said = process.error(LONGEST)
        errors = _SQL_ERROR.findall(said)
    finally:
        process.kill()
    failed = {int(line or 0): code for line, code in errors}
    if len(said) >= LONGEST:
        raise BackupError(f"The SQL of the database {database} cannot be loaded: psql has more to tell than anybody reads.")
    views = _refreshed(text, failed) if status == 0 else {}
    if status != 0 or len(views) < len(failed):
        where = next((f" at line {line}, SQLSTATE {code}" for line, code in failed.items() if line not in views), f": psql ended with exit code {status}")
        raise BackupError(f"The SQL of the database {database} cannot be loaded{where}.")
    return list(views.values())


def _refreshed(text: IO[bytes], lines: Collection[int]) -> dict[int, str]:
    """Return those lines of a dump that fill a materialized view, with its name."""
    if not lines:
        return {}
    found = {}
    text.seek(0)
    for number, line in enumerate(text, 1):
        if number in lines and line.startswith(_REFRESH.encode()) and line.endswith(b";\n"):
            found[number] = line.decode(errors="replace").removeprefix(_REFRESH).removesuffix(";\n")
    return found


def clusters_in(root: str) -> dict[str, str]:
    """Return where in a volume's directory clusters lie, relative to it, and of which major version each is."""
    found = {}
    for pattern in _PLACES:
        for path in glob.glob(os.path.join(glob.escape(root), pattern)):
            place = os.path.dirname(path)
            # Each database of a cluster has a file of that name too.
            if os.path.isdir(os.path.join(place, "global")):
                with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
                    found[os.path.relpath(place, root)] = file.readline().strip()
    return found


def major_of(text: str) -> str | None:
    """Return the major version from what `postgres --version` prints, None where it says none."""
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", text)
    return found[1] if found else None


def major_in(docker: Docker, image: str, name: str) -> str:
    """Return the major version of the PostgreSQL in an image; raise BackupError."""
    text = docker.ask("run", "--rm", "--name", name, *docker.confined(), "--network", "none", "--entrypoint", "postgres", image, "--version")
    found = major_of(text)
    if not found:
        raise BackupError(f"The PostgreSQL of {image} does not say which version it is.")
    return found


def names_objects(text: str) -> bool:
    """Return whether pg_dump or pg_restore names an object where it fails."""
    return _OBJECT.search(text) is not None


def objects_of(text: str) -> str:
    """Return the objects that pg_dump or pg_restore names where it fails; never what it quotes of the data."""
    found = list(dict.fromkeys("".join(groups) for groups in _OBJECT.findall(text)))
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    unknown = _UNKNOWN.search(text)
    # With no path to search, as pg_restore has none, a name without its schema is not found. The program does not say the code; this is the one that it has.
    why = f", where a {unknown[1]} is not found by its name (SQLSTATE {_CODES[unknown[1]]})" if found and unknown else ""
    return (", ".join(found[:_TOLD]) or "see the size of the volume and of the memory") + more + why


def unfilled(text: str) -> list[str] | None:
    """Return the materialized views that `pg_restore` could not fill; None where anything else failed, too.

    Their queries may need what is not there: a foreign server, or a search path, which no dump has.
    """
    views, ignored = _VIEW.findall(text), _IGNORED.search(text)
    return views if ignored and int(ignored[1]) == len(views) == len(_ERROR.findall(text)) else None


def empty_views(database: str, views: Sequence[str]) -> str:
    """Return what a person is told about materialized views that could not be filled in a throw-away server."""
    return f"{database}: materialized views whose queries fail here, such as over a foreign server, are empty: {', '.join(views)}"


def fill(docker: Docker, container: str, user: str, database: str, views: Sequence[str]) -> str:
    """Fill materialized views where the stack runs, and return what a person is told."""

    def is_filled(view: str) -> bool:
        command = ["psql", "-Xq", "--host=127.0.0.1", f"--username={user}", f"--dbname={database}", "-c", f"{_REFRESH}{view}"]
        return docker.attempt("exec", *WRITABLE, *client(container, *command), seconds=FILL_SECONDS)[0] == 0

    if left := [view for view in views if not is_filled(view)]:
        return f"{database}: materialized views that are still empty, because their queries fail: {', '.join(left)}. Fill them by REFRESH MATERIALIZED VIEW"
    return f"{database}: the materialized views that were empty are filled"


def role_statements(text: str) -> Iterator[str]:
    """Yield the lines of a dump of roles, so that a role which is there already is no error, and any other is."""
    # Other ends of lines than this one may stand in a comment on a role.
    for line in text.split("\n"):
        found = _ROLE.match(line)
        yield f"DO $campaign_role$ BEGIN CREATE ROLE {found[1]}; EXCEPTION WHEN duplicate_object THEN NULL; END $campaign_role$;" if found else line


def failed_statement(text: str, error: str) -> str:
    """Return the beginning of the statement that psql says failed, with the error's code; never a password."""
    found = _RESTRICTED.search(error)
    if not found:
        return "psql does not say which statement"
    lines = text.split("\n")
    number = int(found[1])
    words = " ".join(lines[number - 1].split()[:4]) if 0 < number <= len(lines) else "?"
    return f"`{words} ...` (SQLSTATE {found[2]})"


def restore_roles(docker: Docker, container: str, user: str, text: bytes) -> None:
    """Create the roles in a server; raise BackupError. Its own superuser stays what it is, with its password: another cluster may know it otherwise."""
    own = tuple(f"ALTER ROLE {name} WITH " for name in (user, '"' + user.replace('"', '""') + '"'))
    statements = "\n".join(line for line in role_statements(text.decode()) if not line.startswith(own))
    status, _output, error = docker.attempt(
        "exec", "--interactive", container, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "--host=127.0.0.1", f"--username={user}",
        "--dbname=postgres", "--file=-", stdin=statements.encode(),
    )  # fmt: skip
    if status != 0:
        raise BackupError(f"The roles cannot be created: psql ended with exit code {status} at {failed_statement(statements, error)}.")


class Restore:
    """Writes a dump, which comes in parts, into a server. A database of its name is replaced, so the server must be a new one."""

    def __init__(self, docker: Docker, container: str, user: str, database: str):
        self.database = database
        _drop(docker, container, user, database)
        self.process = docker.start(
            "exec", "--interactive", *WRITABLE, container, "pg_restore", "--create", "--clean", "--if-exists", "--no-tablespaces",
            "--host=127.0.0.1", f"--username={user}", f"--dbname={beside(database)}", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def write(self, part: bytes) -> None:
        """Write the next part; raise BackupError."""
        try:
            self.process.stdin.write(part)
        except OSError:
            raise self._failed() from None

    def _failed(self) -> BackupError:
        status = self.process.wait(60)
        return BackupError(f"pg_restore failed for the database {self.database} with exit code {status}: {objects_of(self.process.error())}.")

    def close(self) -> list[str]:
        """Wait until all is written, and return materialized views that cannot be filled; raise BackupError."""
        try:
            self.process.stdin.close()
        except OSError:
            raise self._failed() from None
        views = unfilled(self.process.error()) if self.process.wait() == 1 else []
        if views is None or self.process.wait() not in (0, 1):
            raise self._failed()
        return views

    def abandon(self) -> None:
        """End it."""
        self.process.kill()


def copy_chunks(source: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield a stream in parts of a size, of which the last may be smaller."""
    while True:
        parts: list[bytes] = []
        missing = size
        while missing and (part := source.read(missing)):
            parts.append(part)
            missing -= len(part)
        if parts:
            yield b"".join(parts)
        if missing:
            return


def differences(wanted: dict[str, Any], found: dict[str, Any], database: str) -> list[str]:
    """Return what a copy's facts say otherwise than the set's: names and numbers, and no data."""
    problems: list[str] = []
    for name in sorted({*wanted["tables"], *found["tables"]}):
        expected, there = wanted["tables"].get(name), found["tables"].get(name)
        if expected is None or there is None:
            problems.append(f"{database}: the table {name} is {'surplus' if expected is None else 'missing'}")
        elif expected["rows"] != there["rows"]:
            problems.append(f"{database}: {name} has {there['rows']} rows, not {expected['rows']}")
        elif expected["hash"] != there["hash"]:
            problems.append(f"{database}: of the {there['rows']} rows of {name}, some are not those of the set")
    if wanted["large_objects"] != found["large_objects"]:
        problems.append(f"{database}: the large objects differ ({found['large_objects']['count']} of {wanted['large_objects']['count']})")
    missing: Sequence[str] = sorted(set(wanted["extensions"]) - set(found["extensions"]))
    problems += [f"{database}: the extension {name} is missing" for name in missing]
    if wanted["spatial"] != found["spatial"]:
        problems.append(f"{database}: a spatial query answers {found['spatial']}, not {wanted['spatial']}")
    return problems
