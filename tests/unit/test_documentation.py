# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents say is there, is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("tests/**/*.md")])
by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def test_there_is_a_readme():
    assert ROOT / "README.md" in DOCUMENTS


@by_document
def test_links_lead_somewhere(document):
    text = document.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        # The changelog escapes the colon of an address.
        if re.match(r"[a-z]+\\?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}: no such heading"


@by_document
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)\b", code)) - targets == set()


@by_document
def test_playbooks_and_variables_exist(document):
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    known = (
        {path.stem for path in ROOT.glob("playbooks/*.yml")}
        | {path.name for path in ROOT.glob("roles/*")}
        | {path.stem for path in ROOT.glob("plugins/*/*.py")}
    )
    assert set(re.findall(r"\bcampaign\.platform\.([a-z_]+)", code)) - known - {"tar"} == set()
    specs = "\n".join(path.read_text() for path in [*ROOT.glob("roles/*/meta/argument_specs.yml"), *ROOT.glob("roles/*/vars/**/*.yml")])
    variables = set(re.findall(r"(?<![\w.])((?:stack|images|docker_host|bundle)_[a-z0-9_]+)\b", code))
    assert {name for name in variables if not re.search(rf"\b{name}\b", specs)} == set()


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{name}.md" for name in ("backup", "export", "operations", "point-in-time", "releases", "restore", "upgrade-postgres"))]
)
def test_commands_for_prod_ask_for_the_password_of_the_vault(name):
    """Without it, Ansible ends at the first encrypted file of group_vars."""
    commands = re.findall(r"ansible-playbook -i inventories/prod .*", (ROOT / name).read_text())
    assert commands
    assert [command for command in commands if "--ask-vault-pass" not in command] == []


def test_every_make_target_says_what_it_does():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE).group(1).split()
    assert set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)) == set(phony)
    assert {name for name in phony if not re.search(rf"^{name}:.* ## ", makefile, re.MULTILINE)} == {"venv", "venv-dev"}


def test_the_drawing_of_the_services_is_made_from_the_catalogue():
    done = subprocess.run([sys.executable, ROOT / "scripts/architecture-diagram", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_role_readmes_are_made_from_the_argument_specs():
    done = subprocess.run([sys.executable, ROOT / "scripts/role-readmes", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
