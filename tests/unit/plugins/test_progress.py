# SPDX-License-Identifier: GPL-3.0-or-later
"""A long step says for how long it has been running; a quick one says nothing, and no failure of the display reaches the run."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import trust_as_template
from ansible_collections.campaign.platform.plugins.callback import progress as module

ROOT = Path(__file__).resolve().parents[3]


class Screen(list):
    """What was written, and a clock that a test moves."""

    def __init__(self, **given):
        super().__init__()
        self.now = 1000.0
        self.progress = module.Progress(self.append, **{"terminal": False, "after": 5, "interval": 30, **given})

    def begin(self, key: str, expected: float = 0) -> None:
        self.progress.begin(key, key, expected, self.now)

    def wait(self, seconds: int) -> "Screen":
        for _second in range(seconds):
            self.now += 1
            self.progress.tick(self.now)
        return self


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.9, "0:07"), (199, "3:19"), (3723, "1:02:03")])
def test_durations_are_written_as_people_read_them(seconds, text):
    assert module.clock(seconds) == text


def test_a_log_gets_a_line_every_half_minute():
    screen = Screen()
    screen.begin("Build", expected=200)
    assert screen.wait(65) == ["Build: running for 0:30, usually takes 3:20\n", "Build: running for 1:00, usually takes 3:20\n"]


@pytest.mark.parametrize("terminal", [True, False])
def test_quick_steps_say_nothing(terminal):
    screen = Screen(terminal=terminal)
    for number in range(20):
        screen.begin(f"step {number}")
        screen.wait(4)
        screen.progress.end(f"step {number}")
    assert screen == []


def test_a_terminal_has_one_line_that_is_updated_and_goes():
    screen = Screen(terminal=True)
    screen.begin("Build")
    screen.wait(6)
    assert screen == [f"{module.ERASE}Build: running for 0:0{second}\r" for second in (5, 6)]
    screen.progress.end("Build")
    assert screen[2:] == [module.ERASE]
    screen.wait(60)
    screen.progress.erase()
    assert len(screen) == 3


@pytest.mark.parametrize(("width", "line"), [(40, "Build an image wit...: running for 0:05"), (20, "...: running for 0:")])
def test_a_line_is_never_wider_than_the_terminal_and_keeps_the_time_as_long_as_it_can(width, line):
    screen = Screen(terminal=True, width=lambda: width)
    screen.begin("campaign.platform.images : Build an image with a long name")
    screen.wait(5)
    (shown,) = screen
    # The last column stays free, where some terminals begin a new line.
    assert shown == f"{module.ERASE}{line}\r"
    assert len(line) == width - 1


def test_of_several_hosts_the_one_that_takes_longest_is_shown():
    screen = Screen()
    screen.begin("one")
    screen.wait(10)
    screen.begin("two")
    screen.wait(25)
    screen.progress.end("one")
    assert screen.wait(40) == ["one: running for 0:30\n", "two: running for 0:30\n", "two: running for 1:00\n"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 0),
        ({"__images_expected_seconds": 200}, 200),
        ({"__images_expected_seconds": trust_as_template("{{ image.seconds }}"), "image": {"seconds": 20}}, 20),
        ({"__images_expected_seconds": ""}, 0),
    ],
)
def test_a_task_says_how_long_it_usually_takes(variables, expected):
    assert module.expected_of(SimpleNamespace(get_vars=lambda: variables), DataLoader()) == expected


class Display:
    """Ansible's, as far as the plugin knows it."""

    verbosity = 0

    def __init__(self):
        self.shown = []

    def display(self, text, **_named):
        self.shown.append(text)


def plugin(monkeypatch, written: list) -> module.CallbackModule:
    found = module.CallbackModule(display=Display())
    found.get_option = {"terminal_after": 5, "log_interval": 30}.__getitem__
    monkeypatch.setattr(module, "write_to", lambda _descriptor: written.append)
    monkeypatch.setattr(module, "TICK", 3600)
    monkeypatch.setattr(module.sys, "stdout", SimpleNamespace(isatty=lambda: True, fileno=lambda: 1))
    monkeypatch.setenv("TERM", "xterm")
    return found


