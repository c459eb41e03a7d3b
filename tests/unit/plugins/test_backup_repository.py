# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sets are used, which are kept, and what never leaves the host in arguments or environment."""

import contextlib
import io
import json
import os
import subprocess
import time
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import repository
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Process


class Restic(repository.Repository):
    """Answers as restic does, and remembers what it was asked."""

    def __init__(self, directory, *states: str, removed: tuple[int, ...] = (), place: str = "/srv/backup"):
        super().__init__(Docker("p", str(directory), "p-backup-1"), "campaign/backup:1", place, "p", str(directory))
        self.rows = [{"id": f"{number:064x}", "time": f"t{number}", "tags": [f"set=2026112{number}", state]} for number, state in enumerate(states)]
        self.removed, self.asked = removed, []

    def ask(self, what, *arguments, **_passwords):
        self.asked.append(arguments)
        if what == "snapshots":
            return json.dumps(self.rows)
        if what == "policy":
            gone = {word for words in self.asked if words[0] == "forget" and "--dry-run" not in words for word in words}
            return json.dumps([{"remove": [self.rows[number] for number in self.removed if self.rows[number]["id"] not in gone]}])
        return ""


def test_only_whole_sets_are_used(tmp_path):
    restic = Restic(tmp_path, "verified", "complete", "damaged", "incomplete")
    assert restic.find("latest").set == "20261121"
    assert restic.find("20261120").state == "verified"
    for name, state in (("20261122", "damaged"), ("20261123", "incomplete")):
        with pytest.raises(BackupError, match=f"is {state}, and is not used"):
            restic.find(name)
    with pytest.raises(BackupError, match="The last whole ones are: 20261120, 20261121"):
        restic.find("20261199")
    with pytest.raises(BackupError, match="no whole set"):
        Restic(tmp_path, "incomplete", "damaged").find("latest")


@pytest.mark.parametrize("tags", [["set=1"], ["set=1", "complete", "damaged"], ["set=1", "complete", "incomplete"]])
def test_what_nobody_vouches_for_is_not_whole(tmp_path, tags):
    restic = Restic(tmp_path)
    restic.rows = [{"id": "a" * 64, "time": "t", "tags": tags}]
    assert [one.state for one in restic.sets()] == ["incomplete"]


def test_snapshots_of_others_are_left_alone(tmp_path):
    restic = Restic(tmp_path, "complete")
    restic.rows.append({"id": "b" * 64, "time": "t", "tags": ["somebody's"]})
    assert len(restic.snapshots()) == 1


def test_of_two_snapshots_of_a_set_the_later_word_counts(tmp_path):
    restic = Restic(tmp_path, "complete", "verified", "damaged")
    for row in restic.rows:
        row["tags"][0] = "set=1"
    assert [one.state for one in restic.sets()] == ["damaged"]


def test_a_set_that_is_gone_is_not_marked_in_silence(tmp_path):
    restic = Restic(tmp_path, "incomplete", "complete")
    restic.rows[1]["tags"][0] = restic.rows[0]["tags"][0]
    restic.mark("20261120", "complete")
    assert [arguments for arguments in restic.asked if arguments[0] == "tag"] == [("tag", "--set", "set=20261120,complete", row["id"]) for row in restic.rows]
    with pytest.raises(BackupError, match=r"^The set 20261121 is not in /srv/backup any more, so it was not marked as complete"):
        restic.mark("20261121", "complete")


