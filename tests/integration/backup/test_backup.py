# SPDX-License-Identifier: GPL-3.0-or-later
"""What is stored comes back as it was, what is not whole is never shown as whole, and who is killed anywhere has lost nothing."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import postgres, redis
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import Docker, Service, await_answer, running
from deployed import docker, full_only, seen_in_processes

ROUNDS, SAMPLE_ROUNDS = 30, 1


def killed_at(stack, word: str, *arguments: str, delay: float = 0.0) -> str:
    """Start the program, kill it when it says a word, and return what it had said; fail where it ended before."""
    process = stack.start(*arguments)
    said = ""
    for line in process.stdout:
        said += line
        if word in line:
            time.sleep(delay)
            assert process.poll() is None, said
            process.send_signal(signal.SIGKILL)
            break
    process.wait(60)
    process.stdout.close()
    assert word in said, said
    return said


# --- What is stored comes back


def aside(stack) -> None:
    """Have a table and a database in a tablespace, whose directory no other server has."""
    docker("exec", f"{stack.project}-postgres-1", "mkdir", "-p", "/var/lib/postgresql/aside")
    stack.sql("CREATE TABLESPACE aside LOCATION '/var/lib/postgresql/aside'")
    stack.sql(
        "CREATE TABLE public.aside (n int PRIMARY KEY) TABLESPACE aside; INSERT INTO public.aside VALUES (1); ALTER TABLE public.part_1 SET TABLESPACE aside"
    )
    stack.sql("ALTER DATABASE roles SET TABLESPACE aside")


def test_a_round_trip_brings_everything_back(stack, full):
    stack.well("remove-old")
    aside(stack)
    for number in range(ROUNDS if full else SAMPLE_ROUNDS):
        stack.change(objects=300 if number == 0 else 20)
        before = stack.fingerprint()
        running = stack.containers()
        stack.well("backup")
        assert "campaign_db: materialized views whose queries fail here" in stack.well("drill")
        # Neither touched what runs, and nothing is left of either.
        assert stack.containers() == running
        assert stack.own() == []
        assert stack.fingerprint() == before
        name, state = stack.sets()[-1]
        assert state == "verified"
        assert stack.state()["last_good_drill"]["set"] == name
        stack.change()
        stack.sql("DELETE FROM campaign.campaigns; DROP TABLE public.shapes; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
        changed = stack.fingerprint()
        assert changed != before
        volumes = stack.volumes()

        refused = stack.run("restore")
        assert refused.status == 3
        assert "Nothing was changed" in refused.text
        assert stack.run("restore", "--confirm", "another").status == 3
        assert (stack.fingerprint(), stack.volumes()) == (changed, volumes)

        nameless = stack.nameless_volumes()
        assert "campaign_db: the materialized views that were empty are filled" in stack.well("restore", "--confirm", stack.project)
        assert stack.fingerprint() == before
        assert stack.unfilled() == ""
        assert stack.sql("SELECT count(*) FROM pg_tablespace WHERE spcname = 'aside'") == "0"
        # Those of jobs, whose images say that they want one, went with their containers.
        assert nameless
        assert not (nameless - stack.nameless_volumes()) & set(docker("volume", "ls", "--quiet").split())
        # What was there before is kept until a person lets it go.
        assert len(stack.volumes()) == len(volumes) + 3
        stack.well("remove-old")
        assert stack.volumes() == volumes
        assert stack.own() == []


def test_the_playbooks_do_the_same_and_a_deploy_follows(stack):
    drilled = stack.play("drill")
    assert drilled.status == 0, drilled.text[-3000:]
    asked = stack.play("restore")
    assert asked.status != 0
    assert "backup_restore_confirm=campaign-keep" in asked.text
    restored = stack.play("restore", backup_restore_confirm=stack.project)
    assert restored.status == 0, restored.text[-3000:]
    removed = stack.play("restore", backup_old_volumes="remove")
    assert removed.status == 0, removed.text[-3000:]
    deployed = stack.play("site")
    assert deployed.status == 0, deployed.text[-3000:]
    again = stack.play("backup")
    assert "set_up | Write the program, its configuration, its secrets and its schedule] *** ok:" in again.text
    status = stack.play("status")
    assert "Backup the newest set is" in status.text
    crontab = Path(f"/etc/cron.d/{stack.project}-backup").read_text()
    assert f"30 2 * * * root {stack.directory}/backup/run --quiet backup --drill >/dev/null" in crontab


# --- Another password


def test_a_changed_password_opens_what_the_old_one_made(stack):
    stack.well("backup")
    oldest = next(name for name, state in stack.sets() if state in ("complete", "verified"))
    files = stack.directory / "backup/secrets"
    old = (files / "password").read_text()
    changed = stack.play("backup", backup_password="another horse battery staple")
    assert changed.status == 0, changed.text[-3000:]
    assert [path.name for path in files.iterdir()] == ["password"]
    assert len(json.loads(stack.restic("key", "list", "--json"))) == 1
    stack.well("drill", "--set", oldest)
    new = (files / "password").read_text()
    (files / "password").write_text(old)
    try:
        assert "does not open with this password" in stack.run("list").text
    finally:
        (files / "password").write_text(new)
    # One that was never the repository's is refused, and what is in force stays.
    (files / "password").write_text("of another repository\n")
    refused = stack.play("backup", backup_password="of a third repository")
    assert refused.status != 0
    assert "does not open with this password, nor with one that the host had before" in refused.text
    assert (files / "password").read_text() == "of another repository\n"
    # Back to the first one, with the right one on the host again.
    (files / "password").write_text(new)
    back = stack.play("backup")
    assert back.status == 0, back.text[-3000:]
    assert (files / "password").read_text() == old


# --- What is not whole


def repository_of(stack, tmp_path) -> Path:
    """Return a copy of the repository that may be damaged."""
    target = tmp_path / "repository"
    shutil.copytree(stack.repository, target)
    for path in (target, *target.rglob("*")):
        os.chown(path, 10010, 10010)
    return target


def packs(repository: Path) -> list[Path]:
    """Return the files with the data; which of them a set is in, only restic knows."""
    found = [path for path in (repository / "data").rglob("*") if path.is_file()]
    for path in found:
        path.chmod(0o600)
    return found


def truncate(repository: Path) -> None:
    for path in packs(repository):
        os.truncate(path, path.stat().st_size // 2)


def flip(repository: Path) -> None:
    for path in packs(repository):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)


def lose_packs(repository: Path) -> None:
    for path in packs(repository):
        path.unlink()


def lose_the_index(repository: Path) -> None:
    for path in (repository / "index").iterdir():
        path.unlink()


def flip_the_snapshots(repository: Path) -> None:
    for path in (repository / "snapshots").iterdir():
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def lose_the_key(repository: Path) -> None:
    for path in (repository / "keys").iterdir():
        path.unlink()


def empty(repository: Path) -> None:
    shutil.rmtree(repository)
    repository.mkdir()
    os.chown(repository, 10010, 10010)


DAMAGES = [flip, empty, truncate, lose_packs, lose_the_index, flip_the_snapshots, lose_the_key]
DAMAGED_SAMPLE = 1
# What the program says while it works, in the order in which it does.
BACKUP_MOMENTS = ["dumping", "objects are in", "copying Redis", "counting", "is stored"]
RESTORE_MOMENTS = ["exchanging", "reading", "writing", "comparing", "stopping", "starting"]


def pytest_generate_tests(metafunc):
    sizes = {"damage": (DAMAGES, DAMAGED_SAMPLE), "backup_moment": (BACKUP_MOMENTS, 1), "restore_moment": (RESTORE_MOMENTS, 1)}
    for name, (everything, sample) in sizes.items():
        if name in metafunc.fixturenames:
            chosen = everything if metafunc.config.getoption("--full") else everything[:sample]
            metafunc.parametrize(name, chosen, ids=lambda one: getattr(one, "__name__", str(one).replace(" ", "-")))


def test_a_damaged_repository_gives_no_set(stack, tmp_path, damage):
    repository = repository_of(stack, tmp_path)
    damage(repository)
    running, before = stack.containers(), stack.fingerprint()
    with stack.configured(repository=str(repository)):
        for arguments in (["drill"], ["restore", "--confirm", stack.project]):
            result = stack.run(*arguments)
            assert result.status == 1, result.text
    assert (stack.containers(), stack.fingerprint(), stack.own()) == (running, before, [])
    assert stack.state()["last_drill"]["result"] == "failed"


def test_another_password_opens_nothing(stack):
    path = stack.directory / "backup/secrets/password"
    before = path.read_bytes()
    path.write_bytes(b"another password of length\n")
    try:
        for arguments in (["backup"], ["drill"]):
            result = stack.run(*arguments)
            assert result.status == 1
            assert "does not open with this password" in result.text
    finally:
        path.write_bytes(before)


def test_a_full_target_ends_with_an_error_and_gives_no_set(stack, tmp_path):
    repository = tmp_path / "full"
    repository.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=0777", "tmpfs", str(repository)], check=True)
    try:
        hook = tmp_path / "hook"
        hook.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/told\n')
        hook.chmod(0o755)
        with stack.configured(repository=str(repository), hook=[str(hook)]):
            result = stack.run("backup")
            assert result.status == 1, result.text
            assert "no space left on device" in result.text
            assert stack.state()["last_run"]["result"] == "failed"
            drilled = stack.run("drill")
            assert drilled.status == 1
            assert "no whole set" in drilled.text or "There is no repository" in drilled.text
        assert (tmp_path / "told").read_text().split() == ["failed", "drill_failed"]
    finally:
        subprocess.run(["umount", str(repository)], check=True)
    assert stack.own() == []


@full_only
def test_a_repository_that_was_full_has_room_for_the_next_set(stack, tmp_path):
    """What a set that did not fit has stored is named by nothing, and would stay for ever."""
    repository, filler = tmp_path / "full", tmp_path / "full/filler"
    repository.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m,mode=0777", "tmpfs", str(repository)], check=True)
    try:
        with stack.configured(repository=str(repository)):
            stack.well("backup")
            # Room for one pack of restic's, and not for three.
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(repository).free - 24 * 1024**2)
            before = shutil.disk_usage(repository).used
            stack.put("other/large", os.urandom(48 * 1024**2))
            result = stack.run("backup")
            assert result.status == 1, result.text
            assert "There is no room left for the repository" in result.text
            assert abs(shutil.disk_usage(repository).used - before) < 1024**2
            stack.put("other/large", b"small")
            stack.well("backup", "--drill")
    finally:
        subprocess.run(["umount", str(repository)], check=True)
    assert stack.own() == []


def test_a_backup_that_is_killed_gives_no_set(stack, backup_moment):
    known = {name for name, state in stack.sets() if state in ("complete", "verified")}
    killed_at(stack, backup_moment, "backup")
    found = {name: state for name, state in stack.sets() if name not in known}
    if backup_moment != "is stored":
        # Docker's client took the end of its input with it, so restic may have written what it had; nobody takes that for a set.
        assert set(found.values()) <= {"incomplete"}
        for name in found:
            refused = stack.run("restore", "--set", name, "--confirm", stack.project)
            assert refused.status == 1
            assert "is incomplete, and is not used" in refused.text
    # It held the lock of the stack, and of a process of this machine it is known that it has ended.
    stack.well("backup")
    assert "incomplete" not in dict(stack.sets()).values()
    assert stack.own() == []
    assert not list((stack.directory / "backup").glob("private-*"))


def test_a_dump_that_ends_in_its_middle_gives_no_set(stack):
    known = stack.sets()
    ended = threading.Event()

    def end_it() -> None:
        while not ended.wait(0.02):
            stack.docker("exec", f"{stack.project}-postgres-1", "sh", "-c", "pkill -9 -x pg_dump || true")

    # One that says that all is well, with an exit code that says otherwise, is seen by the code alone.
    stack.sql("CREATE TABLE public.large AS SELECT i, repeat(md5(i::text), 50) AS t FROM generate_series(1, 60000) i")
    try:
        process = stack.start("backup")
        for line in process.stdout:
            if "dumping" in line:
                thread = threading.Thread(target=end_it)
                thread.start()
                break
        output, _error = process.communicate(timeout=200)
        ended.set()
        thread.join()
        assert process.returncode == 1, output
        assert "pg_dump failed" in output
        assert stack.sets() == known
    finally:
        ended.set()
        stack.sql("DROP TABLE public.large")


# --- What a drill finds


def members(stack) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield what the newest set consists of."""
    with tarfile.open(fileobj=io.BytesIO(stack.dumped("latest", "set.tar"))) as source:
        for member in source:
            yield member, source.extractfile(member).read()


