# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack's PostgreSQL brought to another major version, and back.

The image keeps its data in a directory of the major version, so while a release is being exchanged for another, the data of both lie in the release's volume,
and each finds its own: whoever starts the release from before, be it a deploy that failed, a machine that was started again or a person, starts it over the
data from before. Once the new release is in use, the data from before is moved to a volume of its own. All moves are renames within a file system.

The old server dumps and the new one restores through a pipe, so nothing of it lies on the host. A journal is there from before anything is stopped until it
counts, and the stack's lock refuses everybody else meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import host, image_names, lock, replaced
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, postgres, program, sets, state, swap, wal
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Process, Service, await_answer, told
from ansible_collections.campaign.platform.plugins.module_utils.links import sync_directory

# Where images expect their volume, and where those before 18 did.
MOUNT, TOP_MOUNT = "/var/lib/postgresql", "/var/lib/postgresql/data"
STOP_SECONDS = 120
# A server that ends with who started it, even if that is killed: two servers over one volume would destroy it.
BOUND = 'exec 3<&0; docker-entrypoint.sh postgres "$@" & pid=$!; (cat >/dev/null; kill -INT $pid) <&3 & wait $pid'
# Its database until the others are restored. It is dropped at the end.
SCRATCH = "campaign_upgrade"
_TEMPLATES = ("template0", "template1")
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_LOCALE_OPTIONS = {"i": "--icu-locale", "b": "--builtin-locale"}
# Of every image.
_COMMON_LOCALES = frozenset(["c", "posix", "c.utf8"])

_DATABASES = "SELECT to_jsonb(d) || jsonb_build_object('encoding', pg_encoding_to_char(encoding)) FROM pg_database d ORDER BY datname;"
# What a dump does not bring along, each with the words for it.
_OBSTACLES = {
    "SELECT subname FROM pg_subscription": "a subscription, which would go on from the wrong place: {}. Drop it, and create it again afterwards.",
    # The stack's own is created anew by the service that reads from it.
    f"SELECT slot_name FROM pg_replication_slots WHERE NOT temporary AND slot_name <> '{wal.SLOT}'": (
        "a replication slot, whose position is of the old cluster: {}. Drop it, and set up what reads from it again afterwards."
    ),
    "SELECT datname FROM pg_database WHERE datconnlimit = -2": "a database that an interrupted DROP DATABASE left: {}. Drop it.",
    # Their owners could not sign in any more: the rules of a new cluster (pg_hba.conf) take the newer form alone.
    "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%'": "a password that is kept as md5, which a new cluster does not take, of: {}. Set "
    "password_encryption to scram-sha-256 (ALTER SYSTEM), and each password again (ALTER ROLE ... PASSWORD).",
    "SELECT gid FROM pg_prepared_xacts": "a prepared transaction: {}. Commit it or roll it back.",
    "SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')": "a tablespace, which is outside of the volume: {}. Move its content.",
}
_EXTENSIONS = "SELECT json_object_agg(extname, extversion) FROM pg_extension;"
_OUTDATED = """
SELECT json_build_array(e.extname, a.default_version) FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname
WHERE e.extversion <> a.default_version ORDER BY e.extname;
"""
_AVAILABLE = "SELECT coalesce(json_agg(name), '[]') FROM pg_available_extensions;"
_FILE_SETTINGS = "SELECT coalesce(json_object_agg(name, setting), '{}') FROM pg_file_settings WHERE applied;"
# Who may connect, of the files in the cluster's own directory: others are mounted, or the image's. A line that is wrong is in force nowhere.
_LINES = {
    name: f"""SELECT to_jsonb(r) - '{{line_number,rule_number,map_number,file_name,error}}'::text[] FROM {view} r
WHERE error IS NULL AND starts_with(current_setting('{setting}'), current_setting('data_directory') || '/');"""
    for name, view, setting in (("pg_hba.conf", "pg_hba_file_rules", "hba_file"), ("pg_ident.conf", "pg_ident_file_mappings", "ident_file"))
}
# Before this major version no view tells the other file's.
_SHOWS_MAPPINGS = 150000
# What the bootstrap adds where it is missing.
_ADDED_LINE = {"type": "host", "database": ["replication"], "address": "samenet", "auth_method": "scram-sha-256"}
# With a digest of the password's verifier, so that it is seen to be the same and is not told.
_ROLES = """
SELECT json_build_array('role ' || rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
  rolvaliduntil, encode(sha256(convert_to(rolpassword, 'UTF8')), 'hex')) FROM pg_authid WHERE rolname !~ '^pg_';
SELECT json_build_array('membership of ' || m.rolname || ' in ' || r.rolname, admin_option)
FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member;
SELECT json_build_array('settings of ' || coalesce(rolname, 'all') || ' in ' || coalesce(datname, 'all'), setconfig)
FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase WHERE datname IS NULL OR datname <> 'template1';
"""
# Whoever granted it, which a dump need not keep.
_RIGHTS = f"""
SELECT json_build_array('database ' || datname, pg_get_userbyid(datdba), datconnlimit, (SELECT json_agg(one ORDER BY one COLLATE "C") FROM (
  SELECT format('%s %s %s', coalesce(quote_ident(rolname), 'PUBLIC'), privilege_type, bool_or(is_grantable)) AS one
  FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) LEFT JOIN pg_roles r ON r.oid = grantee
  WHERE grantee <> datdba GROUP BY rolname, privilege_type) AS granted))
FROM pg_database WHERE datname NOT IN {_TEMPLATES};
"""
_OF_USERS = """n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"""
# PostgreSQL 18 lists what is not null as constraints, and 17 knows the privilege MAINTAIN. Before 15 the schema public was the founder's, and a trigger's
# copies for partitions were told apart from triggers in another way. An extension's sequences are not dumped.
_SCHEMA = f"""
SELECT json_build_array('sequence ' || format('%I.%I', n.nspname, c.relname), pg_sequence_last_value(c.oid), seqincrement, seqmax, seqcycle)
FROM pg_sequence s JOIN pg_class c ON c.oid = seqrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE {_OF_USERS};
SELECT json_build_array('relation ' || format('%I.%I', n.nspname, c.relname), c.relkind, pg_get_userbyid(c.relowner),
  (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid),
  (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n' AND k.convalidated),
  (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
    AND coalesce((to_jsonb(t) ->> 'tgparentid')::oid, 0) = 0), (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid),
  (SELECT array_agg(pg_get_userbyid(a.grantee) || ' ' || a.privilege_type || a.is_grantable ORDER BY a.grantee::regrole::text COLLATE "C", a.privilege_type)
   FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner AND a.privilege_type <> 'MAINTAIN'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S') AND {_OF_USERS};
SELECT json_build_array('function ' || p.oid::regprocedure, pg_get_userbyid(p.proowner), md5(p.prosrc)) FROM pg_proc p JOIN pg_namespace n
  ON n.oid = p.pronamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e');
SELECT json_build_array('schema ' || nspname, CASE WHEN nspname = 'public' AND nspowner = 10 AND current_setting('server_version_num')::int < 150000
  THEN 'pg_database_owner' ELSE pg_get_userbyid(nspowner) END) FROM pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
"""
# They may not have been there before.
_TABLES_OF_EXTENSIONS = """
SELECT to_json(format('%I.%I', n.nspname, c.relname))
FROM (SELECT unnest(extconfig) AS oid FROM pg_extension) x JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r';
"""