@pytest.mark.parametrize(
    ("states", "removed", "expected"),
    [
        # The policy would take the last verified one, and the newest.
        (("verified", "complete", "complete"), (0, 1), ["20261121"]),
        (("verified", "verified", "complete"), (0, 1), ["20261120"]),
        (("complete", "complete"), (0, 1), ["20261120"]),
        # What is not whole takes no place, and goes.
        (("incomplete", "damaged", "verified"), (), ["20261120", "20261121"]),
        # One that differs in something is all that there is of its day, until a newer one was seen to come back.
        (("verified", "damaged", "damaged"), (), []),
        (("damaged", "complete"), (), []),
        # Those are no more than those that are kept of good ones.
        (("verified", "damaged", "damaged", "damaged"), (0, 1), ["20261121"]),
        # Nothing whole is left to judge by: what there is goes only where it is not whole.
        (("incomplete",), (), ["20261120"]),
        ((), (), []),
    ],
)
def test_the_last_verified_set_is_never_removed(tmp_path, states, removed, expected):
    restic = Restic(tmp_path, *states, removed=removed)
    assert sorted(restic.forget({"daily": 7})) == expected
    forgotten = [arguments for arguments in restic.asked if arguments[:2] == ("forget", "--prune")]
    assert len(forgotten) == bool(expected)


def test_the_set_that_was_just_made_stays_whatever_the_clock_says(tmp_path):
    restic = Restic(tmp_path, "complete", "verified", "complete", removed=(0,))
    assert restic.forget({"daily": 7}, made="20261120") == []
    assert not any("prune" in words for words in restic.asked)
    assert restic.forget({"daily": 7}, made="20261199") == ["20261120"]


@pytest.mark.parametrize("word", ["complete", "verified"])
def test_a_set_that_is_damaged_does_not_become_good_again(tmp_path, word):
    """A run that was killed in `restic tag` leaves the old word beside the new one."""
    # The policy would take the one that is whole.
    restic = Restic(tmp_path, "verified", word, "damaged", removed=(0, 1, 2))
    restic.rows[2]["tags"][0] = restic.rows[1]["tags"][0]
    assert restic.find("latest").set == "20261120"
    assert restic.forget({"daily": 7}) == ["20261121"]
    forgotten = [arguments for arguments in restic.asked if arguments[0] == "forget" and "--dry-run" not in arguments]
    # The good word first: a run that is killed in between leaves the other one.
    assert forgotten == [("forget", restic.rows[1]["id"]), ("forget", "--prune", restic.rows[2]["id"])]
    # Before the policy counts what is there.
    assert restic.asked.index(forgotten[0]) < next(number for number, arguments in enumerate(restic.asked) if "--dry-run" in arguments)


def test_what_no_set_names_goes_where_none_was_made(tmp_path):
    restic = Restic(tmp_path, "verified")
    assert restic.forget({"daily": 7}) == []
    assert restic.asked[-1] == ("prune",)


def test_the_damaged_sets_after_one_are_told(tmp_path):
    restic = Restic(tmp_path, "damaged", "verified", "damaged", "incomplete", "damaged")
    assert restic.damaged_after(restic.find("latest")) == ["20261122", "20261124"]


def test_a_set_has_the_size_that_restic_writes_down(tmp_path):
    restic = Restic(tmp_path, "complete", "verified")
    restic.rows[1]["summary"] = {"total_bytes_processed": 80}
    assert [one.bytes for one in restic.sets()] == [0, 80]


def test_a_policy_of_nothing_removes_no_whole_set(tmp_path):
    restic = Restic(tmp_path, "complete", "complete", removed=(0, 1))
    assert restic.forget({}) == []
    assert restic.forget({"daily": 0}) == []


def test_secrets_are_files(tmp_path):
    (tmp_path / "secrets").mkdir()
    for name in ("password", "aws_credentials", "ssh_key", "known_hosts", "ca"):
        (tmp_path / "secrets" / name).write_text(f"the secret {name}")
    restic = Restic(tmp_path, place="s3:https://s3.example.com/bucket")
    words = [*restic.options("x"), *restic.arguments()]
    assert not any("the secret" in word for word in words)
    for name in ("password", "aws_credentials", "ssh_key", "known_hosts", "ca"):
        assert f"type=bind,source={tmp_path}/secrets/{name},target=/run/secrets/{name},readonly" in words
    environment = [words[number + 1].partition("=")[0] for number, word in enumerate(words) if word == "--env"]
    assert environment == ["HOME", "TMPDIR", "AWS_SHARED_CREDENTIALS_FILE"]


