# SPDX-License-Identifier: GPL-3.0-or-later
"""Which objects a set has to have is the release's to say."""

from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, making, redis, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError


@pytest.fixture
def release(tmp_path):
    (tmp_path / ".env").write_text('COMPOSE_PROJECT_NAME="p"\nS3_BUCKET="assets"\n')
    return {"release": "r1", "env_file": str(tmp_path / ".env")}


class Session:
    """A database that is asked for the objects it names."""

    def __init__(self, *rows: str):
        self.rows, self.asked = rows, []

    def ask(self, statement: str) -> list[str]:
        self.asked.append(statement)
        return list(self.rows)


@pytest.fixture
def query(root):
    """What a site has that says nothing."""
    return yaml.safe_load((root / "roles/backup/defaults/main.yml").read_text())["backup_objects_query"]


def missing(release, query: str, session: Session) -> list[str]:
    made = making.Making(SimpleNamespace(config={"objects_query": query}), None, release, None, "a", "now")
    return made._missing(session, sets.Objects())


def test_the_bucket_is_the_one_of_the_release(release, query):
    """One of another name than by default was told as missing every object, each night."""
    opened = Session('["assets", "campaigns/1"]')
    assert missing(release, query, opened) == ["assets/campaigns/1"]
    (statement,) = opened.asked
    assert "SELECT 'assets', 'campaigns/' || id FROM" in statement
    assert "campaign-assets" not in statement


def test_a_query_of_ones_own_is_left_as_it_is(release):
    opened = Session()
    assert missing({**release, "env_file": None}, "SELECT 'mine', key FROM files", opened) == []
    assert "(SELECT 'mine', key FROM files)" in opened.asked[0]
    assert missing(release, "", opened) == []
    assert len(opened.asked) == 1


def test_a_release_without_a_bucket_says_what_to_name(release, query):
    with pytest.raises(BackupError, match=r"r1 has no S3_BUCKET, which \{bucket\} in backup_objects_query stands for"):
        missing({**release, "env_file": None}, query, Session())


def test_a_query_that_fails_names_its_variable(release, query):
    """An application of somebody's own has no table campaign.campaigns."""
    opened = Session()

    def ask(_statement):
        raise BackupError("The database d did not answer: psql ended with exit code 3, SQLSTATE 42P01.")

    opened.ask = ask
    with pytest.raises(BackupError, match=r"backup_objects_query, .* SQLSTATE 42P01\. With an application of your own, .* or an empty text"):
        missing(release, query, opened)


def test_what_redis_has_accepted_is_in_its_files_before_they_are_copied(monkeypatch):
    """With a busy disk it writes that down two seconds later, and a job would be lost whose row the set has."""
    done = []
    monkeypatch.setattr(making.time, "sleep", lambda seconds: done.append(seconds))
    monkeypatch.setattr(copies, "volume_of", lambda _service: ("/data", "data"))
    monkeypatch.setattr(redis, "copy", lambda *_arguments: done.append("copied"))
    docker = SimpleNamespace(create_volume=lambda name: name)
    making.Making(SimpleNamespace(config={}, docker=docker, run="r", say=print), None, {}, None, "a", "now")._copy_redis(None)
    waited, copied = done
    assert copied == "copied"
    assert waited > 2