class UpgradedError(BackupError):
    """There is nothing to upgrade."""


# --- What is decided


def place_of(found: Mapping[str, str], major: str, image: str, volume: str) -> str:
    """Return where in a volume the data of a major version lies; raise BackupError where there is none, or several."""
    places = sorted(place for place, version in found.items() if version == major)
    if len(places) == 1:
        return places[0]
    there = ", ".join(f"{version} in {place}" for place, version in sorted(found.items())) or "none"
    raise BackupError(
        f"The volume {volume} has {'several places with' if places else 'no'} data of PostgreSQL {major}, which the server image {image} has; it has: {there}. "
        f"Nothing was changed. {'Move the others out of the volume' if places else 'Name the image that wrote the data in upgrade_postgres_from_image'}."
    )


def mount_of(place: str, declared: Collection[str]) -> str:
    """Return where a volume is mounted whose cluster lies at a place in it, by the volumes that the image declares: some refuse one at another's place."""
    return TOP_MOUNT if place == "." and TOP_MOUNT in declared else MOUNT


def entries_of(root: str, place: str, other: str) -> list[str]:
    """Return the entries of a volume that are a cluster: its directory, or where it lies at the top all but the other major's directory."""
    return sorted(name for name in os.listdir(root) if name != other) if place == "." else [place.partition("/")[0]]


def major_of(text: str) -> str:
    """Return the major version from what `postgres --version` prints; raise BackupError."""
    found = postgres.major_of(text)
    if not found:
        raise BackupError(f"`postgres --version` printed what is none: {told(text)}")
    return found


def initdb_arguments(row: Mapping[str, Any]) -> str:
    """Return the options of initdb for a cluster like the one whose row of template1 in pg_database is given, of whatever version that is."""
    provider = row.get("datlocprovider") or "c"
    locale = row.get("datlocale") or row.get("daticulocale")
    words = {
        "--encoding": row["encoding"],
        "--locale": row["datcollate"],
        "--lc-collate": row["datcollate"],
        "--lc-ctype": row["datctype"],
        "--locale-provider": _PROVIDERS[provider],
    }
    if provider in _LOCALE_OPTIONS and locale:
        words[_LOCALE_OPTIONS[provider]] = locale
    if row.get("daticurules"):
        raise BackupError("template1 has rules of its own for ICU, which is not provided for. Nothing was changed.")
    if strange := [value for value in words.values() if not re.fullmatch(r"[A-Za-z0-9_.@,-]+", value)]:
        raise BackupError(f"The locale {strange[0]!r} of template1 cannot be handed to initdb. Nothing was changed.")
    return " ".join(f"{name}={value}" for name, value in words.items())


def _plain(locale: str) -> str:
    """Return a locale's name so that its spellings are the same: en_US.UTF-8 and en_US.utf8."""
    name, dot, encoding = locale.lower().partition(".")
    return name + dot + encoding.replace("-", "")


def missing_locales(rows: list[Mapping[str, Any]], known: str) -> list[str]:
    """Return the locales of databases that an image does not have, from what `locale -a` prints there."""
    there = {_plain(line.strip()) for line in known.splitlines()} | _COMMON_LOCALES
    wanted = {row[name] for row in rows for name in ("datcollate", "datctype") if row.get(name)}
    return sorted(name for name in wanted if _plain(name) not in there)


def compared(wanted: Mapping[str, Any], found: Mapping[str, Any], where: str) -> list[str]:
    """Return what differs between two descriptions by name: names, and nothing of what is described."""
    lost = [f"{where}: the {name} is missing" for name in sorted(set(wanted) - set(found))]
    surplus = [f"{where}: the {name} is surplus" for name in sorted(set(found) - set(wanted))]
    return lost + surplus + [f"{where}: the {name} is not as it was" for name in sorted(set(wanted) & set(found)) if wanted[name] != found[name]]


