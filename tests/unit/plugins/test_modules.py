# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module answers when it is run as a program, as Ansible runs it on a host."""

import json
import runpy
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

MODULES = [path for path in sorted((Path(__file__).parents[3] / "plugins/modules").glob("*.py")) if "def main(" in path.read_text()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_that_is_run_answers(capsys, path):
    with patch_module_args({"no_such_option": "x"}), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    answer = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert answer["failed"]
    assert "no_such_option" in answer["msg"] or "missing" in answer["msg"] or "required" in answer["msg"]
