# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/your-own-application.md says what the entries and the catalogue of images say."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/your-own-application.md").read_text()
CATALOGUE = yaml.safe_load((ROOT / "roles/images/vars/main/catalogue.yml").read_text())["__images_catalogue"]
NODE_SERVICES = ["api", "rules-engine", "scheduler"]
ENTRIES = {
    path.stem: next(iter(yaml.safe_load(path.read_text()).values()))
    for path in (ROOT / "roles/stack/vars/main/services").glob("*.yml")
    if path.stem in [*NODE_SERVICES, "frontend"]
}


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its own head."""
    _, _, below = DOCUMENT.partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines() if not re.match(r"[| -]+$", line)]


def examples() -> list[dict]:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    # Those within a line, too.
    return [yaml.safe_load(text) for text in [*blocks, *re.findall(r"`(stack_services: \{.*?\})`[.:]?$", DOCUMENT, re.MULTILINE)]]


def test_the_checks_that_are_taken_out_are_there():
    named = {
        (service, check) for example in examples() for service, entry in example.get("stack_services", {}).items() for check in (entry or {}).get("checks", {})
    }
    assert len(named) == 7
    assert {(service, check) for service, check in named if check not in ENTRIES[service]["checks"]} == set()


def test_what_is_named_by_image_is_in_the_catalogue():
    (named,) = [example["images_upstream"] for example in examples() if "images_upstream" in example]
    assert set(named) == {*NODE_SERVICES, "frontend"} <= set(CATALOGUE)


def test_dockerfiles_and_their_arguments_are_those_of_the_catalogue():
    said = {cells[1].strip("`"): (cells[2].strip("`"), set(re.findall(r"[A-Z_]+", cells[3]))) for cells in rows("## By path")[1:]}
    images = [definition for definition in CATALOGUE.values() if definition.get("context") == "app"]
    assert said == {image.get("dockerfile", "Dockerfile"): (image.get("target", "last"), set(image["parents"])) for image in images}
    assert all((ROOT / "files/app" / path).is_file() for path in said)


@pytest.mark.parametrize("column", range(1, 4), ids=NODE_SERVICES)
def test_the_table_of_the_services_is_true(column):
    table = {cells[0]: cells[column] for cells in rows("## The Node services")}
    name = table[""]
    service = ENTRIES[name]["base"]["services"][name]
    port = table["Listens on"].removeprefix("0.0.0.0:").split()[0]
    variable = re.search(r"`([A-Z_]+)`", table["Listens on"])[1]
    assert table["uid:gid"] == service["user"]
    assert service["environment"][variable] == port
    assert f"http://127.0.0.1:{port}{table['Ready (200, else 503)'].split()[1].strip('`')}'" in service["healthcheck"]["test"]
    assert table["Networks"] == ", ".join(network.removesuffix("-network") for network in service["networks"])
    assert "command" not in service
    assert all(f"`{setting}`" in DOCUMENT for setting in service["environment"])


def test_every_secret_of_the_application_is_in_the_table():
    said = {name for cells in rows("### Secrets")[1:] for name in re.findall(r"`([a-z0-9_]+)`", cells[0])}
    of_logins = {"database_url", "redis_url", "s3_access_key", "s3_secret_key"}
    assert said == {*of_logins, *(name for service in NODE_SERVICES for names in ENTRIES[service].get("secrets", {}).values() for name in names)}


def test_what_is_proved_by_the_probe_is_reported():
    expected = ENTRIES["api"]["checks"]["dependencies as the api"]["expect"]
    assert {name for name in expected if f"`{name}`" not in DOCUMENT} == set()
    assert {str(value) for value in expected.values() if "{" not in str(value) and f"`{value}`" not in DOCUMENT} == set()
