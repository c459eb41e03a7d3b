# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of compiled modules is what Python would have compiled."""

import importlib.util
import sys
import zipfile
import zipimport

import pytest


@pytest.fixture
def cache(root, tmp_path, monkeypatch):
    """The cache as a Python has it that tests start, and what it compiled itself."""
    compiled = []
    original = zipimport._compile_source
    monkeypatch.setattr(zipimport, "_compile_source", lambda path, source: compiled.append(path) or original(path, source))
    monkeypatch.setenv("CAMPAIGN_TESTS_CODE_CACHE", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    spec = importlib.util.spec_from_file_location("code_cache_here", root / "tests/code_cache/code_cache.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return compiled


def value(directory, source: str, name: str = "one") -> int:
    """Import a module from an archive of its own, as Ansible has it run, and return its value."""
    path = directory / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing.py", source)
    zipimport._zip_directory_cache.clear()
    loader = zipimport.zipimporter(str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("thing", loader))
    loader.exec_module(module)
    sys.modules.pop("thing", None)
    return module.VALUE


def test_the_same_source_is_compiled_once_wherever_it_lies(cache, tmp_path):
    assert [value(tmp_path, "VALUE = 1", name) for name in ("one", "two")] == [1, 1]
    assert len(cache) == 1


def test_another_source_is_another_module(cache, tmp_path):
    assert [value(tmp_path, f"VALUE = {number}") for number in (1, 2)] == [1, 2]
    assert len(cache) == 2


@pytest.mark.parametrize("damage", [b"", b"x", b"\xe3"])
def test_what_is_damaged_is_compiled_again(cache, tmp_path, damage):
    value(tmp_path, "VALUE = 1")
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(damage)
    assert value(tmp_path, "VALUE = 1", "two") == 1
    assert len(cache) == 2
