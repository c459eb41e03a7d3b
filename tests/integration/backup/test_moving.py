# SPDX-License-Identifier: GPL-3.0-or-later
"""Out and in: what an export holds is loaded by the usual tools, and comes back; so does the data of a Compose project that was made by hand."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.module_utils.backup import plain, postgres, s3

HAND = "campaign-hand"
HAND_PORT = 23099
HAND_PASSWORD = "made by hand"
# Names that are no names of files, of those that MinIO takes.
KEYS = ["upper/Logo.png", "upper/logo.png", "100%/%2e%2e", "new\nline", "ü/日本.png", "blank /x", "-option", "con/aux.txt"]


def image_of(stack, service: str) -> str:
    return stack.docker("inspect", "--format", "{{.Config.Image}}", f"{stack.project}-{service}-1").strip()


def compared(found: dict) -> dict:
    """Return a fingerprint without the superuser that a stack made by hand has besides."""
    return {**found, "roles": ",".join(name for name in found["roles"].strip().split(",") if name != "postgres")}


@pytest.fixture(scope="module")
def export(stack, tmp_path_factory) -> tuple[Path, dict]:
    """An export, and what was stored when it was made."""
    stack.change()
    for key in KEYS:
        stack.put(key, key.encode(), **{"content-type": "text/x-kept", "x-amz-meta-owner": "ada"})
    stack.put("large", b"0123456789abcdef" * (2 * 1024**2))
    client = stack.s3()
    with contextlib.suppress(s3.S3Error):
        client.create_bucket("empty")
    client.close()
    target = tmp_path_factory.mktemp("exports") / "export"
    before = stack.fingerprint()
    made = stack.play("export", backup_export_directory=str(target))
    assert made.status == 0, made.text[-3000:]
    return target, before


def test_an_export_is_whole_and_for_nobody_else(stack, export):
    target, _before = export
    assert target.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=target, check=True)
    rows = {row["key"]: row for row in map(json.loads, (target / "objects.jsonl").read_text().splitlines())}
    assert set(rows) >= {*KEYS, "large"}
    for key in KEYS:
        assert rows[key]["headers"] == {"content-type": "text/x-kept", "x-amz-meta-owner": "ada"}
        assert (target / rows[key]["file"]).read_bytes() == key.encode()
    assert rows["large"]["file"] == "objects/campaign-assets/large"
    assert "empty" in json.loads((target / "buckets.json").read_text())
    roles = (target / "postgres/roles.sql").read_text()
    assert "CREATE ROLE campaign_user" in roles
    assert "PASSWORD" not in roles
    # No secret of the stack is in it.
    wanted = [value.encode() for value in stack.files().values()]
    assert [path for path in target.rglob("*") if path.is_file() and any(value in path.read_bytes() for value in wanted)] == []
    assert stack.own() == []
    with_hashes = target.parent / "hashes"
    stack.well("export", "--to", str(with_hashes), "--passwords")
    assert "PASSWORD 'SCRAM-SHA-256$" in (with_hashes / "postgres/roles.sql").read_text()
    for where, told in ((str(target), "is not empty"), (f"{target}/not/there", "is not a directory on this host")):
        refused = stack.play("export", backup_export_directory=where)
        assert refused.status != 0
        assert told in refused.text
    assert stack.play("export").status != 0


def tree(path: Path) -> dict[str, str]:
    """Return what lies in a directory, with times and owners."""
    found = {}
    for one in [path, *sorted(path.rglob("*"))]:
        status = one.lstat()
        content = hashlib.sha256(one.read_bytes()).hexdigest() if one.is_file() else ""
        found[str(one)] = f"{status.st_mtime_ns} {status.st_uid} {status.st_mode} {content}"
    return found


@pytest.fixture
def hand_made(stack, export, tmp_path) -> Iterator[dict[str, Path]]:
    """A Compose project with names and passwords of its own, which the export was loaded into as its page says."""
    target, _before = export
    services = {
        "postgres": {"environment": {"POSTGRES_USER": "postgres", "POSTGRES_PASSWORD": HAND_PASSWORD}, "volumes": ["postgres-data:/var/lib/postgresql"]},
        "redis": {"command": "redis-server", "volumes": ["keys:/data"]},
        "minio": {
            "command": "server /data", "user": "0:0", "environment": {"MINIO_ROOT_USER": "hand", "MINIO_ROOT_PASSWORD": HAND_PASSWORD},
            "volumes": ["minio-data:/data"], "ports": [f"127.0.0.1:{HAND_PORT}:9000"],
        },
    }  # fmt: skip
    for name, body in services.items():
        body["image"] = image_of(stack, name)
    file = tmp_path / "compose.yml"
    file.write_text(yaml.safe_dump({"services": services, "volumes": {"postgres-data": {}, "keys": {}, "minio-data": {}}}))
    compose = ["docker", "compose", "--project-name", HAND, "--file", str(file)]

    def run(*arguments: str, **options) -> str:
        done = subprocess.run([*compose, *arguments], capture_output=True, text=True, timeout=200, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("create")
        names = {"postgres": f"{HAND}_postgres-data", "redis": f"{HAND}_keys", "minio": f"{HAND}_minio-data"}
        paths = {name: Path(stack.docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip()) for name, volume in names.items()}
        (paths["redis"] / "dump.rdb").write_bytes((target / "redis/dump.rdb").read_bytes())
        (paths["redis"] / "dump.rdb").chmod(0o644)
        run("start")
        deadline = time.monotonic() + 60
        while subprocess.run([*compose, "exec", "-T", "postgres", "pg_isready", "-h", "127.0.0.1", "-q"], check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        asked = ["exec", "-T", "--env", "PGOPTIONS=-c default_transaction_read_only=off", "postgres", "psql", "-Xq", "-U", "postgres", "-d"]
        with (target / plain.ROLES).open() as text:
            run(*asked, "postgres", stdin=text)
        run(*asked, "template1", "-c", "DROP DATABASE postgres")
        # That one first, because the others are created from within it.
        for name in sorted(json.loads((target / plain.MANIFEST).read_text())["dumps"], key=lambda name: name != "postgres"):
            with (target / plain.sql_name(name)).open(encoding="utf-8", errors="surrogateescape") as text:
                run(*asked, postgres.beside(name), "-v", "ON_ERROR_STOP=1", stdin=text)
        client = s3.Client(lambda: ("127.0.0.1", HAND_PORT), "hand", HAND_PASSWORD)
        for bucket in json.loads((target / "buckets.json").read_text()):
            client.create_bucket(bucket)
        for row in map(json.loads, (target / "objects.jsonl").read_text().splitlines()):
            with (target / row["file"]).open("rb") as content:
                client.put(row["bucket"], row["key"], content, row["size"], row["headers"])
        client.close()
        yield paths
    finally:
        subprocess.run([*compose, "down", "--volumes", "--timeout", "5"], capture_output=True, check=False)


def lose(stack) -> dict:
    """Lose rows and objects, and return what is left."""
    stack.sql("DELETE FROM campaign.campaigns; DROP TABLE IF EXISTS public.shapes; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    stack.put(KEYS[0], b"overwritten")
    client = stack.s3()
    client.ask("removing it", "DELETE", "/campaign-assets/large")
    client.close()
    return stack.fingerprint()


def test_a_project_made_by_hand_moves_in(stack, export, hand_made):
    _target, before = export
    left = lose(stack)
    asked = {"backup_restore_from_project": HAND, "backup_restore_confirm": stack.project}
    # Each is told before anything is touched.
    refused = stack.play("restore", **asked, backup_restore_from_volumes={"redis": f"{HAND}_keys"})
    assert refused.status != 0
    assert f"The project {HAND} runs" in refused.text
    # Its append-only files are of a time in which it kept some.
    redis_cli = ["docker", "compose", "--project-name", HAND, "exec", "-T", "redis", "redis-cli"]
    for command in ("CONFIG SET appendonly yes", "WAITAOF 1 0 5000", "CONFIG SET appendonly no", "RPUSH campaign:queue:evaluation:later 1", "SAVE"):
        subprocess.run([*redis_cli, *command.split()], capture_output=True, check=True)
        time.sleep(1.5)
    subprocess.run(["docker", "compose", "--project-name", HAND, "stop"], capture_output=True, check=True)
    for volumes, told in (
        ({}, f"There is no volume {HAND}_redis-data"),
        ({"redis": f"{HAND}_minio-data"}, "has no keys of Redis"),
        ({"postgres": f"{HAND}_keys", "redis": f"{HAND}_keys"}, "has no data of PostgreSQL"),
    ):
        refused = stack.run("move-in", "--project", HAND, "--volumes", json.dumps(volumes), "--confirm", stack.project)
        assert refused.status == 1
        assert told in refused.text
    right = {**asked, "backup_restore_from_volumes": {"redis": f"{HAND}_keys"}}
    refused = stack.play("restore", **right)
    assert refused.status != 0
    assert "dump.rdb, which was written later, with" in refused.text
    assert stack.fingerprint() == left
    assert stack.own() == []
    shutil.rmtree(hand_made["redis"] / "appendonlydir")
    theirs = {name: tree(path) for name, path in hand_made.items()}
    unconfirmed = stack.play("restore", **{**right, "backup_restore_confirm": "another"})
    assert unconfirmed.status != 0
    assert f"backup_restore_confirm={stack.project}" in unconfirmed.text
    assert stack.fingerprint() == left
    moved = stack.play("restore", **right)
    assert moved.status == 0, moved.text[-3000:]
    assert stack.queue("LRANGE", "campaign:queue:evaluation:later", "0", "-1") == "1"
    assert compared(stack.fingerprint()) == compared(before)
    assert {name: tree(path) for name, path in hand_made.items()} == theirs
    assert stack.own() == []
    stack.well("remove-old")
    deployed = stack.play("site")
    assert deployed.status == 0, deployed.text[-3000:]


def test_an_export_comes_back(stack, export):
    target, before = export
    lose(stack)
    asked = stack.play("restore", backup_restore_from_export=str(target))
    assert asked.status != 0
    assert f"backup_restore_confirm={stack.project}" in asked.text
    restored = stack.play("restore", backup_restore_from_export=str(target), backup_restore_confirm=stack.project)
    assert restored.status == 0, restored.text[-3000:]
    assert stack.fingerprint() == before
    assert stack.unfilled() == ""
    assert "campaign_db: the materialized views that were empty are filled" in restored.text
    assert stack.own() == []
    stack.well("remove-old")


def test_an_export_that_is_killed_or_damaged_is_none(stack, export, tmp_path):
    target, _before = export
    process = stack.start("export", "--to", str(tmp_path / "killed"))
    for line in process.stdout:
        if "writing the SQL" in line:
            process.kill()
            break
    process.wait(60)
    process.stdout.close()
    assert not (tmp_path / "killed").exists()
    stack.well("export", "--to", str(tmp_path / "killed"))
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]
    copy = tmp_path / "killed"
    before, volumes = stack.fingerprint(), stack.volumes()
    (copy / "objects/campaign-assets/large").write_bytes(b"another")
    damaged = stack.run("move-in", "--export", str(copy), "--confirm", stack.project)
    assert damaged.status == 1
    assert "large is not as the listing of the export says" in damaged.text
    (copy / "objects/campaign-assets/large").unlink()
    missing = stack.run("move-in", "--export", str(copy), "--confirm", stack.project)
    assert "1 of its files are missing" in missing.text
    assert (stack.fingerprint(), stack.volumes(), stack.own()) == (before, volumes, [])
    assert target.exists()
