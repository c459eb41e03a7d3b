# SPDX-License-Identifier: GPL-3.0-or-later
"""An Engine that does not answer is not an Engine that is not there, and a record that says nothing is an error."""

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.campaign.platform.plugins.module_utils.engine import EngineError
from ansible_collections.campaign.platform.plugins.modules import host_facts as module


def run(capsys, **params):
    with patch_module_args(params), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("installed", [True, False])
def test_an_engine_that_does_not_answer_may_be_installed(capsys, tmp_path, monkeypatch, installed):
    if installed:
        (tmp_path / "dockerd").write_text("#!/bin/sh\n")
        (tmp_path / "dockerd").chmod(0o755)
    monkeypatch.setattr(module, "ENGINE_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    facts = run(capsys, socket=str(tmp_path / "none.sock"))["ansible_facts"]["campaign_host"]
    assert (facts["engine"], facts["engine_installed"]) == (None, installed)
    assert "none.sock" in facts["engine_error"]


@pytest.mark.parametrize(("record", "expected"), [(None, None), ("", None), ("pull\n", "pull"), ("build\n", "build")])
def test_the_recorded_source(capsys, tmp_path, record, expected):
    if record is not None:
        (tmp_path / "source").write_text(record)
    facts = run(capsys, socket=str(tmp_path / "none.sock"), source_directory=str(tmp_path))["ansible_facts"]["campaign_host"]
    assert facts["images_source"] == expected


def test_a_record_of_something_else_is_an_error_that_names_it(capsys, tmp_path):
    (tmp_path / "source").write_text("pul")
    answer = run(capsys, socket=str(tmp_path / "none.sock"), source_directory=str(tmp_path))
    assert answer["failed"]
    assert f"{tmp_path}/source holds 'pul'" in answer["msg"]


class Engine:
    """Answers at the third question."""

    asked = 0

    def get(self, _path):
        self.asked += 1
        if self.asked < 3:
            raise EngineError("socket", "no")


@pytest.mark.parametrize(("seconds", "asked"), [(0, 0), (30, 3)])
def test_waiting_for_the_engine(monkeypatch, seconds, asked):
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    engine = Engine()
    module.await_engine(engine, seconds)
    assert engine.asked == asked
