# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes are exchanged whole, and an exchange that was cut off anywhere is undone."""

import json
import os
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import lock
from ansible_collections.campaign.platform.plugins.module_utils.backup import swap
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

HOLDER = {"user": "ada", "controller": "desk", "machine": "m", "pid": 1, "run": "r"}


@pytest.fixture
def volumes(tmp_path):
    """Three volumes with the old data under their names, and three with the new."""
    (tmp_path / "backup").mkdir()
    rows = []
    for name in ("postgres", "redis", "minio"):
        row = {"live": name, "new": f"{name}-new"}
        for kind, volume in (("live", name), ("new", f"{name}-new")):
            path = tmp_path / "volumes" / volume / "_data"
            path.mkdir(parents=True)
            (path / "what").write_text("old" if kind == "live" else "new")
            row |= {f"{kind}_path": str(path), f"{kind}_inode": os.stat(path).st_ino}
        rows.append(row)
    return tmp_path, rows


def lies(root) -> list[str]:
    return [(root / "volumes" / name / "_data/what").read_text() for name in ("postgres", "redis", "minio")]


def test_volumes_on_two_file_systems_are_not_exchanged(monkeypatch):
    devices = {"/data": 1, "/docker": 2, "/docker/other": 2}
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=devices[path]))
    swap.check_same_disk("live", "/docker", "new", "/docker/other")
    with pytest.raises(BackupError, match="The volumes live and new are on two file systems"):
        swap.check_same_disk("live", "/data", "new", "/docker")


def test_an_exchange_counts_from_its_commit_on(volumes):
    root, rows = volumes
    swap.begin(str(root), [row["new"] for row in rows])
    swap.announce(str(root), rows, {"set": "s"})
    swap.swap(rows)
    assert lies(root) == ["new", "new", "new"]
    assert swap.unfinished(str(root)) == []
    swap.commit(str(root), "run")
    assert swap.undo(str(root)) == ([], [])
    assert lies(root) == ["new", "new", "new"]
    assert swap.replaced(str(root)) == {"run": ["postgres-new", "redis-new", "minio-new"]}
    # They hold the old data now.
    assert swap.unfinished(str(root)) == []


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_an_exchange_that_was_cut_off_is_undone(volumes, monkeypatch, done):
    root, rows = volumes
    exchange, calls = swap.exchange, []

    def killed(one, other):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(one)
        exchange(one, other)

    monkeypatch.setattr(swap, "exchange", killed)
    swap.announce(str(root), rows, {})
    if done < 3:
        with pytest.raises(KeyboardInterrupt):
            swap.swap(rows)
    else:
        swap.swap(rows)
    assert lies(root) == ["new"] * done + ["old"] * (3 - done)
    assert swap.is_begun(str(root)) is (done > 0)
    monkeypatch.setattr(swap, "exchange", exchange)
    with pytest.raises(lock.MixedVolumesError, match="backup/run undo"):
        lock.Lock(str(root), HOLDER).acquire()
    undone, kept = swap.undo(str(root))
    assert (len(undone), kept) == (done, [])
    assert lies(root) == ["old", "old", "old"]
    assert swap.undo(str(root)) == ([], [])
    # Nobody has used the new data, so it goes.
    assert swap.replaced(str(root)) == {}
    lock.Lock(str(root), HOLDER).acquire()


def test_what_services_were_started_over_is_kept_where_the_old_data_is_put_back(volumes, monkeypatch):
    """Users may have written into it, for as long as a machine that was started again has served it."""
    root, rows = volumes
    new = [row["new"] for row in rows]
    swap.begin(str(root), new)
    swap.announce(str(root), rows, {"set": "s", "at": "then", "run": "run"})
    swap.swap(rows)
    swap.start(str(root))
    # Cut off in its middle, it has nobody remove what still holds the old data.
    exchange = swap.exchange
    monkeypatch.setattr(swap, "exchange", lambda _one, _other: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        swap.undo(str(root))
    assert swap.replaced(str(root)) == {}
    monkeypatch.setattr(swap, "exchange", exchange)
    assert swap.undo(str(root)) == (["postgres", "redis", "minio"], new)
    assert lies(root) == ["old", "old", "old"]
    assert swap.unfinished(str(root)) == []
    assert swap.replaced(str(root), swap.RESTORE) == {"run-tried": new}
    assert swap.undo(str(root)) == ([], [])
    lock.Lock(str(root), HOLDER).acquire()


def test_what_nobody_knows_is_left_alone(volumes):
    root, rows = volumes
    rows[1]["live_inode"] = 1
    (root / lock.SWAP).write_text(json.dumps({"volumes": rows}))
    with pytest.raises(BackupError, match="neither the old nor the new"):
        swap.undo(str(root))
    assert (root / lock.SWAP).exists()
    (root / lock.SWAP).write_text("{")
    with pytest.raises(BackupError, match="cannot be read"):
        swap.undo(str(root))


def test_new_volumes_of_a_restore_that_did_not_end_are_known(volumes):
    root, rows = volumes
    swap.begin(str(root), ["postgres-new"])
    assert swap.unfinished(str(root)) == ["postgres-new"]
    (root / lock.SWAP).write_text(json.dumps({"volumes": rows}))
    assert swap.unfinished(str(root)) == []


def test_a_record_of_old_data_that_cannot_be_read_stops_the_cleaning(volumes):
    root, _rows = volumes
    (root / "backup/replaced").mkdir()
    (root / "backup/replaced/run.json").write_text("{")
    swap.begin(str(root), ["postgres-new"])
    with pytest.raises(BackupError, match="cannot be read"):
        swap.unfinished(str(root))
