# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests in a browser share."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
# As root Chromium has no sandbox; the rest keeps it from looking for its maker's servers.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def problems() -> list[str]:
    """What the browser complained about."""
    return []


@pytest.fixture
def opened(problems: list[str]):
    """A page in headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.on("console", lambda message: problems.append(f"console: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"page: {error}"))
        yield page
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The program that looks for what keeps people out, from the application's own development dependencies."""
    command = [ROOT / "tests/in-dev-image", "cat", "node_modules/axe-core/axe.min.js"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def assert_accessible(axe: str) -> Callable[[Page], None]:
    """See that axe finds nothing, neither in the light nor in the dark."""

    def look(page: Page) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.evaluate(axe)
            found = page.evaluate("async () => (await axe.run()).violations")
            said = [f"{violation['id']} ({scheme}): {node['html']} {node['failureSummary']}" for violation in found for node in violation["nodes"]]
            assert said == [], "\n".join(said)
        page.emulate_media(color_scheme="light")

    return look
