# SPDX-License-Identifier: GPL-3.0-or-later
"""The hooks of pre-commit are the lint steps of tests/run."""

import ast
import os
import re
import shlex
import sys
import types

import pytest
import yaml


@pytest.fixture(scope="module")
def lint_steps(root):
    """The lint steps of tests/run by name, without the script's last lines, which start a run."""
    path = root / "tests/run"
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.FunctionDef | ast.ClassDef)]
    module = types.ModuleType("tests_run")
    module.__file__ = str(path)
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    try:
        exec(compile(tree, path, "exec"), module.__dict__)
        return {step.name: step.command for step in module.steps() if step.group == "lint"}
    finally:
        del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def hooks(root):
    repositories = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    # Another repository would be fetched, and would bring versions of its own.
    assert [repository["repo"] for repository in repositories] == ["local"]
    return {hook["name"]: hook for hook in repositories[0]["hooks"]}


def command(hook) -> list[str]:
    runner, *words = shlex.split(hook["entry"])
    assert runner == "scripts/in-venv"
    assert hook["language"] == "system"
    return words


def is_shell(root, name: str) -> bool:
    """What pre-commit takes for a shell script: by its name, or by its first line where it can be run."""
    if name.endswith((".sh", ".bash")):
        return True
    if "." in os.path.basename(name) or not os.access(root / name, os.X_OK):
        return False
    with (root / name).open("rb") as file:
        return re.match(rb"#!.*\b(ba|da)?sh\b", file.readline()) is not None


def chosen(hook, root, names: list[str]) -> list[str]:
    """The files that pre-commit would hand to a hook."""
    kept = [name for name in names if re.search(hook.get("files", ""), name) and not re.search(hook.get("exclude", "^$"), name)]
    assert hook.get("types", ["shell"]) == ["shell"]
    return [name for name in kept if "types" not in hook or is_shell(root, name)]


def test_every_lint_step_has_a_hook_with_its_command(lint_steps, hooks):
    assert hooks.keys() == lint_steps.keys()
    for name, hook in hooks.items():
        words = command(hook)
        assert lint_steps[name][: len(words)] == words, name
        # What follows are the files, which pre-commit names where the step does.
        assert hook.get("pass_filenames", True) == (len(lint_steps[name]) > len(words)), name


def test_hooks_are_handed_the_files_of_their_steps(lint_steps, hooks, root, project_files):
    names = sorted(str(path.relative_to(root)) for path in project_files)
    compared = 0
    for name, hook in hooks.items():
        if not hook.get("pass_filenames", True):
            continue
        assert chosen(hook, root, names) == sorted(lint_steps[name][len(command(hook)) :]), name
        compared += 1
    assert compared == 3