def rewritten(stack, change) -> str:
    """Store a set that was changed after it was made, marked as whole, and return its name."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as made:
        for member, before in members(stack):
            content = change(member.name, before)
            if content is not None:
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    # Newer than any other.
    name = f"20991231T235959Z-{hashlib.sha256(os.urandom(8)).hexdigest()[:4]}"
    stack.stored("set.tar", target.getvalue(), f"set={name},complete")
    return name


def test_a_drill_finds_a_wrong_row_and_objects_that_are_missing_or_changed(stack):
    stack.well("backup")
    objects = []

    def change(name: str, content: bytes) -> bytes | None:
        if name.startswith("objects/campaign-assets/campaigns") and len(objects) < 2:
            objects.append(name)
            return None if len(objects) == 1 else bytes([content[0] ^ 1]) + content[1:]
        if name == "manifest.json":
            # As if one value of one row had been another one when it was counted.
            found = json.loads(content)
            row = found["databases"]["campaign_db"]["tables"]['public."Odd Name"']
            row["hash"] = str(int(row["hash"]) + 1)
            return json.dumps(found).encode()
        return content

    name = rewritten(stack, change)
    running, before = stack.containers(), stack.fingerprint()
    result = stack.run("drill")
    assert result.status == 1
    assert 'public."Odd Name", some are not those of the set' in result.text
    assert "is missing" in result.text
    assert "is not as the set has it" in result.text
    assert "3 things" in result.text
    assert dict(stack.sets())[name] == "damaged"
    assert stack.state()["last_drill"]["result"] == "failed"
    refused = stack.run("restore", "--set", name, "--confirm", stack.project)
    assert "is damaged, and is not used" in refused.text
    assert (stack.containers(), stack.fingerprint(), stack.own()) == (running, before, [])


def hashes(stack) -> dict:
    found = {member.name: content for member, content in members(stack)}
    return json.loads(found["manifest.json"])["databases"]["campaign_db"]["tables"]


def test_a_hash_sees_each_column_and_nothing_else(stack):
    """A column may have the name that a query gives its table."""
    stack.well("backup")
    before = hashes(stack)
    stack.sql("""UPDATE public."Odd Name" SET f = f + 1 WHERE t = (SELECT min(t) FROM public."Odd Name")""")
    stack.well("backup")
    after = hashes(stack)
    # What the workers write each moment.
    left_out = ("campaign.campaigns", "campaign.ticks")
    assert {name for name in before if before[name] != after[name] and name not in left_out} == {'public."Odd Name"'}
    assert before["public.empty"]["rows"] == 0


def test_nobody_truncates_what_a_moment_holds(stack, tmp_path):
    """What is truncated is empty in an earlier moment, too, and a good set would be called damaged: https://www.postgresql.org/docs/18/mvcc-caveats.html"""
    server = (Docker(stack.project, str(tmp_path), f"{stack.project}-held"), f"{stack.project}-postgres-1", "campaign_user", "campaign_db")
    rows = stack.sql("SELECT count(*) FROM public.shapes")
    with postgres.session(*server, held=True) as held:
        with pytest.raises(AssertionError, match="lock timeout"):
            stack.sql("SET lock_timeout = '1s'; TRUNCATE public.shapes")
        assert held.ask("SELECT count(*) FROM public.shapes;") == [rows]
    assert stack.sql("BEGIN; TRUNCATE public.shapes; ROLLBACK") == ""