def of(name: str = "Build", **variables) -> SimpleNamespace:
    return SimpleNamespace(_uuid=name, get_name=lambda: name, get_vars=lambda: variables)


def test_the_line_goes_before_anything_else_is_shown(monkeypatch):
    written = []
    found = plugin(monkeypatch, written)
    found._display.shown = written
    found.v2_playbook_on_start(SimpleNamespace(get_loader=DataLoader))
    found.v2_playbook_on_task_start(of(__images_expected_seconds=200), False)
    found.v2_runner_on_start(SimpleNamespace(get_name=lambda: "host"), of())
    found._progress.tick(time.monotonic() + 65)
    found._display.display("changed: [host]")
    found.v2_runner_on_ok(SimpleNamespace(host=SimpleNamespace(get_name=lambda: "host"), task=of()))
    found.v2_playbook_on_stats(None)
    assert written == [f"{module.ERASE}Build: running for 1:05, usually takes 3:20\r", module.ERASE, "changed: [host]"]
    assert not found.disabled


def test_a_task_that_cannot_be_read_ends_the_display_and_not_the_run(monkeypatch):
    found = plugin(monkeypatch, [])
    found.v2_playbook_on_start(SimpleNamespace(get_loader=DataLoader))
    found.v2_playbook_on_task_start(of(__images_expected_seconds=trust_as_template("{{ nothing }}")), False)
    assert found.disabled
    found.v2_runner_on_start(None, None)
    found.v2_playbook_on_stats(None)


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.command: {argv: [sleep, "4"]}
      changed_when: false
      vars: {__test_expected_seconds: "{{ __test_row.seconds }}", __test_row: {seconds: 75}}
    - name: Show
      ansible.builtin.debug: {msg: "one\\ntwo"}
"""


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "absent"])
def test_a_run_is_the_same_with_and_without_it(tmp_path, enabled):
    (tmp_path / "play.yml").write_text(PLAY)
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "CAMPAIGN_PROGRESS_LOG_INTERVAL": "2", "LC_ALL": "C.UTF-8"}
    env["ANSIBLE_CALLBACKS_ENABLED"] = "campaign.platform.progress" if enabled else "campaign.platform.nothing_of_the_kind"
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", tmp_path / "play.yml"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # A busy machine looks a moment later.
    assert bool(re.search(r"^Wait: running for 0:0[2-5], usually takes 1:15$", done.stdout, re.MULTILINE)) == enabled
    assert "ok: [localhost] => \n    msg: |-\n        one\n        two\n" in done.stdout


# It writes down which process loads it.
PLUGIN = """
import os
with open(os.environ["LOADED"], "a") as file:
    file.write(f"{__file__} {os.getpid()}\\n")
class FilterModule:
    def filters(self):
        return {"kept": lambda value: value}
class TestModule:
    def tests(self):
        return {"kept": bool}
"""
TASK = """
    - ansible.builtin.debug: {msg: "{{ 1 | kept }}"}
      when: 1 is kept
"""


@pytest.mark.parametrize(("enabled", "processes"), [(True, 1), (False, 3)], ids=["enabled", "absent"])
def test_filters_and_tests_are_loaded_once_and_not_by_the_process_of_each_task(tmp_path, enabled, processes):
    env = {**os.environ, "LC_ALL": "C.UTF-8", "LOADED": str(tmp_path / "loaded")}
    for kind in ("filter", "test"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "kept.py").write_text(PLUGIN)
        env[f"ANSIBLE_{kind.upper()}_PLUGINS"] = str(tmp_path / kind)
    (tmp_path / "play.yml").write_text("- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:" + 3 * TASK)
    env["ANSIBLE_CALLBACKS_ENABLED"] = "campaign.platform.progress" if enabled else "campaign.platform.nothing_of_the_kind"
    command = [Path(sys.executable).parent / "ansible-playbook", tmp_path / "play.yml"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = Counter(line.split()[0] for line in set((tmp_path / "loaded").read_text().splitlines()))
    assert loaded == {str(tmp_path / kind / "kept.py"): processes for kind in ("filter", "test")}
