# SPDX-License-Identifier: GPL-3.0-or-later
"""Every document can be found from docs/README.md, and that from the README."""

import re


def links(path) -> set:
    found = re.findall(r"\]\(([^)\s#]+)", path.read_text())
    return {(path.parent / link).resolve() for link in found if not re.match(r"[a-z]+:", link)}


def test_the_index_names_every_document(root):
    wanted = {*root.glob("docs/*.md"), *root.glob("roles/*/README.md"), *root.glob("examples/*/README.md"), *root.glob("*.md")}
    index = root / "docs/README.md"
    assert len(wanted) > 20
    # The code of conduct is found from CONTRIBUTING.
    assert wanted - links(index) - {index, root / "CODE_OF_CONDUCT.md"} == set()
    assert index in links(root / "README.md")
    assert root / "CODE_OF_CONDUCT.md" in links(root / "CONTRIBUTING.md")


def test_the_readme_has_the_tasks_that_people_search_for(root):
    headings = set(re.findall(r"^## (.+)$", (root / "README.md").read_text(), re.MULTILINE))
    assert headings >= {"Quick start", "Configuration", "Upgrading", "Rollback", "Backup", "Troubleshooting", "Uninstall"}
