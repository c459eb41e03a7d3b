# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed password of the repository: at every moment the host has one that opens it, and a rerun ends what was begun."""

import os

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import password
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError


class KilledError(Exception):
    """The run is killed here."""


class Keys:
    """A repository that knows passwords, and of which each use may be the last one of a run."""

    place = "/srv/backup"

    def __init__(self, directory, *known: str, exists: bool = True):
        self.directory, self.known, self.exists = directory, list(known), exists
        self.left = 10**6

    def _step(self) -> None:
        # Of what was there at any time, a password that the host has has to open it.
        here = {(self.directory / name).read_text().strip() for name in os.listdir(self.directory)}
        assert here & set(self.known) or not self.known or not self.exists
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def _read(self, name: str) -> str:
        return (self.directory / name).read_text().strip()

    def opens(self, name):
        self._step()
        return self._read(name) in self.known if self.exists else None

    def add_key(self, name, new):
        self._step()
        assert self._read(name) in self.known
        self.known.append(self._read(new))
        self._step()

    def remove_key_of(self, name, old):
        self._step()
        assert self._read(name) in self.known
        assert self._read(name) != self._read(old)
        self.known.remove(self._read(old))
        self._step()


def write(directory, **files: str) -> None:
    for name, text in files.items():
        (directory / name.replace("_", ".").replace("old.", "old-")).write_text(f"{text}\n")


def files(directory) -> dict[str, str]:
    return {name: (directory / name).read_text().strip() for name in os.listdir(directory)}


def test_the_new_password_opens_the_repository_and_the_old_one_is_refused(tmp_path):
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old", "somebody's own")
    assert password.change(tmp_path, keys)
    assert sorted(keys.known) == ["new", "somebody's own"]
    assert files(tmp_path) == {"password": "new"}


@pytest.mark.parametrize("steps", range(9))
@pytest.mark.parametrize("then", ["new", "third", "old"])
def test_killed_at_any_moment_a_rerun_ends_it(tmp_path, steps, then):
    """Also where the password is changed once more, or back, in the meantime."""
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old")
    keys.left = steps
    try:
        password.change(tmp_path, keys)
    except KilledError:
        assert password.is_changing(tmp_path)
    keys.left = 10**6
    if then != "new":
        password.set_aside(tmp_path)
        if files(tmp_path)["password"] != then:
            write(tmp_path, password_next=then)
    password.change(tmp_path, keys)
    assert keys.known == [then]
    assert files(tmp_path) == {"password": then}


@pytest.mark.parametrize("name", ["link", "replace", "unlink"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_its_files_a_rerun_ends_it(tmp_path, monkeypatch, name, after):
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old")
    real = getattr(os, name)

    def killed(*arguments) -> None:
        if after:
            real(*arguments)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(password.os, name, killed)
        with pytest.raises(KilledError):
            password.change(tmp_path, keys)
    assert files(tmp_path)["password"] in keys.known
    password.change(tmp_path, keys)
    assert keys.known == ["new"]
    assert files(tmp_path) == {"password": "new"}


def test_where_none_opens_the_old_one_stays_and_it_is_said_what_to_do(tmp_path):
    write(tmp_path, password="old", password_next="new")
    with pytest.raises(BackupError, match=r"does not open with this password.*in backup_password"):
        password.change(tmp_path, Stranger(tmp_path))
    assert files(tmp_path) == {"password": "old"}


class Stranger(Keys):
    """A repository of somebody else."""

    def __init__(self, directory):
        super().__init__(directory)

    def opens(self, _name):
        return False


def test_a_key_that_does_not_open_it_is_not_relied_on(tmp_path):
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old")
    keys.add_key = lambda _name, _new: None
    with pytest.raises(BackupError, match="The old password stays in force"):
        password.change(tmp_path, keys)
    assert files(tmp_path) == {"password": "old", "password.next": "new"}
    assert keys.known == ["old"]


def test_an_old_password_is_kept_until_there_is_a_repository_that_refuses_it(tmp_path):
    """Where a mount is missing, what is there is an empty directory."""
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old", exists=False)
    assert not password.change(tmp_path, keys)
    assert sorted(files(tmp_path).values()) == ["new", "old"]
    assert files(tmp_path)["password"] == "new"
    keys.exists = True
    assert password.change(tmp_path, keys)
    assert (keys.known, files(tmp_path)) == (["new"], {"password": "new"})


def test_a_repository_that_has_the_new_password_already_gets_no_second_key(tmp_path):
    """Another host of the same inventory has changed it."""
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "new")
    keys.add_key = None
    assert password.change(tmp_path, keys)
    assert (keys.known, files(tmp_path)) == (["new"], {"password": "new"})


def test_several_keys_of_an_old_password_are_removed_and_not_without_end(tmp_path):
    write(tmp_path, password="old", password_next="new")
    keys = Keys(tmp_path, "old", "old", "old")
    assert password.change(tmp_path, keys)
    assert keys.known == ["new"]
    write(tmp_path, password_next="newer")
    keys.remove_key_of = lambda _name, _old: None
    with pytest.raises(BackupError, match="still opens with an old password"):
        password.change(tmp_path, keys)
    # The new one is in force all the same, and a rerun tries again.
    assert files(tmp_path)["password"] == "newer"
    assert password.is_changing(tmp_path)