def changed_lines(old: list[dict[str, Any]], new: list[dict[str, Any]], name: str) -> list[str]:
    """Return what a person is told about a file of who may connect whose lines are others in the new cluster, nothing where they are the same."""
    old, new = ([row for row in rows if not _ADDED_LINE.items() <= row.items()] for rows in (old, new))
    lost, more = sum(row not in new for row in old), sum(row not in old for row in new)
    if not lost and not more:
        return []
    counted = f"Lines of the old one that are not brought: {lost}; lines that the old one has not: {more}"
    return [f"{name}, which says who may connect, is that of a new cluster. {counted}. Put it right by hand after the upgrade"]


def room_problem(size: int, free: int, path: str) -> str | None:
    """Return why the disk has not enough room for a cluster of a size in bytes, None where it has."""
    mib = 1024 * 1024
    if free >= 2 * size:
        return None
    return (
        f"The file system of {path} has {free // mib} MiB free, and {2 * size // mib} MiB are needed: twice the {size // mib} MiB of the cluster, because a "
        "second one is written beside it, with its log. Nothing was changed. Free some, or remove what earlier restores left (the playbook "
        "restore with -e backup_old_volumes=remove) or earlier upgrades (this playbook with -e upgrade_postgres_old_volumes=remove)."
    )


# --- What is written down


