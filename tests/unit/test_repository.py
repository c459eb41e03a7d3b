# SPDX-License-Identifier: GPL-3.0-or-later
"""Invariants of the repository as a whole."""

import json
import os
import re
import subprocess

import pytest


def word(*parts: str) -> str:
    """Spell a word that this file, too, must not contain."""
    return "".join(parts)


# The mirror, the proxy and the registries are the machine's own business.
HOSTS = [
    word("pypi", ".org"),
    word("pythonhosted", ".org"),
    word("npmjs", ".org"),
    word("npmjs", ".com"),
    word("yarnpkg", ".com"),
    word("golang", ".org"),
    word("crates", ".io"),
    word("deb.debian", ".org"),
    word("security.debian", ".org"),
    word("archive.ubuntu", ".com"),
]
PATHS = re.compile(word(r"(?<![\w.}~-])/(wo", r"rk|ro", r"ot|home/\w+)/"))
NOISE = re.compile(word(r"\bTIC", r"KET-?\d|\bcla", r"ude\b|\banthro", r"pic\b|\bopen", r"ai\b|\bchat", r"gpt\b|\bsub", r"agent"), re.IGNORECASE)
# Within a Dockerfile this is root's home in the image.
IN_IMAGE = re.compile(r"(^|/)Dockerfile$")
# What the templates of a role make; the templates are the code.
RENDERED = re.compile(r"^tests/golden/(local|prod|prod-tls)/")
CODE = re.compile(r"\.(py|sh)$|(^|/)(Makefile|Dockerfile)$")


def lines_matching(texts, pattern, skip=None):
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts.items()
        if not (skip and skip.search(path))
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_registry(texts):
    assert lines_matching(texts, re.compile("|".join(map(re.escape, HOSTS)))) == []


def test_no_file_holds_a_path_of_one_machine(texts):
    assert lines_matching(texts, PATHS, skip=IN_IMAGE) == []


def test_no_file_speaks_of_how_it_came_about(texts):
    assert lines_matching(texts, NOISE) == []


def test_commit_messages_obey_the_same_rules(root):
    log = subprocess.run(["git", "log", "--format=%h %B"], cwd=root, check=True, capture_output=True, text=True).stdout
    forbidden = re.compile("|".join([*map(re.escape, HOSTS), PATHS.pattern, NOISE.pattern]), re.IGNORECASE)
    assert lines_matching({"log": log}, forbidden) == []


def test_no_rule_is_switched_off(texts):
    switches = re.compile(
        "|".join(
            [
                word("no", "qa"),
                word(r"hadolint ig", "nore"),
                word(r"shellcheck dis", "able"),
                word("yamllint dis", "able"),
                word(r"es", "lint-disable"),
                word(r"ox", "lint-disable"),
                word("prettier-ig", "nore"),
                word("@ts-ig", "nore"),
                word("skip_", "ansible_lint"),
            ]
        )
    )
    assert lines_matching(texts, switches, skip=re.compile(r"(^|/)package(-lock)?\.json$")) == []


def test_npm_lockfiles_hold_hashes_and_no_addresses(texts):
    locks = [path for path in texts if path.endswith("package-lock.json")]
    assert locks
    for path in locks:
        packages = json.loads(texts[path])["packages"]
        # A link leads into the workspace, and what is bundled came with its bundler's own hash.
        fetched = {name: entry for name, entry in packages.items() if "node_modules/" in name and not entry.get("link") and not entry.get("inBundle")}
        assert [name for name, entry in fetched.items() if "integrity" not in entry or "resolved" in entry] == [], path


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_python_requirements_are_pinned_with_hashes(texts, name):
    entries = texts[f"{name}.txt"].replace("\\\n", " ").splitlines()
    assert [line for line in entries if not re.match(r"[\w.-]+==[\w.]+( ; [^\\]+)?\s+--hash=sha256:\w{64}", line)] == []
    pinned = {re.split(r"[=\[]", line)[0].lower().replace("_", "-") for line in entries}
    wanted = [line for line in texts[f"{name}.in"].splitlines() if re.match(r"\w", line)]
    for line in wanted:
        assert re.split(r"[=\[]", line)[0] in pinned
        if "==" in line:
            # What an extra adds stands in the pinned file by itself.
            pin = re.sub(r"\[[^\]]+\]", "", line)
            assert any(entry.startswith(f"{pin} ") for entry in entries), line


def test_what_the_deploy_installs_is_what_the_tests_ran_with(texts):
    def versions(name):
        return set(re.findall(r"^([\w.-]+==[\w.]+)", texts[name], re.MULTILINE))

    assert versions("requirements.txt") <= versions("requirements-dev.txt")


def test_code_states_its_licence(root, texts):
    # What is empty states nothing; ansible-test wants a package's own file like that.
    sources = {path: text for path, text in texts.items() if text and not RENDERED.search(path)}
    code = {path: text for path, text in sources.items() if CODE.search(path) or (text.startswith("#!") and os.access(root / path, os.X_OK))}
    # The licence of the application stands in its package.json files.
    assert [path for path, text in code.items() if not path.startswith("files/app/") and "SPDX-License-Identifier: GPL-3.0-or-later" not in text[:400]] == []
    assert [path for path in texts if path.startswith("files/app/") and path.endswith("/package.json") and '"GPL-3.0-or-later"' not in texts[path]] == []
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 3" in texts["LICENSE"]


def test_shell_scripts_stop_at_the_first_error(root, texts):
    # A script that cannot be run is sourced, and goes by what its reader has set.
    run = {path: text for path, text in texts.items() if os.access(root / path, os.X_OK) or path.endswith(".j2")}
    shell = {path: text for path, text in run.items() if re.match(r"#!\S*(/env )?\S*\b(ba|da)?sh\b", text)}
    assert shell
    assert [path for path, text in shell.items() if not re.search(r"^set -[a-z]*e", text, re.MULTILINE)] == []


def test_files_that_start_with_an_interpreter_can_be_run(root, texts):
    # Ansible hands modules to the interpreter itself, and an init script is read by its image's entrypoint.
    read_not_run = re.compile(r"^plugins/modules/|\.j2$|^files/images/|" + RENDERED.pattern)
    assert [path for path, text in texts.items() if text.startswith("#!") and not read_not_run.search(path) and not os.access(root / path, os.X_OK)] == []


def test_the_checkout_finds_itself_as_a_collection(root):
    link = root / "collections/ansible_collections/campaign/platform"
    assert link.is_symlink()
    assert str(link.readlink()) == "../../.."
    assert link.resolve() == root


def test_what_a_machine_keeps_for_itself_is_not_in_the_repository(root):
    tracked = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
    private = re.compile(r"(^|/)(\.venv|\.cache|node_modules|dist|__pycache__|\.env|\.env\.local|\.vault[_-]pass\w*)(/|$)")
    assert [path for path in tracked if private.search(path) and not path.startswith("tests/golden/")] == []