def test_what_ends_by_itself_is_not_compared(stack, tmp_path):
    """In any database of Redis, and within a hash: a set would be called damaged as soon as some of it has ended."""
    own, image = Docker(stack.project, str(tmp_path), f"{stack.project}-ends"), docker("inspect", "-f", "{{.Config.Image}}", f"{stack.project}-redis-1")
    volumes = [own.create_volume(f"{stack.project}_ends-{number}") for number in range(3)]
    server = Service("redis", image, "", {}, [], [], "", {"/data": volumes[0]}, {})
    name = f"{stack.project}-ends"
    try:
        command = ["redis-server", "--dir", "/data", "--appendonly", "yes"]
        # One that is killed may not have written down what it has acknowledged.
        with running(own, name, ["--network", "none", "--volume", f"{volumes[0]}:/data"], image, command, ends_well=True):
            await_answer(own, name, "sh", "-c", "redis-cli ping | grep -qx PONG")
            commands = ["SET lasts 1", "HSET hash lasts 1 ends 2", "HPEXPIRE hash 1500 FIELDS 1 ends", "SELECT 3", "SET lasts 2", "SET ends 3 PX 1500"]
            said = own.ask("exec", "--interactive", name, "redis-cli", stdin="\n".join([*commands, ""]).encode())
            assert "ERR" not in said
        found = []
        for volume in volumes[1:]:
            redis.copy(own, server, volumes[0], volume, f"{name}-copy")
            found.append(redis.facts(own, server, volume, f"{name}-look"))
            time.sleep(2)
        assert found[0] == found[1]
        assert found[0]["keys"] == 3
    finally:
        for volume in volumes:
            own.remove_volume(volume)


