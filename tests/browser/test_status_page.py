# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that the playbook status writes, as a person opens it: STATUS_PAGE is the file, STATUS_PROJECT the stack's project."""

import os
from pathlib import Path

from playwright.sync_api import Page, expect

FILE = Path(os.environ["STATUS_PAGE"])
PROJECT = os.environ["STATUS_PROJECT"]
SERVICES = ("postgres", "redis", "minio", "api", "rules-engine", "scheduler", "frontend", "page")


def test_a_person_reads_the_status_in_a_browser(opened: Page, problems: list[str], assert_accessible) -> None:
    opened.on("request", lambda asked: problems.append(f"foreign: {asked.url}") if asked.url != FILE.as_uri() else None)
    opened.goto(FILE.as_uri())
    expect(opened).to_have_title(f"{PROJECT} on {os.uname().nodename}")
    services = opened.get_by_role("region", name="Services").get_by_role("row")
    for service in SERVICES:
        row = services.filter(has=opened.get_by_role("rowheader", name=service, exact=True))
        expect(row).to_contain_text("healthy")
    expect(opened.get_by_role("region", name="Jobs")).to_contain_text("ended with exit code 0")
    expect(opened.get_by_role("row").filter(has_text="Drift")).to_contain_text("none")
    assert_accessible(opened)
    assert problems == [], "\n".join(problems)


def test_the_page_fits_on_a_telephone(opened: Page) -> None:
    opened.set_viewport_size({"width": 360, "height": 640})
    opened.goto(FILE.as_uri())
    # Wide tables scroll by themselves, and the page does not.
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
