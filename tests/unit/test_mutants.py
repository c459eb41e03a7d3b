# SPDX-License-Identifier: GPL-3.0-or-later
"""The mistakes that `make mutants` makes on purpose have their places in the files as they are."""

from pathlib import Path

import pytest
import yaml

MUTANTS = Path(__file__).parents[1] / "mutants"


@pytest.mark.parametrize("name", sorted(path.name for path in MUTANTS.glob("*.yml")))
def test_a_mistake_has_its_place(root, name):
    data = yaml.safe_load((MUTANTS / name).read_text())
    rows = data["mutants"] if isinstance(data, dict) else data
    assert rows
    for row in rows:
        text = (root / row["file"]).read_text()
        if name == "equivalent.yml":
            # What is printed of a sampled mistake is a line, or several as one.
            assert " ".join(row["old"].split()) in " ".join(text.split()), row
        else:
            assert text.count(row["old"]) == 1, row
