# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's way through the page, in headless Chromium, against a stack that runs.

BASE_URL, OPERATOR_USER and OPERATOR_PASSWORD_FILE say where and as whom; SCREENSHOT, if set, where to keep a picture.
"""

import json
import os
import re
import secrets
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

BASE_URL = os.environ["BASE_URL"]
USER = os.environ["OPERATOR_USER"]
PASSWORD = Path(os.environ["OPERATOR_PASSWORD_FILE"]).read_text()
# The scheduler ticks every few seconds, and the page polls.
EVALUATION_MILLISECONDS = 60_000
SERVICES = ("postgres", "redis", "minio", "api", "rules-engine", "scheduler")


def request(method: str, path: str, body: dict | None = None, token: str | None = None):
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(f"{BASE_URL}/api{path}", data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


@pytest.fixture
def page(opened: Page, problems: list[str]):
    opened.on("request", lambda asked: problems.append(f"foreign: {asked.url}") if not asked.url.startswith((BASE_URL, "data:", "blob:")) else None)
    yield opened
    # A 401 is what the wrong password below is meant to bring.
    assert [problem for problem in problems if "401" not in problem] == [], "\n".join(problems)


@pytest.fixture
def name():
    """A campaign's name; the campaign is removed in the end, whatever happened."""
    chosen = f"Browser test {secrets.token_hex(4)}"
    yield chosen
    token = request("POST", "/auth/login", {"username": USER, "password": PASSWORD})["accessToken"]
    for campaign in request("GET", "/campaigns"):
        if campaign["name"] == chosen:
            request("DELETE", f"/campaigns/{campaign['id']}", token=token)


def sign_in(page: Page, password: str) -> None:
    page.get_by_label("Username").fill(USER)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def create(page: Page, name: str) -> None:
    # Exactly, or it is "Username" as long as the answer to the sign-in is under way.
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Longitude").fill("12.5")
    page.get_by_label("Latitude").fill("41.9")
    page.get_by_role("button", name="Create campaign").click()


def test_a_person_creates_a_campaign_sees_it_evaluated_and_deletes_it(page: Page, name: str, assert_accessible) -> None:
    page.goto(BASE_URL)
    status = page.get_by_role("region", name="Status")
    for service in SERVICES:
        expect(status.get_by_role("listitem").filter(has_text=service).first).to_have_attribute("data-status", "up", timeout=20_000)
    assert_accessible(page)

    sign_in(page, "certainly-wrong")
    expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert_accessible(page)
    sign_in(page, PASSWORD)

    create(page, name)
    item = page.get_by_role("list", name="Campaigns").get_by_role("listitem").filter(has_text=name)
    expect(item).to_be_visible()
    # Without a reload.
    expect(item).to_contain_text("active", timeout=EVALUATION_MILLISECONDS)
    expect(page.locator("circle.active").filter(has_text=name)).to_have_count(1)
    # Who signed in is told more.
    expect(status).to_contain_text("has a heartbeat")
    assert_accessible(page)
    if screenshot := os.environ.get("SCREENSHOT"):
        page.screenshot(path=screenshot)

    def accept(dialog: Dialog) -> None:
        assert name in dialog.message
        dialog.accept()

    page.once("dialog", accept)
    page.get_by_role("button", name=f"Delete {name}").click()
    expect(item).to_have_count(0)


def test_the_keyboard_chooses_a_place_on_the_map(page: Page) -> None:
    page.goto(BASE_URL)
    sign_in(page, PASSWORD)
    page.get_by_role("application", name=re.compile("^Map of campaigns")).focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Longitude")).to_have_value("11")
    expect(page.get_by_label("Latitude")).to_have_value("1")


def test_a_session_that_ends_takes_nothing_away(page: Page, name: str, assert_accessible) -> None:
    def without_a_token(route: Route) -> None:
        route.continue_(headers={key: value for key, value in route.request.headers.items() if key != "authorization"})

    page.goto(BASE_URL)
    sign_in(page, PASSWORD)
    # As the api answers one whose token has expired.
    page.route("**/api/campaigns", without_a_token)
    create(page, name)
    expect(page.get_by_role("alert")).to_contain_text("Your session has ended.")
    assert_accessible(page)
    page.unroute("**/api/campaigns")
    sign_in(page, PASSWORD)
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)
    page.get_by_role("button", name="Create campaign").click()
    expect(page.get_by_role("list", name="Campaigns").get_by_role("listitem").filter(has_text=name)).to_be_visible()