def test_a_repository_on_the_host_needs_no_network(tmp_path):
    words = Restic(tmp_path).options("x")
    assert words[words.index("--network") + 1] == "none"
    words = Restic(tmp_path, place="sftp:u@h:/p").options("x")
    assert words[words.index("--network") + 1] == "bridge"


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (12, "", "does not open with this password"),
        (1, "Fatal: wrong password or no key found", "backup_password"),
        (11, "", "locked"),
        (1, "Fatal: write /repository/tmp: no space left on device", "There is no room left for the repository /srv/backup. Give it more"),
    ],
)
def test_why_restic_failed_is_told(tmp_path, status, error, told):
    assert told in str(Restic(tmp_path).failure("backup", status, error))


@pytest.mark.parametrize(("place", "way"), [("/srv/backup", r"Mount what it lies on \(`findmnt /srv/backup`\), or correct"), ("sftp:u@h:/p", "Correct")])
def test_where_there_is_no_repository_it_is_told_what_to_do(tmp_path, place, way):
    with pytest.raises(repository.NoRepositoryError, match=f"There is no repository at {place}. Nothing was changed. {way} backup_repository"):
        raise Restic(tmp_path, place=place).failure("open", 10, "")


def test_a_directory_that_is_not_there_is_no_repository(tmp_path, monkeypatch):
    restic = Restic(tmp_path, place=str(tmp_path / "mnt"))
    # Docker would refuse to mount it.
    monkeypatch.setattr(restic, "_look", lambda: (125, "bind source path does not exist"))
    with pytest.raises(repository.NoRepositoryError, match="findmnt"):
        restic.open(create=False)
    assert not (tmp_path / "mnt").exists()


def test_a_new_repository_is_made_only_where_there_is_none(tmp_path, monkeypatch):
    restic = Restic(tmp_path)
    monkeypatch.setattr(repository.Repository, "_unlock", lambda _self: None)

    monkeypatch.setattr(restic, "_look", lambda: answer)
    answer = (1, "something else")
    with pytest.raises(BackupError, match="something else"):
        restic.open(create=True)
    answer = (10, "")
    (tmp_path / "repository").mkdir()
    restic.place = str(tmp_path / "repository")
    with pytest.raises(repository.NoRepositoryError):
        restic.open(create=False)
    assert ("init",) not in restic.asked
    restic.open(create=True)
    assert ("init",) in restic.asked


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [(0, "", True), (12, "", False), (1, "Fatal: wrong password or no key found", False), (10, "", None), (1, "ciphertext verification failed", BackupError)],
)
def test_whether_a_password_opens_it_is_known_or_told(tmp_path, status, error, expected):
    """A key may be there and belong to another repository: https://github.com/restic/restic/issues/3430"""
    restic = Restic(tmp_path, place="s3:https://s3.example.com/bucket")
    restic._look = lambda password: (status, error) if password == "password.next" else None
    if expected is BackupError:
        with pytest.raises(BackupError, match="ciphertext"):
            restic.opens("password.next")
    else:
        assert restic.opens("password.next") is expected


def test_where_the_directory_is_empty_there_is_no_repository(tmp_path):
    restic = Restic(tmp_path, place=str(tmp_path))
    restic._look = None
    assert restic.opens("password") is None


def test_only_the_key_of_the_old_password_is_removed(tmp_path):
    restic = Restic(tmp_path)
    restic._unlock = lambda _name: None
    asked = []

    def ask(what, *arguments, **options):
        asked.append((what, arguments, options))
        return json.dumps([{"current": False, "id": "other"}, {"current": True, "id": "mine"}]) if what == "keys" else ""

    restic.ask = ask
    restic.remove_key_of("password", "password.old-1")
    assert asked[0][2] == {"password": "password.old-1"}
    assert asked[1] == ("key", ("key", "remove", "mine"), {"password": "password"})