def test_a_missing_object_ends_with_an_error_and_the_rest_is_safe(stack):
    key = stack.sql("SELECT 'campaigns/' || id FROM campaign.campaigns WHERE asset_type IS NOT NULL LIMIT 1")
    client = stack.s3()
    with client.opened(next(one for one in client.objects("campaign-assets") if one.key == key)) as (answer, _about):
        content = answer.read()
    client.ask("removing it", "DELETE", f"/campaign-assets/{key}")
    try:
        result = stack.run("backup")
        assert result.status == 4, result.text
        assert f"campaign-assets/{key}" in result.text
        assert stack.state()["last_run"]["result"] == "missing"
        assert stack.sets()[-1][1] == "complete"
        drilled = stack.run("drill")
        assert drilled.status == 4
        assert f"campaign-assets/{key}" in drilled.text
        assert stack.sets()[-1][1] == "verified"
        assert stack.run("watch").status == 1
    finally:
        stack.put(key, content)
    stack.well("backup", "--drill")
    assert stack.run("watch").text == ""


# --- A restore that is killed


def test_a_restore_that_is_killed_has_lost_nothing(stack, restore_moment):
    stack.well("backup")
    stack.change()
    before = stack.fingerprint()
    killed_at(stack, restore_moment, "restore", "--confirm", stack.project, delay=0.02)
    if (stack.directory / "backup/swap.json").exists():
        refused = stack.play("site")
        assert refused.status != 0
        assert "cut off while it exchanged" in refused.text
        stack.well("undo")
    deployed = stack.play("site", stack_lock_takeover=True)
    assert deployed.status == 0, deployed.text[-3000:]
    assert stack.fingerprint() == before
    stack.well("restore", "--confirm", stack.project)
    assert stack.own() == []
    stack.well("remove-old")


