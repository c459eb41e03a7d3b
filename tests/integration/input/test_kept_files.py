# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible can be told to leave its modules' files on the host, with all that a module is given. Secrets are not sent then."""

import json
import os
import subprocess
from pathlib import Path

import program
import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import plain

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canary-4f1d"
ROLE = {"ansible.builtin.import_role": {"name": "campaign.platform.stack", "rolespec_validate": False}}
# The role's variables alone, because its validation would refuse before.
VARIABLES = {"ansible.builtin.import_role": {"name": "campaign.platform.stack", "tasks_from": "required.yml"}}
STAGE = {"campaign.platform.release": {"images": {key: f"campaign/{key}:none" for key in program.IMAGES}}, "vars": {"role_path": str(program.ROLE)}}
PLAN = {"release": "0123456789ab", "directory": "/nowhere/stack", "project": "campaign", "files": [], "configs": [], "manifest": {}}
PLAN |= {"secrets": [{"path": "/nowhere/stack/secrets/a", "content": CANARY, "uid": 0, "gid": 0}]}


@pytest.fixture
def run(tmp_path):
    """Run tasks in check mode on this machine; return the output and the files that modules left behind."""

    def play(*tasks: dict, environment: dict[str, str] | None = None, configuration: str = "") -> tuple[str, list[Path]]:
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]))
        names = plain(program.secret_names())
        given = {
            "stack_variant": "local",
            "stack_project": "campaign-kept-files",
            "stack_directory": str(tmp_path / "stack"),
            "stack_secrets": {name: f"{CANARY}-{name}" for name in names},
        }
        given |= {"stack_images": STAGE["campaign.platform.release"]["images"], "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        (tmp_path / "variables.json").write_text(json.dumps(given))
        (tmp_path / "ansible.cfg").write_text((ROOT / "ansible.cfg").read_text().replace("[defaults]", f"[defaults]\n{configuration}"))
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "--check", "-e", f"@{tmp_path}/variables.json", str(tmp_path / "play.yml")]
        kept = {name: text for name, text in os.environ.items() if not name.startswith("ANSIBLE_")}
        own = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "ANSIBLE_NOCOLOR": "1"}
        own |= {"ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote")}
        done = subprocess.run(command, cwd=tmp_path, env=kept | own | (environment or {}), capture_output=True, text=True, timeout=180)
        assert "PLAY RECAP" in done.stdout, done.stdout + done.stderr
        return done.stdout, [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]

    return play


@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_nothing_stays_by_itself(run, pipelining):
    output, left = run(ROLE, environment={"ANSIBLE_PIPELINING": pipelining})
    assert "failed=0" in output, output
    assert left == []


@pytest.mark.parametrize(
    ("environment", "configuration"), [({"ANSIBLE_KEEP_REMOTE_FILES": "1"}, ""), ({}, "keep_remote_files = true")], ids=["environment", "configuration"]
)
@pytest.mark.parametrize(
    "tasks", [(ROLE,), (VARIABLES, STAGE), ({"campaign.platform.release": {"plan": PLAN}},)], ids=["validation", "release", "a plan of one's own"]
)
def test_no_secret_is_sent_where_files_are_kept(run, tasks, environment, configuration):
    output, left = run(*tasks, environment=environment, configuration=configuration)
    assert "failed=1" in output, output
    for word in ("Nothing was changed", "ANSIBLE_KEEP_REMOTE_FILES", "keep_remote_files in ansible.cfg", "set ANSIBLE_KEEP_REMOTE_FILES=0 for this run"):
        assert word in " ".join(output.split()), output
    assert left == []
    # Before anything else of the role.
    assert "deploy | " not in output


@pytest.mark.parametrize("tasks", [(ROLE,), (VARIABLES, STAGE)], ids=["validation", "release"])
def test_no_secret_is_printed_for_debugging(run, tasks):
    output, _left = run(*tasks, environment={"ANSIBLE_DEBUG": "1"})
    assert "failed=1" in output
    assert "set ANSIBLE_DEBUG=0 for this run" in " ".join(output.split())
    assert CANARY not in output


def test_no_password_of_a_registry_is_sent_where_files_are_kept(run):
    images = {"ansible.builtin.import_role": {"name": "campaign.platform.images", "tasks_from": "validate.yml"}}
    images["vars"] = {"images_required": ["redis"], "images_source": "build", "images_registry": "registry.example.com/"}
    signed_in = {**images, "vars": {**images["vars"], "images_registry_username": "me", "images_registry_password": CANARY}}
    output, _left = run(images, environment={"ANSIBLE_KEEP_REMOTE_FILES": "1"})
    assert "failed=0" in output, output
    output, _left = run(signed_in, environment={"ANSIBLE_KEEP_REMOTE_FILES": "1"})
    assert "set ANSIBLE_KEEP_REMOTE_FILES=0 for this run" in " ".join(output.split()), output