@pytest.mark.parametrize("is_own", [True, False])
def test_a_lock_of_another_machine_stays(tmp_path, is_own):
    """A restore was tried there, and from then on two machines make sets for the same stack."""
    restic, asked = Restic(tmp_path), []
    owner = restic.host_of("backup") if is_own else "p-backup-00000000"

    def ask(what, *arguments, **_options):
        asked.append(arguments)
        return "lock" if what == "locks" else ""

    restic.ask = ask
    restic.attempt = lambda *_arguments, **_options: (0, json.dumps({"hostname": owner}), "")
    restic._unlock()
    assert asked[-1] == ("unlock", *(["--remove-all"] if is_own else []))


def test_the_name_of_a_host_is_one_for_the_kernel(tmp_path):
    restic = Restic(tmp_path)
    restic.project = "p" * 63
    assert len(restic.host_of("backup")) <= 64
    assert f"--hostname={restic.host_of('backup')}" == "=".join(restic.options("name")[4:6])


@pytest.mark.parametrize(("error", "raised"), [(None, None), (BrokenPipeError(), BackupError), (KeyboardInterrupt(), KeyboardInterrupt), (OSError(), OSError)])
def test_what_was_not_written_to_its_end_is_given_up(error, raised):
    given_up = []
    writing = SimpleNamespace(why=lambda: BackupError("restic says why"), abandon=lambda: given_up.append(True))
    with pytest.raises(raised) if raised else contextlib.nullcontext() as found, repository.whole(writing):
        if error:
            raise error
    assert given_up == ([True] if error else [])
    assert raised is not BackupError or str(found.value) == "restic says why"


# --- A repository on another machine


class Scripted(Docker):
    """Has a shell's script take the place of restic."""

    script = ""

    def start(self, *arguments, **_options):
        self.arguments = arguments
        errors = io.FileIO(os.memfd_create("errors"), "r+b")
        return Process(subprocess.Popen(["sh", "-c", self.script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors), errors)

    def attempt(self, *arguments, **_options):
        if "ssh" in arguments:
            self.ssh = arguments
            return 255, "", "ssh: connect to host h port 22: Connection refused"
        return 0, "", ""


def remote_one(tmp_path, script: str, place: str = "s3:https://s3.example.com/bucket", patience: float = 5.0) -> repository.Repository:
    docker = Scripted("p", str(tmp_path), "p-backup-1")
    docker.script = script
    return repository.Repository(docker, "campaign/backup:1", place, "p", str(tmp_path), patience=patience)


RETRY = "echo 'Stat(<config/>) returned error, retrying after 1.5s: {}' >&2; sleep 30"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Stat: The request signature we calculated does not match", "Check backup_s3_access_key"),
        ("Stat: Get: tls: failed to verify certificate: x509: unknown authority", "backup_ca"),
    ],
)
def test_what_cannot_go_well_is_not_waited_for(tmp_path, said, told):
    """https://github.com/restic/restic/issues/4876"""
    restic = remote_one(tmp_path, RETRY.format(said), patience=25)
    before = time.monotonic()
    with pytest.raises(BackupError, match=told):
        restic.open(create=True)
    assert time.monotonic() - before < 20


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (RETRY.format("Stat: Get: dial tcp 192.0.2.1:443: connect: connection refused"), "does not answer"),
        ("sleep 30", "no answer within 1 s"),
    ],
)
def test_a_server_that_does_not_answer_is_not_waited_for_as_long_as_restic_would(tmp_path, script, told):
    restic = remote_one(tmp_path, script, patience=1)
    before = time.monotonic()
    with pytest.raises(BackupError, match=told):
        restic.open(create=True)
    assert time.monotonic() - before < 20


