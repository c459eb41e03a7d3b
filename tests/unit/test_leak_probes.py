# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of docs/leak-probes.md is that of the test, and a search knows every spelling."""

import base64
import importlib.util
import json
import re
import sys
import urllib.parse

import pytest


@pytest.fixture(scope="module")
def probes(root):
    spec = importlib.util.spec_from_file_location("leak_probes", root / "tests/live/test_leaks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_lists_every_place(root, probes):
    page = (root / "docs/leak-probes.md").read_text()
    wanted = {place.name: place.what for place in probes.PLACES} | probes.CONTROLLER
    assert dict(re.findall(r"^\| ([a-z][a-z-]+) \| (.*) \|$", page, re.MULTILINE)) == wanted


def test_the_page_names_every_known_secret(root, probes):
    page = (root / "docs/leak-probes.md").read_text()
    assert [name for place in probes.PLACES for name in place.keeps if f"`{name}`" not in page] == []


def test_every_place_has_a_leak_to_plant(probes):
    assert len(probes.PLACES) + len(probes.CONTROLLER) >= 40
    assert [place.name for place in probes.PLACES if not place.plant.strip()] == []


@pytest.mark.parametrize("value", ["plain-and-long-enough", "C\"a/\\b:@$&<é 'x", "abcdefgh"])
def test_a_spelled_secret_is_found(probes, value):
    wanted = probes.patterns_of({"secret": value})
    texts = [value, urllib.parse.quote(value, safe=""), json.dumps(value), json.dumps(value, ensure_ascii=False)]
    texts += [base64.b64encode(("x" * shift + value + "yz").encode()).decode() for shift in range(6)]
    for text in texts:
        assert any(pattern in text.encode() for pattern in wanted), text


def test_a_blind_probe_and_a_leak_both_fail(probes):
    wanted = {b"value-of-it": "secret, as it is"}
    probes.judge("a place", {b"canary"}, wanted, "canary")
    with pytest.raises(AssertionError, match="did not find"):
        probes.judge("a place", set(), wanted, "canary")
    with pytest.raises(AssertionError, match="a place shows secret"):
        probes.judge("a place", {b"canary", b"value-of-it"}, wanted, "canary")
    with pytest.raises(AssertionError, match="any more"):
        probes.judge("a place", {b"canary"}, wanted, "canary", keeps=("secret",))
