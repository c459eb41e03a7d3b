# SPDX-License-Identifier: GPL-3.0-or-later
"""Renovate's patterns match what stands in the files that they are for."""

import json
import re

import pytest
import yaml


def in_python(pattern: str) -> re.Pattern[str]:
    """A pattern of Renovate's; only the named groups are spelled in another way."""
    return re.compile(pattern.replace("(?<", "(?P<"))


def of_files(patterns: list[str]) -> list[re.Pattern[str]]:
    assert all(pattern.startswith("/") and pattern.endswith("/") for pattern in patterns), "a pattern without slashes is a glob"
    return [re.compile(pattern[1:-1]) for pattern in patterns]


@pytest.fixture(scope="module")
def config(root):
    return json.loads((root / ".github/renovate.json").read_text())


def found(manager, text: str) -> dict[str, dict[str, str]]:
    """What a custom manager takes out of a text, by the name of the dependency."""
    return {match["depName"]: match.groupdict() for pattern in manager["matchStrings"] for match in in_python(pattern).finditer(text)}


def test_every_upstream_reference_of_the_catalogue_is_found(config, texts):
    upstream, _ = config["customManagers"]
    (path,) = (path for path, text in texts.items() if path.startswith("roles/images/vars/") and re.search("^__images_catalogue:", text, re.MULTILINE))
    assert any(pattern.search(path) for pattern in of_files(upstream["managerFilePatterns"]))
    rows = yaml.safe_load(texts[path])["__images_catalogue"]
    references = {row["upstream"] for row in rows.values() if "upstream" in row}
    assert len(references) >= 5
    assert {f"{name}:{groups['currentValue']}" for name, groups in found(upstream, texts[path]).items()} == references
    # A tag that an update cannot be computed from would be found, and never updated.
    versionings = {name: rule["versioning"] for rule in config["packageRules"] if "versioning" in rule for name in rule["matchPackageNames"]}
    assert set(versionings) <= {reference.rpartition(":")[0] for reference in references}
    for reference in references:
        name, _, tag = reference.rpartition(":")
        pattern = in_python(versionings[name].removeprefix("regex:")) if name in versionings else re.compile(r"\d+(\.\d+)*(-[a-z-]+)?$")
        assert pattern.match(tag), reference


@pytest.mark.parametrize(
    ("line", "name", "tag", "digest"),
    [
        ("    mailer: {upstream: registry.example.com/mailer:1.0.0}", "registry.example.com/mailer", "1.0.0", None),
        ('    upstream: "registry.example.com:5000/a/b:1-slim"', "registry.example.com:5000/a/b", "1-slim", None),
        (f"    upstream: docker.io/library/redis:8.0@sha256:{'0' * 64}", "docker.io/library/redis", "8.0", f"sha256:{'0' * 64}"),
    ],
)
def test_references_of_an_inventory_are_found(config, line, name, tag, digest):
    upstream, _ = config["customManagers"]
    assert found(upstream, line) == {name: {"depName": name, "currentValue": tag, "currentDigest": digest}}


def test_every_row_of_a_lock_file_is_found(config):
    _, lock = config["customManagers"]
    locked = {
        "docker.io/library/redis:8.0-bookworm": f"sha256:{'a' * 64}",
        "registry.example.com:5000/campaign/api:1.0.0": f"sha256:{'b' * 64}",
        "docker.io/pgsty/silo:RELEASE.2026-09-16T00-00-00Z": f"sha256:{'c' * 64}",
    }
    # As the role writes it.
    text = yaml.safe_dump({"images_lock": locked}, indent=2, width=1000)
    rows = found(lock, text)
    assert {f"{name}:{groups['currentValue']}": groups["currentDigest"] for name, groups in rows.items()} == locked
    assert any(pattern.search("inventories/prod/group_vars/campaign/images_lock.yml") for pattern in of_files(lock["managerFilePatterns"]))
    assert any(rule.get("matchDepTypes") == [lock["depTypeTemplate"]] and rule["enabled"] is False for rule in config["packageRules"])


def test_python_and_npm_pins_are_looked_at(config, texts):
    patterns = of_files(config["pip_requirements"]["managerFilePatterns"])
    sources = {path for path in texts if re.fullmatch(r"requirements.*\.in", path)}
    assert {path for path in texts if any(pattern.search(path) for pattern in patterns)} == sources
    # What is pinned from them is written by `make requirements` alone.
    assert {path.removesuffix(".in") + ".txt" for path in sources} <= set(config["ignorePaths"])
    lockfiles = {path for path in texts if path.endswith("package-lock.json")}
    assert "examples/consumer/mailer/package-lock.json" in lockfiles
    assert not [path for path in lockfiles if path in config["ignorePaths"] or path.startswith("tests/")]
    # The preset leaves out every directory that is called examples.
    assert ":ignoreModulesAndTests" in config["ignorePresets"]
    assert {"custom.regex", "npm", "pip_requirements"} <= set(config["enabledManagers"])
