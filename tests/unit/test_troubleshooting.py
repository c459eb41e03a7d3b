# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages that docs/troubleshooting.md explains are those that the collection writes."""

import re

import pytest

# Written by PostgreSQL, and by Ansible itself.
FOREIGN = {"password authentication failed", "no vault secrets", "Decryption failed"}


@pytest.fixture(scope="module")
def written(texts) -> str:
    """Everything that may hold a message, with every break of a line taken for a space."""
    sources = [text for path, text in texts.items() if re.match(r"(plugins|roles|playbooks)/", path) and path.endswith((".py", ".yml", ".j2"))]
    return re.sub(r"\s+", " ", "\n".join(sources))


def test_every_message_of_the_page_is_written_somewhere(root, written):
    page = (root / "docs/troubleshooting.md").read_text()
    explained = [line for line in page.splitlines() if line.startswith("### ") or re.match(r'\| "', line)]
    messages = {message for line in explained for message in re.findall(r'"([^"]+)"', line.split(" | ")[0])}
    assert len(messages) > 20
    assert {message for message in messages - FOREIGN if message not in written} == set()
    assert messages >= FOREIGN


def test_the_page_names_what_a_person_meets_first(root):
    page = (root / "docs/troubleshooting.md").read_text()
    for words in ("Fix these first", "Something else listens", "docker_host_min_memory_mb", "could not be resolved", "was started again", "Restore the file"):
        assert words in page
