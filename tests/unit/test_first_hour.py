# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees who tries the project for the first time."""

import os
import pty
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = "ansible.builtin.import_role"


def play(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run ansible-playbook in the checkout, as a person would type it there."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *arguments]
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> str:
    variables = ["-e", "stack_log_level=loud", "-e", "stack_frontend_port=0"]
    done = play("-i", "inventories/local", "site.yml", *variables, XDG_STATE_HOME=str(tmp_path_factory.mktemp("state")))
    assert done.returncode == 2
    return done.stdout + done.stderr


def test_a_failed_validation_ends_with_its_list(refused):
    """One problem a line, and nothing behind the last one but Ansible's own recap."""
    shown = [line.strip() for line in refused[: refused.index("PLAY RECAP")].strip().splitlines()]
    assert shown[-3] == "Nothing was changed. Fix these first:"
    assert [line.split()[1] for line in shown[-2:]] == ["stack_frontend_port", "stack_log_level"]


def test_a_failed_validation_shows_nothing_of_the_source(refused):
    assert "Origin:" not in refused
    assert "[ERROR]" not in refused
    assert "register: __stack_validated" not in refused


LOCAL, PROD = "inventories/local", "inventories/prod"


@pytest.fixture
def become(tmp_path):
    """Run scripts/become as somebody else, where sudo does what a test says."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "grep"):
        (tools / tool).symlink_to(shutil.which(tool))

    def run(*arguments: str, uid: int = 1000, sudo: str | None = "exit 1", terminal: bool = False, **environment: str) -> tuple[int, str, str]:
        texts = {"id": f"[ $1 = -u ] && echo {uid} || echo alice", **({"sudo": sudo} if sudo else {})}
        for name, text in texts.items():
            (tools / name).write_text(f"#!{tools}/bash\n{text}\n")
            (tools / name).chmod(0o755)
        ours, theirs = pty.openpty()
        with open(ours, "rb", buffering=0), open(theirs, "rb", buffering=0) as typed:
            stdin = typed if terminal else subprocess.DEVNULL
            command, env = [ROOT / "scripts/become", *arguments], {"PATH": str(tools), **environment}
            done = subprocess.run(command, cwd=ROOT, env=env, stdin=stdin, capture_output=True, text=True, timeout=20)
        return done.returncode, done.stdout.strip(), done.stderr

    return run


def test_whoever_has_to_type_a_password_for_sudo_is_asked_by_ansible(become):
    status, option, said = become(LOCAL, terminal=True)
    assert (status, option) == (0, "--ask-become-pass")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([LOCAL], {"uid": 0, "sudo": None}),
        ([LOCAL], {"sudo": "exit 0"}),
        ([LOCAL, "-K"], {}),
        ([LOCAL, "--check", "--become-password-file=/run/password"], {}),
        ([LOCAL], {"ANSIBLE_BECOME_PASSWORD_FILE": "/run/password"}),
        # The host is another one, with users of its own.
        ([PROD], {}),
    ],
    ids=["root", "no password", "asked anyway", "file", "file of the environment", "elsewhere"],
)
def test_nobody_else_is_asked(become, arguments, given):
    assert become(*arguments, terminal=True, **given) == (0, "", "")


def test_what_the_terminal_remembers_of_sudo_does_not_count(become):
    """Ansible's processes are not of that terminal, so that they would be asked, and could not answer."""
    status, option, _said = become(LOCAL, terminal=True, sudo="[ $1 = -k ] && exit 1 || exit 0")
    assert (status, option) == (0, "--ask-become-pass")


@pytest.mark.parametrize(
    ("given", "remedy"), [({"sudo": None, "terminal": True}, "install sudo"), ({}, "--become-password-file=")], ids=["no sudo", "no terminal"]
)
def test_who_cannot_become_root_reads_one_sentence(become, given, remedy):
    status, option, said = become(LOCAL, **given)
    assert (status, option) == (1, "")
    assert said.count("\n") == 1
    assert remedy in said


@pytest.mark.parametrize(("uids", "is_root"), [("0\t0\t0\t0", True), ("1000\t1000\t1000\t1000", False), ("1000\t0\t0\t0", True), ("0\t1000\t0\t1000", False)])
def test_the_local_inventory_becomes_root_where_it_is_not(uids, is_root):
    connection = yaml.safe_load((ROOT / "inventories/local/group_vars/campaign/connection.yml").read_text())
    pattern = re.search(r"is not search\('(.+)'\)", connection["ansible_become"])[1].replace("\\\\", "\\")
    assert bool(re.search(pattern, f"Name:\tpython\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n")) == is_root


def test_every_playbook_that_runs_on_the_host_leaves_no_byte_code_of_roots():
    plays = [play for path in ROOT.glob("playbooks/*.yml") for play in yaml.safe_load(path.read_text())]
    of_root = [play for play in plays if play.get("hosts", "").startswith("campaign") and play.get("vars", {}).get("ansible_become") is not False]
    assert len(of_root) >= 5
    assert all(play["environment"] == {"PYTHONDONTWRITEBYTECODE": "1"} for play in of_root)


def test_a_rotation_validates_all_that_its_deploy_does_before_it_writes():
    def parts(path):
        (found,) = [play for play in yaml.safe_load((ROOT / path).read_text()) if play.get("hosts") == "campaign"]
        called = [(task[ROLE]["name"], task[ROLE]["tasks_from"]) for task in found["tasks"] if ROLE in task]
        return found["vars"], called

    (site, of_site), (rotation, of_rotation) = parts("playbooks/site.yml"), parts("playbooks/rotate_secrets.yml")
    validated = [call for call in of_site if call[1] == "validate.yml"]
    assert len(validated) == 3
    assert of_rotation == [*validated, ("campaign.platform.stack", "rotate_secrets.yml")]
    assert {**rotation, **site} == rotation


def test_no_limit_of_the_caller_ends_a_playbook_that_changes_something_or_waits_long():
    # What only reads may be ended anywhere.
    reads = {"doctor", "status", "lock_images"}
    plays = {
        path.stem: play
        for path in ROOT.glob("playbooks/*.yml")
        for play in yaml.safe_load(path.read_text())
        if str(play.get("hosts", "")).startswith("campaign") and path.stem not in reads
    }
    assert {"site", "verify", "rotate_secrets"} <= set(plays)
    assert [name for name, play in plays.items() if play.get("timeout") != 0] == []


@pytest.fixture(scope="module")
def password():
    loader = SourceFileLoader("scripts_password", str(ROOT / "scripts/password"))
    module = module_from_spec(spec_from_loader("scripts_password", loader))
    loader.exec_module(module)
    return module.password


def test_the_password_of_env_local_wins_over_the_generated_one(password, tmp_path):
    given, generated = tmp_path / ".env.local", tmp_path / "campaign.json"
    generated.write_text('{"operator_password": "generated"}')
    assert password(given, generated) == "generated"
    given.write_text("FRONTEND_PORT=8081\n")
    assert password(given, generated) == "generated"
    given.write_text('OPERATOR_PASSWORD="given"\n')
    assert password(given, generated) == "given"


@pytest.mark.parametrize("content", [None, "not JSON", "{}"])
def test_where_there_is_no_password_the_reason_is_told(password, tmp_path, content):
    generated = tmp_path / "campaign.json"
    if content is not None:
        generated.write_text(content)
    with pytest.raises(SystemExit, match=r"no password yet|cannot be read") as ended:
        password(tmp_path / ".env.local", generated)
    assert str(generated) in str(ended.value)


@pytest.fixture
def logs(tmp_path):
    """Run scripts/logs for a stack whose Docker client prints these containers."""
    (tmp_path / "client").mkdir()
    (tmp_path / "current").mkdir()
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)

    def run(client: str) -> subprocess.CompletedProcess:
        (tmp_path / "client/docker").write_text(f"#!/bin/sh\n{client}\n")
        (tmp_path / "client/docker").chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run([ROOT / "scripts/logs", str(tmp_path), "--since", "1m", "api"], env=env, capture_output=True, text=True, timeout=20)

    return run


def test_the_logs_of_one_service_are_followed(logs):
    done = logs('[ "$2" = ps ] && echo 0123 || echo "$@"')
    assert (done.returncode, done.stdout, done.stderr) == (0, "compose logs --follow --since 1m api\n", "")


def test_a_stack_that_was_taken_down_has_no_logs_and_that_is_told(logs):
    done = logs("exit 0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "was taken down" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_engine_that_does_not_answer_is_not_taken_for_a_stack_that_is_down(logs):
    done = logs("echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert done.returncode == 1
    assert done.stderr == "Cannot connect to the Docker daemon\n"