def test_a_server_that_answers_late_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(repository.Repository, "_unlock", lambda _self: None)
    restic = remote_one(tmp_path, "echo 'Stat(<config/>) returned error, retrying after 1s: dial tcp: connection refused' >&2; sleep 0.5; exit 0")
    restic.open(create=False)
    # A lock that a killed run of this stack left does not keep it out: https://github.com/restic/restic/issues/2736
    assert "--no-lock" in restic.docker.arguments


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("sftp:keeper@host.example.com:/srv/sets", "keeper@host.example.com"),
        ("sftp://keeper@host.example.com:2222//srv/sets", "ssh://keeper@host.example.com:2222"),
        ("sftp://keeper@[2001:db8::1]/sets", "ssh://keeper@[2001:db8::1]"),
    ],
)
def test_ssh_is_asked_why_there_is_no_session(tmp_path, place, target):
    """restic may end before it has passed that on."""
    restic = remote_one(tmp_path, "echo 'Fatal: unable to open: unable to start the sftp session, error: EOF' >&2; exit 1", place)
    with pytest.raises(BackupError, match="does not answer") as found:
        restic.open(create=False)
    assert "Connection refused" in str(found.value)
    assert restic.docker.ssh[-3:] == ("-s", target, "sftp")
    assert "StrictHostKeyChecking=yes" in restic.docker.ssh


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("Stat: The Access Key Id you provided does not exist in our records.", "backup_s3_secret_key"),
        ("The difference between the request time and the server's time is too large.", "NTP"),
        ("Stat: Access Denied.", "Create the bucket"),
        ("Stat: The specified bucket does not exist", "There is no such bucket"),
        ("server gave HTTP response to HTTPS client", "no TLS at this port"),
        ("Client sent an HTTP request to an HTTPS server.", "Write s3:https://"),
        ("Host key verification failed.", "backup_ssh_known_hosts"),
        ("keeper@host: Permission denied (publickey).", "authorized_keys"),
        ('Load key "/run/secrets/ssh_key": error in libcrypto keeper@host: Permission denied (publickey).', "backup_ssh_key is not a whole private key"),
        ("MkdirAll /srv/closed: permission denied", "may not read and write"),
        ("ssh: Could not resolve hostname h: Name or service not known", "name of the server is not known"),
        ("ssh command exited: exit status 255", "does not answer"),
        ('{"message_type":"exit_error","code":1,"message":"Fatal: connection refused"}', "(backup: Fatal: connection refused)"),
        ("something new", "restic failed (backup, exit code 1): something new"),
    ],
)
def test_what_is_wrong_elsewhere_is_told_with_a_remedy(tmp_path, error, told):
    assert told in str(Restic(tmp_path, place="sftp:u@h:/p").failure("backup", 1, error))
    # What a directory of the host says means what it says.
    assert "cannot be used" not in str(Restic(tmp_path).failure("backup", 1, error))


def test_what_a_call_has_said_so_far_is_read_beside_it(tmp_path):
    """Reading does not move where the call writes."""
    docker = Scripted("p", str(tmp_path), "p")
    docker.script = "for n in 1 2 3 4 5 6 7 8 9; do echo $n >&2; sleep 0.02; done"
    process = docker.start()
    while process.popen.poll() is None:
        process.error()
    assert process.error().split() == list("123456789")


def test_the_emergency_command_takes_a_set_and_no_piece_of_the_log(root):
    """The newest snapshot is a piece of the log where points in time are on."""
    (line,) = [line for line in (root / "docs/restore.md").read_text().splitlines() if " dump " in line and line.startswith("restic ")]
    words = line.split()
    assert [words[number + 1] for number, word in enumerate(words) if word == "--tag"] == list(repository.GOOD)
    assert words[words.index("latest") + 1] == f"/{repository.FILE}"


def test_a_repository_that_takes_no_lock_can_be_read(tmp_path, monkeypatch):
    """It is full, or mounted to be read only: restic fails where it would write a lock, or remove one."""
    restic = Restic(tmp_path, "verified", place=str(tmp_path))

    def unlock(_self):
        raise BackupError("restic failed (unlock): read-only file system")

    monkeypatch.setattr(Restic, "_look", lambda _self: (0, ""))
    monkeypatch.setattr(Restic, "_unlock", unlock)
    restic.open(create=False)
    assert restic.find("latest").set == "20261120"
    assert [("--no-lock" in words, words[0]) for words in restic.asked] == [(True, "snapshots")]
    # Who begins to write is told at once.
    with pytest.raises(BackupError, match="read-only"):
        restic.open(create=True)
