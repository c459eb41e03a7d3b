# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line says is what the program is told."""

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template


@pytest.mark.parametrize(("given", "words"), [("true", ["--passwords"]), (True, ["--passwords"]), ("false", []), (False, [])])
def test_an_export_has_passwords_where_they_are_asked_for(root, given, words):
    (task, *_rest) = yaml.safe_load((root / "roles/backup/tasks/export.yml").read_text())
    variables = {"__backup_run": "run", "backup_export_directory": "/srv/export", "backup_export_passwords": given}
    argv = Templar(loader=DataLoader(), variables=variables).template(trust_as_template(task["ansible.builtin.command"]["argv"]))
    assert argv == ["run", "export", "--to", "/srv/export", *words]


def entries(root, playbook: str) -> list[tuple[str, str]]:
    """Return which task files of the role a playbook calls, in their order, each with its condition."""
    *_others, play = yaml.safe_load((root / f"playbooks/{playbook}.yml").read_text())
    roles = [(task["ansible.builtin.import_role"], str(task.get("when", ""))) for task in play["tasks"] if "ansible.builtin.import_role" in task]
    return [(role["tasks_from"].removesuffix(".yml"), when) for role, when in roles if role["name"] == "campaign.platform.backup"]


@pytest.mark.parametrize(("playbook", "last"), [("restore", "restore"), ("drill", "drill"), ("export", "export")])
def test_who_only_reads_starts_no_schedule(root, playbook, last):
    """On a new host, a schedule would ship the log of an empty cluster into the repository that is to be restored from."""
    names = [name for name, _when in entries(root, playbook)]
    assert not {"apply", "main"} & set(names[: names.index(last)])
    (task,) = yaml.safe_load((root / "roles/backup/tasks/read.yml").read_text())
    assert task["vars"] == {"__backup_is_scheduled": False}
    (task,) = yaml.safe_load((root / "roles/backup/tasks/set_up.yml").read_text())
    assert task["campaign.platform.backup"]["schedule"] == "{{ __backup_is_scheduled }}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"backup_restore_confirm": "campaign"}, True),
        ({"backup_restore_confirm": "another"}, False),
        ({"backup_restore_confirm": "campaign", "backup_old_volumes": "remove"}, False),
        ({"backup_restore_confirm": "campaign", "backup_purpose": "move_in"}, False),
        # From a copy: backups go on being made where they were set up.
        ({"backup_restore_confirm": "campaign", "__backup_set_up": {"run": "/opt/p/backup/other/run"}}, False),
    ],
)
def test_a_restore_that_was_carried_out_sets_the_backups_up(root, given, expected):
    found = entries(root, "restore")
    names = [name for name, _when in found]
    assert names.index("apply") > names.index("restore")
    own = yaml.safe_load((root / "roles/backup/vars/main.yml").read_text())
    ours = {name: trust_as_template(own[name]) for name in ("backup_reads_another", "__backup_run")}
    variables = {"backup_purpose": "backup", "backup_old_volumes": "keep", "backup_project": "campaign", "backup_directory": "/opt/p", **ours, **given}
    when = dict(found)["apply"]
    assert Templar(loader=DataLoader(), variables=variables).template(trust_as_template("{{ " + when + " }}")) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"revert": "true"}, True),
        ({"upgrade_postgres_old_volumes": "remove"}, True),
        ({"upgrade_postgres_old_volumes": "remove", "revert": "false"}, True),
        ({"upgrade_postgres_old_volumes": "removed"}, False),
        ({"upgrade_postgres_old_volumes": "Remove"}, False),
        ({"upgrade_postgres_old_volumes": "remove", "revert": "true"}, False),
    ],
)
def test_the_way_back_is_not_removed_instead_of_gone(root, given, expected):
    """A misspelt value would do nothing, and both at once would remove what the way back needs."""
    *_others, play = yaml.safe_load((root / "playbooks/upgrade_postgres.yml").read_text())
    (conditions,) = [task["ansible.builtin.assert"]["that"] for task in play["tasks"] if "ansible.builtin.assert" in task]
    templar = Templar(loader=DataLoader(), variables=given)
    assert all(templar.template(trust_as_template("{{ " + condition + " }}")) for condition in conditions) is expected


@pytest.mark.parametrize(
    ("register", "expected"), [({}, "/opt/p/backup/run"), ({"__backup_set_up": {"run": "/opt/p/backup/other/run"}}, "/opt/p/backup/other/run")]
)
def test_the_program_is_called_that_was_set_up_for_what_is_read(root, register, expected):
    (task,) = yaml.safe_load((root / "roles/backup/tasks/set_up.yml").read_text())
    assert task["register"] == "__backup_set_up"
    variables = {"backup_directory": "/opt/p", **register}
    text = yaml.safe_load((root / "roles/backup/vars/main.yml").read_text())["__backup_run"]
    assert Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)) == expected