def test_a_restore_whose_services_do_not_come_up_puts_everything_back(stack):
    stack.well("backup")
    stack.well("remove-old")
    stack.change()
    before, volumes = stack.fingerprint(), stack.volumes()
    with stack.configured(health_timeout=0):
        result = stack.run("restore", "--confirm", stack.project)
    assert result.status == 1, result.text
    assert "did not come up" in result.text
    deployed = stack.play("site")
    assert deployed.status == 0, deployed.text[-3000:]
    # A service may have written into what was restored.
    assert stack.fingerprint() == before
    assert len(stack.volumes()) == len(volumes) + 3
    stack.well("remove-old")
    assert stack.volumes() == volumes


# --- Beside a deploy, and what leaks


def test_a_backup_holds_the_lock_and_waits_for_a_deploy(stack):
    lock = stack.directory / "lock.json"
    held = []
    process = stack.start("backup")
    for line in process.stdout:
        if "dumping the database campaign_db" in line:
            # It would be over before a playbook comes to it. Who is stopped is alive, and holds what it has.
            process.send_signal(signal.SIGSTOP)
            held.append(json.loads(lock.read_text() or "{}"))
            refused = stack.play("down")
            process.send_signal(signal.SIGCONT)
            assert refused.status != 0
            assert "Another run works on this stack" in refused.text
    assert process.wait(100) == 0
    assert held
    assert held[0]["pid"] == process.pid
    assert lock.read_text() == ""
    lock.write_text(json.dumps({"run": "another", "user": "ada", "controller": "desk", "pid": 1, "since": "now"}))
    known = stack.sets()
    try:
        with stack.configured(lock_wait=1):
            result = stack.run("backup")
        assert result.status == 1
        assert "Another run works on this stack: ada@desk" in result.text
        assert stack.sets() == known
    finally:
        lock.write_text("")


def test_two_at_once_are_one(stack):
    first = stack.start("backup")
    for line in first.stdout:
        if "objects are in" in line:
            break
    second = stack.run("drill")
    first.communicate(timeout=200)
    assert (first.returncode, second.status) == (0, 1)
    assert "is at work: `backup`, process" in second.text


def test_no_secret_and_no_row_is_seen_from_outside(stack):
    row = "canary-row-7d1f"
    stack.sql(f"""INSERT INTO public."Odd Name" (t) VALUES ('{row}')""")
    password = (stack.directory / "backup/secrets/password").read_text().strip()
    wanted = {"password": password, "row": row, **stack.files()}
    with seen_in_processes(wanted) as seen:
        printed = stack.well("backup", "--drill")
    assert seen == {}
    assert [name for name, value in wanted.items() if value in printed] == []
    places = [path for path in (stack.directory / "backup").rglob("*") if path.is_file() and path.parent.name != "secrets"]
    places += [Path(f"/etc/cron.d/{stack.project}-backup"), *(path for path in stack.repository.rglob("*") if path.is_file())]
    for path in places:
        content = path.read_bytes()
        assert [name for name, value in wanted.items() if value.encode() in content] == [], path
    assert (stack.directory / "backup/secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (stack.directory / "backup/secrets").iterdir()} == {0o400}
    # No secret of the stack is in a set either.
    inside = b"".join(content for _member, content in members(stack))
    assert row.encode() in inside
    assert [name for name, value in wanted.items() if name != "row" and value.encode() in inside] == []