def journal_of(directory: str) -> dict[str, Any] | None:
    """Return what is being exchanged in a stack, None for nothing; raise BackupError."""
    path = os.path.join(directory, lock.UPGRADE)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
            return {name: found[name] for name in ("id", "run", "at", "live", "from", "to", "published")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise BackupError(f"{path} says what an upgrade was exchanging, and cannot be read. Look at the volume by hand before you remove it.") from None


def move(entries: list[str], source: str, target: str) -> None:
    """Move entries of one directory to another one of the same file system; those that lie there already have been moved before."""
    for name in entries:
        if os.path.lexists(os.path.join(source, name)):
            os.rename(os.path.join(source, name), os.path.join(target, name))
    for path in (source, target):
        sync_directory(path)


# --- What is done


@dataclass
class Upgrades:
    """The upgrades of the stack in a directory of the host, for the run of a playbook that ``holder`` describes."""

    directory: str
    holder: dict[str, Any]
    config: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not os.path.isdir(self.directory):
            raise BackupError(f"There is no stack in {self.directory}. Nothing was changed. Deploy first, or name its directory in stack_directory.")
        os.makedirs(os.path.join(self.directory, state.DIRECTORY), mode=0o755, exist_ok=True)
        upgrades = self

        class Stack(program.Backups):
            """The stack, on which somebody works whom the playbook names."""

            def say(self, text: str) -> None:
                upgrades.lines.append(f"{time.monotonic() - self.started:7.1f} s  {text}")

            def holder(self) -> dict[str, Any]:
                return upgrades.holder

        self.stack = Stack(self.directory, command="upgrade_postgres", config={"image": "", "repository": "", "keep": {}, **self.config})
        self.say: Callable[[str], None] = self.stack.say
        self.docker: Docker = self.stack.docker
        self.identifier = self.stack.run.rpartition("-")[2]

    # --- Which servers

    def major(self, image: str) -> str:
        """Return the major version of a server's image; raise BackupError."""
        status, output, error = self.docker.attempt("run", "--rm", *self.docker.confined(), "--network", "none", "--entrypoint", "postgres", image, "--version")
        if status != 0:
            raise BackupError(f"The image {image} does not run: {told(error)}. Nothing was changed. Name another one in upgrade_postgres_from_image.")
        return major_of(output)

    def server(self) -> tuple[dict[str, Any], Service]:
        """Return the current release's manifest and its PostgreSQL; raise BackupError."""
        written, configuration = self.stack.release()
        service = self.stack.servers(configuration).postgres
        if not service:
            raise BackupError("The current release has no PostgreSQL of its own. One outside the stack is upgraded by whoever runs it.")
        return written, service

    def image_of(self, service: Service) -> str:
        """Return the id of the image that the current release ran its PostgreSQL with, or its name where nobody knows."""
        known = image_names.ran_with(os.path.join(self.directory, "current"))
        if service.image in known:
            return known[service.image]
        with contextlib.suppress(BackupError):
            return self.docker.ask("container", "inspect", "--format", "{{.Image}}", self.stack.container(service)).strip()
        return service.image

    def root(self, volume: str) -> str:
        """Return the directory of a volume; raise BackupError."""
        return swap.path_of(self.docker, volume)

    def sources(self, from_image: str | None) -> _Source:
        """Return the cluster that is there; raise BackupError where it cannot be upgraded."""
        written, service = self.server()
        # By its id: its name may mean another image by now.
        image = from_image or self.image_of(service)
        live = copies.volume_of(service)[1]
        old, new = self.major(image), self.major(self.config["new_image"])
        if old == new:
            raise UpgradedError(f"The release in use has PostgreSQL {old} already, as the inventory has. There is nothing to upgrade.")
        if self.config["new_image"] == service.image:
            raise BackupError(
                f"The name {service.image} is that of the server with PostgreSQL {new} now, and the release in use, whose data is of {old}, has the same "
                "name for its own, so the two could not be told apart. Nothing was changed. Give the new image a name of its own, with its version or its "
                "digest, put that into images_upstream.postgis, and run this again. The old image is found by its id."
            )
        if int(old) > int(new):
            raise BackupError(f"PostgreSQL {old} cannot be brought back to {new}. Nothing was changed. A revert brings the data from before back.")
        root = self.root(live)
        found = postgres.clusters_in(root)
        place = place_of(found, old, image, live)
        if new in found.values() or os.path.lexists(os.path.join(root, new)):
            raise BackupError(
                f"The volume {live} has data of PostgreSQL {new} beside that of {old} already, so something made a cluster there: {os.path.join(root, new)}. "
                "Nothing was changed. Look at it, move it away, and run this again."
            )
        declared = json.loads(self.docker.ask("image", "inspect", "--format", "{{json .Config.Volumes}}", image)) or {}
        target = mount_of(place, declared)
        environment = {**service.environment, "PGDATA": os.path.normpath(os.path.join(target, place))}
        service = replace(service, image=image, environment=environment, volumes={target: live})
        return _Source(written, service, live, root, place, old, new)

    @contextlib.contextmanager
    def old_server(self, source: _Source, *, is_alone: bool) -> Iterator[str]:
        """Yield a container with the old server: the stack's own, or with ``is_alone`` one that nobody reaches, over the same volume."""
        if not is_alone:
            yield self.stack.container(source.service)
            return
        name, service = f"{self.stack.run}-old", source.service
        options = ["--network", "none", *service.options(), "--volume", f"{source.live}:{copies.volume_of(service)[0]}"]
        for target, path in service.secrets.items():
            options += ["--mount", f"type=bind,source={path},target=/run/secrets/{target},readonly"]
        process = self.docker.start(
            "run", "--rm", "--interactive", "--name", name, *self.docker.confined(), *options, "--entrypoint", "sh", service.image, "-c", BOUND,
            "sh", *copies.passed_on(service.command), *postgres.without_triggers(source.old), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._await_start(process, name)
            await_answer(self.docker, name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", service.environment["POSTGRES_USER"], "-d", "postgres")
            yield name
        finally:
            process.stdin.close()
            try:
                code = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                code = -1
            process.kill()
            self.docker.remove_container(name)
        if code != 0:
            raise BackupError(f"The old server did not end well (exit code {code}). Nothing of its data was changed.")

    def _await_start(self, process: Process, name: str) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.docker.attempt("container", "inspect", name)[0] != 0:
            if process.popen.poll() is not None or time.monotonic() >= deadline:
                raise BackupError(f"The old server's image {name} does not start: {told(process.error())}")
            time.sleep(0.1)

    def new_service(self, source: _Source, initdb: str) -> Service:
        """Return the new server as the release has the old one, with a cluster like the old one's."""
        left_out = ("PGDATA", "POSTGRES_INITDB_ARGS", "POSTGRES_DB")
        environment = {name: value for name, value in source.service.environment.items() if name not in left_out}
        environment |= {"POSTGRES_DB": SCRATCH, "POSTGRES_INITDB_ARGS": initdb}
        return replace(source.service, image=self.config["new_image"], environment=environment, volumes={MOUNT: source.live})

    # --- Rehearsal

    def rehearse(self, from_image: str | None) -> dict[str, Any]:
        """Restore what is there into a volume that is thrown away, and compare it. Nothing of the stack is touched."""
        with self.stack.alone():
            source = self.sources(from_image)
            volume = self.new_volume(source, f"{self.stack.run}_postgres")
            runs = self._runs(source.service)
            with contextlib.ExitStack() as stack:
                if not runs:
                    # Nobody may start one over the same volume meanwhile.
                    stack.enter_context(self.stack.locked())
                found = self.copy(source, volume, is_alone=not runs, is_kept=False)
        self.say(f"the rehearsal took {found['seconds']:g} s; with the services stopped it will take about that long")
        return found

    def _runs(self, service: Service) -> bool:
        try:
            return bool(self.stack.container(service))
        except BackupError:
            return False

    def new_volume(self, source: _Source, name: str) -> str:
        """Create the volume that the new server writes to, and return its name; raise BackupError where its disk is another one, or has no room."""
        volume = self.docker.create_volume(name)
        swap.check_same_disk(source.live, source.root, volume, self.root(volume))
        self.check_room(source, self.root(volume))
        return volume

    def check_room(self, source: _Source, path: str) -> None:
        """Raise BackupError where the disk of a directory has no room for another cluster."""
        size = host.size_of(os.path.join(source.root, source.place))
        about = os.statvfs(path)
        free = about.f_bavail * about.f_frsize
        self.say(f"the cluster has {size // 1024**2} MiB, and {free // 1024**2} MiB are free")
        if problem := room_problem(size, free, path):
            raise BackupError(problem)

    def copy(self, source: _Source, volume: str, *, is_alone: bool, is_kept: bool) -> dict[str, Any]:
        """Write the old server's data with the new server into a volume and compare both; return what was found. Raises BackupError where they differ."""
        started = time.monotonic()
        user = source.service.environment["POSTGRES_USER"]
        main = source.service.environment.get("POSTGRES_DB") or user
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(self.old_server(source, is_alone=is_alone))
            rows = self._rows(old, user, main)
            self._check(old, user, main, rows)
            service = self.new_service(source, initdb_arguments(next(row for row in rows if row["datname"] == "template1")))
            private = stack.enter_context(copies.private_directory(self.stack.own))
            files = {"postgres": dict(source.service.secrets)} if is_kept else None
            one = copies.Copy(self.docker, copies.Servers(service, None, None), {"postgres": volume}, private, files, self.say)
            new, _user = stack.enter_context(one.postgres(service))
            copying = _Copying(self, old, new, user, main, [row["datname"] for row in rows], is_live=not is_alone)
            found = copying.copy()
            found |= {"from": source.old, "to": source.new, "seconds": round(time.monotonic() - started, 1)}
        return found

    def _rows(self, old: str, user: str, main: str) -> list[dict[str, Any]]:
        with postgres.session(self.docker, old, user, main) as opened:
            return [json.loads(line) for line in opened.ask(_DATABASES)]

    def _check(self, old: str, user: str, main: str, rows: list[dict[str, Any]]) -> None:
        """Raise BackupError for everything in a cluster that a dump would lose."""
        problems = []
        with postgres.session(self.docker, old, user, main) as opened:
            for query, words in _OBSTACLES.items():
                if names := opened.ask(f"{query} ORDER BY 1;"):
                    problems.append(f"The cluster has {words.format(', '.join(names))}")
        closed = [row["datname"] for row in rows if not row["datallowconn"] and row["datname"] != "template0"]
        problems += [f"The database {name} takes no connections, so it cannot be dumped. Let it, or drop it." for name in closed]
        status, output, _error = self.docker.attempt(
            "run", "--rm", *self.docker.confined(), "--network", "none", "--entrypoint", "locale", self.config["new_image"], "-a"
        )
        if status == 0 and (missing := missing_locales(rows, output)):
            problems.append(f"The new image has no locale {', '.join(missing)}, which the databases are sorted by. Use an image that has it.")
        if problems:
            raise BackupError("PostgreSQL cannot be upgraded like this. Nothing was changed.\n- " + "\n- ".join(problems))

    # --- The upgrade and the way back

    def upgrade(self, from_image: str | None) -> dict[str, Any]:
        """Stop the services and put the new cluster beside the old one; raise BackupError, after which what ran before runs again."""
        with self.stack.alone():
            source = self.sources(from_image)
            # Before anything is stopped: what it is refused for shows with the volume alone. Where it is, the volume is swept away.
            volume = self.new_volume(source, f"{source.live}-{source.new}-{self.identifier}")
            with self.stack.locked() as held:
                journal = {
                    "id": self.identifier, "run": self.holder["run"], "at": sets.moment(), "live": source.live, "published": False,
                    "from": {
                        "release": source.written["release"], "major": source.old, "entries": entries_of(source.root, source.place, source.new),
                        "volume": f"{source.live}-{source.old}-{self.identifier}",
                    },
                    "to": {"major": source.new, "entries": [source.new], "volume": volume},
                }  # fmt: skip
                self._write(journal)
                try:
                    self.say("stopping the services")
                    self.stack.stop()
                    found = self.copy(source, volume, is_alone=True, is_kept=True)
                    if not os.path.isfile(os.path.join(self.root(volume), source.new, "docker/PG_VERSION")):
                        raise BackupError(f"The new image does not keep its data in {source.new}/docker. The data is as it was.")
                    self._publish(journal)
                except BaseException as error:
                    self.say("that failed; what ran before is started again")
                    try:
                        self._withdraw(journal, held)
                    except BackupError as another:
                        # Why it failed is what somebody has to mend first.
                        why = str(error) if isinstance(error, BackupError) else type(error).__name__
                        raise BackupError(f"{why} After that, what ran before did not come up again: {another}") from None
                    if isinstance(error, BackupError):
                        raise BackupError(f"{error} What ran before runs again.") from None
                    raise
                held.record("upgraded", release=source.written["release"])
        return found

    def _publish(self, journal: dict[str, Any]) -> None:
        """Put what is to be used beside what is used."""
        journal["published"] = True
        self._write(journal)
        move(journal["to"]["entries"], self.root(journal["to"]["volume"]), self.root(journal["live"]))

    def _withdraw(self, journal: dict[str, Any], held: lock.Lock) -> None:
        """Take what was to be used away again, and start the release from before."""
        self.stack.stop()
        if journal["published"]:
            tried = host.link_target(self.directory, "attempted") not in (None, journal["from"]["release"])
            volume = journal["to"]["volume"]
            if tried and not journal["to"].get("release"):
                # A release may have written to it while it was tried, so it stays to be looked at.
                volume = self.docker.create_volume(f"{journal['live']}-{journal['to']['major']}-tried-{journal['id']}", throw_away=False)
                self._record(f"{journal['id']}-tried", volume, {})
                self.say(f"what was written while the new release was tried is in the volume {volume}")
            elif not journal["to"].get("release"):
                self.docker.create_volume(volume)
            move(journal["to"]["entries"], self.root(journal["live"]), self.root(volume))
        elif not journal["to"].get("release"):
            # What was half written may have filled the disk, and nothing starts on a full one. What is left is swept away in the end.
            with contextlib.suppress(BackupError):
                self.docker.remove_volume(journal["to"]["volume"])
        if journal["to"].get("release"):
            replaced.mark(self.directory, journal["to"]["major"], journal["from"]["major"])
        written, _service = self.server()
        self.stack.start(written)
        # Or the deploy that this takes back would look cut off, and be taken back once more after the next start of the machine.
        held.record("withdrawn", release=journal["from"]["release"])
        os.unlink(os.path.join(self.directory, lock.UPGRADE))

    def _write(self, journal: Mapping[str, Any]) -> None:
        swap.write(os.path.join(self.directory, lock.UPGRADE), journal)

    def _record(self, identifier: str, volume: str, upgrade: Mapping[str, Any]) -> None:
        path = os.path.join(self.directory, replaced.RECORDS)
        os.makedirs(path, mode=0o755, exist_ok=True)
        content = {"at": sets.moment(), "volumes": [{"new": volume}], **({"upgrade": dict(upgrade)} if upgrade else {})}
        state.write(os.path.join(path, f"{identifier}.json"), json.dumps(content, indent=1, sort_keys=True))

    def settle(self) -> str | None:
        """End what was begun, and return how, None where nothing was: where another release is in use it counts, otherwise it is undone."""
        if not journal_of(self.directory):
            return None
        # A drill at night is waited for: services may be stopped, and nobody else may start them.
        with self.stack.alone(float(self.config["lock_wait"])), self.stack.locked(repairs=True) as held:
            # Another run may have ended it meanwhile.
            journal = journal_of(self.directory)
            if not journal:
                return None
            is_revert = bool(journal["to"].get("release"))
            if host.link_target(self.directory, "current") == journal["from"]["release"]:
                self.say(f"the exchange of {journal['at']} was cut off or failed; the release {journal['from']['release']} is started over its data")
                self._withdraw(journal, held)
                return f"{'revert' if is_revert else 'upgrade'} withdrawn"
            self._settle(journal)
            return "revert settled" if is_revert else "settled"

    def _settle(self, journal: dict[str, Any]) -> None:
        """Move the data from before to a volume of its own."""
        before, after, live = journal["from"], journal["to"], self.root(journal["live"])
        volume = self.docker.create_volume(before["volume"], throw_away=False)
        about = os.stat(live)
        os.chown(self.root(volume), about.st_uid, about.st_gid)
        os.chmod(self.root(volume), stat.S_IMODE(about.st_mode))
        self._record(journal["id"], volume, {**before, "at": journal["at"], "live": journal["live"]})
        move(before["entries"], live, self.root(volume))
        replaced.mark(self.directory, before["major"], after["major"])
        if after.get("release"):
            # It is empty, and nobody goes back to it.
            self.docker.remove_volume(after["volume"])
            with contextlib.suppress(FileNotFoundError):
                swap.forget(self.directory, after["id"])
        os.unlink(os.path.join(self.directory, lock.UPGRADE))
        self.say(f"PostgreSQL {after['major']} is in use. The data of {before['major']} is in the volume {volume}")

    def revert(self, confirmed: str | None) -> str:
        """Put the newest cluster that an upgrade replaced beside the one in use, and return the release that ran on it; raise BackupError."""
        found = replaced.records(self.directory)
        if not found:
            raise BackupError("There is no upgrade to go back from: none was done, or its old volume was removed. Nothing was changed.")
        row = found[0]
        if not os.path.isfile(os.path.join(self.directory, "releases", row["release"], "manifest.json")):
            raise BackupError(f"The release {row['release']}, which ran over the data in {row['volume']}, is not on the host any more. Nothing was changed.")
        project = self.stack.project
        if confirmed != project:
            raise BackupError(
                f"The release {row['release']} with PostgreSQL {row['major']} and its data of {row['at']} would take the place of what is in use now. All rows "
                "that were written since would be lost to the stack; they stay in a volume of another name. Nothing was changed. To do it, say so: "
                f"-e revert=true -e upgrade_postgres_confirm={project}"
            )
        written, service = self.server()
        with self.stack.alone(), self.stack.locked():
            live = row["live"]
            if copies.volume_of(service)[1] != live:
                raise BackupError(f"The current release does not use the volume {live}, which was upgraded. Nothing was changed.")
            root = self.root(live)
            present = [(place, version) for place, version in postgres.clusters_in(root).items() if version != row["major"]]
            if len(present) != 1:
                raise BackupError(f"The volume {live} does not hold one cluster of another major than {row['major']}. Nothing was changed. Look at {root}.")
            place, version = present[0]
            journal = {
                "id": self.identifier, "run": self.holder["run"], "at": sets.moment(), "live": live, "published": False,
                "from": {
                    "release": written["release"], "major": version, "entries": entries_of(root, place, row["major"]),
                    "volume": f"{live}-{version}-{self.identifier}",
                },
                "to": {"major": row["major"], "entries": row["entries"], "volume": row["volume"], "release": row["release"], "id": row["id"]},
            }  # fmt: skip
            if there := [name for name in row["entries"] if os.path.lexists(os.path.join(root, name))]:
                raise BackupError(f"{', '.join(there)} of the old cluster is in the volume {live} already. Nothing was changed. Look at {root}.")
            self._publish(journal)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.directory, "releases", row["release"], replaced.UNUSABLE))
        self.say(f"the data of PostgreSQL {row['major']} of {row['at']} is in its place, and the release {row['release']} can be started over it")
        return str(row["release"])

    def remove(self) -> bool:
        """Remove the volumes with the data that upgrades replaced, and return whether there were some; raise BackupError in the middle of an exchange."""
        if journal_of(self.directory):
            raise BackupError(
                "An upgrade of PostgreSQL or its way back was cut off, and needs the volume with the old data to end. Nothing was removed. Run this playbook "
                "without upgrade_postgres_old_volumes, which ends or undoes it (with -e revert=true the way back), and remove the old data then."
            )
        there = bool(swap.replaced(self.directory, swap.UPGRADE))
        self.stack.remove_old(swap.UPGRADE)
        return there


@dataclass(frozen=True)
class _Source:
    """The cluster that is there: its release's manifest, its server, its volume with that one's directory, where it lies there, and both major versions."""

    written: dict[str, Any]
    service: Service
    live: str
    root: str
    place: str
    old: str
    new: str


@dataclass
class _Copying:
    """A copy of a cluster that is being made, from one server in a container to another one."""

    upgrades: Upgrades
    old: str
    new: str
    user: str
    main: str
    names: list[str]
    # Whether somebody may write meanwhile.
    is_live: bool
    problems: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    rows: int = 0
    tables: int = 0

    def __post_init__(self) -> None:
        self.docker, self.say = self.upgrades.docker, self.upgrades.say

    def copy(self) -> dict[str, Any]:
        """Copy the roles and every database, and compare; return what was found. Raises BackupError."""
        self._roles()
        sizes: dict[str, int] = {}
        for name in self.names:
            if name == "template0":
                continue
            with postgres.session(self.docker, self.old, self.user, name, held=True) as opened:
                if name in ("template1", "postgres") and opened.ask(postgres.HAS_OBJECTS) == ["f"]:
                    continue
                self._database(name, opened)
                sizes[name] = len(sizes)
        self._compare_clusters()
        if self.problems:
            raise BackupError(f"The copy is not what the original is: {'; '.join(self.problems[:5])}. The data is as it was.")
        self._run("dropdb", "--if-exists", "--maintenance-db=postgres", f"--username={self.user}", "--host=127.0.0.1", SCRATCH)
        self.say("gathering statistics for the planner")
        self._run("vacuumdb", "--all", "--analyze-only", "--quiet", f"--username={self.user}", "--host=127.0.0.1")
        self.say(f"{len(sizes)} databases with {self.tables} tables and {self.rows} rows are equal, by hash")
        for line in self.findings:
            self.say(line)
        return {"databases": sorted(sizes), "tables": self.tables, "rows": self.rows, "findings": self.findings}

    def _run(self, *command: str) -> None:
        status, _output, _error = self.docker.attempt("exec", *postgres.WRITABLE, self.new, *command)
        if status != 0:
            raise BackupError(f"`{command[0]}` failed in the new server with exit code {status}. The data is as it was.")

    def _roles(self) -> None:
        # The verifiers of the passwords go from one process to the other, and are told nobody.
        arguments = ["pg_dumpall", "--globals-only", "--host=127.0.0.1", f"--username={self.user}", f"--database={self.main}"]
        status, output, _error = self.docker.attempt("exec", *postgres.client(self.old, *arguments), seconds=600)
        if status != 0:
            raise BackupError(f"The roles cannot be dumped: pg_dumpall ended with exit code {status}. The data is as it was.")
        with postgres.session(self.docker, self.old, self.user, self.main) as opened:
            output = "\n".join([postgres.whole_roles(opened, output), *postgres.administration(opened, everybody=True), ""])
        text = "\n".join(postgres.role_statements(output))
        status, _output, error = self.docker.attempt(
            "exec", "--interactive", self.new, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "--host=127.0.0.1",
            f"--username={self.user}", "--dbname=postgres", "--file=-", stdin=text.encode(),
        )  # fmt: skip
        if status != 0:
            raise BackupError(f"The new server does not take a role as it is: {postgres.failed_statement(text, error)}. The data is as it was.")

    def _database(self, name: str, opened: postgres.Session) -> None:
        self._check_extensions(name, opened)
        self.say(f"copying the database {name}")
        snapshot = opened.ask("SELECT pg_export_snapshot();")[0]
        dump = postgres.dump(self.docker, self.old, self.user, name, snapshot)
        own = ["--create", "--clean", "--if-exists"] if name not in ("postgres", "template1") else []
        target = "postgres" if own else name
        restore = self.docker.start(
            "exec", "--interactive", *postgres.WRITABLE, self.new, "pg_restore", *own, "--host=127.0.0.1", f"--username={self.user}",
            f"--dbname={target}", stdin=dump.stdout.fileno(), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            # The one that reads has it; when that ends, the dump has to notice.
            dump.stdout.close()
            restored = restore.wait()
            dumped = dump.wait(STOP_SECONDS)
        finally:
            restore.kill()
            dump.kill()
        views = postgres.unfilled(restore.error()) if restored == 1 else []
        # A dump that ends early makes the restore fail too, whose error names no object then.
        if dumped != 0 and (views is not None or not postgres.names_objects(restore.error())):
            raise BackupError(f"pg_dump failed for the database {name} with exit code {dumped}: {postgres.objects_of(dump.error())}. The data is as it was.")
        if views is None or restored not in (0, 1):
            raise BackupError(
                f"The new server does not take the database {name}: pg_restore ended with exit code {restored} at {postgres.objects_of(restore.error())}. "
                "The data is as it was. An index, a constraint or a generated column fails where its function names things without their schema: pg_restore "
                "sets no search_path, so give it to the function (ALTER FUNCTION ... SET search_path = public), and run this again."
            )
        if views:
            self.findings.append(f"{postgres.empty_views(name, views)}. Fill them after the upgrade, by REFRESH MATERIALIZED VIEW")
        self._update_extensions(name)
        self.say(f"comparing the database {name}")
        self._compare(name, opened)

    def _check_extensions(self, name: str, opened: postgres.Session) -> None:
        installed = json.loads(opened.ask(_EXTENSIONS)[0] or "{}")
        with postgres.session(self.docker, self.new, self.user, "postgres") as other:
            available = set(json.loads(other.ask(_AVAILABLE)[0]))
        if missing := sorted(set(installed) - available):
            raise BackupError(
                f"The database {name} has the extension {', '.join(missing)}, which the new image does not have. The data is as it was. Use an image that has "
                "it, or drop the extension."
            )
        if (version := installed.get("postgis")) and int(version.split(".")[0]) < 3:
            raise BackupError(f"The database {name} has PostGIS {version}, whose rasters are of another extension since 3.0. Upgrade PostGIS first.")
        schema = opened.ask(postgres.SCHEMA_OF_POSTGIS)[0]
        if schema:
            self._check_references(name, schema, opened)

    def _check_references(self, name: str, schema: str, opened: postgres.Session) -> None:
        """Raise BackupError for reference systems of a user's own whose numbers PostGIS has taken meanwhile."""
        condition = opened.ask(
            "SELECT coalesce((SELECT condition FROM (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_extension) x "
            f"WHERE oid = '{schema}.spatial_ref_sys'::regclass), '');"
        )
        own = {int(line) for line in opened.ask(f"SELECT srid FROM {schema}.spatial_ref_sys {' '.join(condition)};")}
        if not own:
            return
        status, output, _error = self.docker.attempt(
            "exec", self.new, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "--host=127.0.0.1", f"--username={self.user}", f"--dbname={SCRATCH}",
            "-c", "SET client_min_messages = error", "-c", "CREATE EXTENSION IF NOT EXISTS postgis", "-c", "SELECT srid FROM spatial_ref_sys",
        )  # fmt: skip
        if status != 0:
            raise BackupError("PostGIS cannot be created in the new server. The data is as it was.")
        if taken := sorted(own & {int(line) for line in output.split()}):
            raise BackupError(
                f"The database {name} has reference systems of its own in spatial_ref_sys whose numbers the new PostGIS brings along: "
                f"{', '.join(map(str, taken[:10]))}. The data is as it was. Delete those rows, or give them numbers from 910000 to 998999."
            )

    def _update_extensions(self, name: str) -> None:
        """Bring extensions to the versions of the new image. A dump names none, so most are already."""
        with postgres.session(self.docker, self.new, self.user, name) as opened:
            outdated = [json.loads(line) for line in opened.ask(_OUTDATED)]
            schema = opened.ask(postgres.SCHEMA_OF_POSTGIS)[0]
        commands = [f'ALTER EXTENSION "{extension}" UPDATE' for extension, _version in outdated]
        if schema:
            commands.append(f"SELECT {schema}.postgis_extensions_upgrade()")
        if commands:
            given = [word for command in ["SET client_min_messages = error", *commands] for word in ("-c", command)]
            self._run("psql", "-Xqo", "/dev/null", "-v", "ON_ERROR_STOP=1", "--host=127.0.0.1", f"--username={self.user}", f"--dbname={name}", *given)

    def _compare(self, name: str, opened: postgres.Session) -> None:
        known = {json.loads(line) for line in opened.ask(_TABLES_OF_EXTENSIONS)}
        wanted = postgres.facts(opened)
        shape = self._shape(opened)
        with postgres.session(self.docker, self.new, self.user, name) as other:
            # What extensions have got since, nobody has written to.
            newer = {json.loads(line) for line in other.ask(_TABLES_OF_EXTENSIONS)} - known
            found = postgres.facts(other, wanted["tables"])
            found_shape = self._shape(other)
        found["tables"] = {table: row for table, row in found["tables"].items() if table not in newer}
        self.problems += postgres.differences(wanted, found, name) + compared(shape, found_shape, name)
        self.tables += len(wanted["tables"])
        self.rows += sum(row["rows"] for row in wanted["tables"].values())
        for extension, version in sorted(wanted["extensions"].items()):
            if (now := found["extensions"].get(extension)) != version:
                self.findings.append(f"{name}: the extension {extension} goes from {version} to {now}")

    def _shape(self, opened: postgres.Session) -> dict[str, Any]:
        # The position of a sequence is that of now, and not that of the session's moment.
        return {name: row for name, row in described(opened.ask(_SCHEMA)).items() if not (self.is_live and name.startswith("sequence "))}

    def _compare_clusters(self) -> None:
        asked: list[tuple[dict[str, Any], str, dict[str, str], str]] = []
        lines: list[dict[str, list[dict[str, Any]]]] = []
        for container in (self.old, self.new):
            with postgres.session(self.docker, container, self.user, "postgres" if container == self.new else self.main) as opened:
                settings = json.loads(opened.ask(_FILE_SETTINGS)[0])
                # Others are the upgrade's own, or made meanwhile.
                rights = {name: row for name, row in described(opened.ask(_RIGHTS)).items() if name.removeprefix("database ") in self.names}
                asked.append((described(opened.ask(_ROLES)) | rights, opened.ask("SHOW data_checksums;")[0], settings, opened.ask("SHOW server_version;")[0]))
                shown = {name: query for name, query in _LINES.items() if name == "pg_hba.conf" or opened.version >= _SHOWS_MAPPINGS}
                lines.append({name: [json.loads(line) for line in opened.ask(query)] for name, query in shown.items()})
        (roles, checksums, settings, version), (new_roles, new_checksums, new_settings, new_version) = asked
        self.problems += compared(roles, new_roles, "the cluster")
        self.findings.insert(0, f"PostgreSQL goes from {version} to {new_version}")
        if checksums != new_checksums:
            self.findings.append(f"data checksums were {checksums} and are {new_checksums}")
        if lost := sorted(name for name, value in settings.items() if new_settings.get(name) != value):
            self.findings.append(f"settings of the old cluster's files that the new one has not: {', '.join(lost)}. Set them with ALTER SYSTEM where needed")
        for name in sorted(set(lines[0]) & set(lines[1])):
            self.findings += changed_lines(lines[0][name], lines[1][name], name)


def described(lines: list[str]) -> dict[str, Any]:
    """Return descriptions by name from lines of JSON: lists that begin with the name."""
    rows = [json.loads(line) for line in lines if line]
    return {row[0]: row[1:] for row in rows}


def work(upgrades: Upgrades, wanted: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Do what the module was asked for, and return its result; raise BackupError or LockedError."""
    found: dict[str, Any] = {"changed": True}
    if wanted == "rehearsed":
        found |= {"changed": False, "found": None}
        try:
            found["found"] = upgrades.rehearse(params["from_image"])
        except UpgradedError as error:
            upgrades.say(str(error))
    elif wanted == "upgraded":
        found |= {"found": upgrades.upgrade(params["from_image"])}
    elif wanted == "settled":
        done = upgrades.settle()
        found |= {"changed": done is not None, "done": done}
    elif wanted == "reverted":
        found |= {"release": upgrades.revert(params["confirm"])}
    else:
        found |= {"changed": upgrades.remove()}
    return found
