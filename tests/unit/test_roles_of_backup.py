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
