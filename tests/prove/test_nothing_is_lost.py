# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store acknowledged is there after restarts, recreations, kills, upgrades and rollbacks, which come while somebody writes."""

import time

import pytest
from conftest import PROJECT
from ledger import NOTHING, Ledger

ROUNDS = 100
STORES = ("postgres", "redis", "minio")


def restarted(stack, store, _number) -> None:
    stack.docker("restart", f"{PROJECT}-{store}-1")


def recreated(stack, store, number) -> None:
    """Change the server's own definition, so that its container is another one afterwards."""
    before = stack.containers()[store]["Id"]
    stack.deploy(stack_services={store: {"base": {"services": {store: {"labels": {"edit": str(number)}}}}}})
    assert stack.containers()[store]["Id"] != before


def killed(stack, store, _number) -> None:
    stack.docker("kill", f"{PROJECT}-{store}-1")
    # What is killed by hand stays stopped, as the Engine sees it.
    stack.docker("start", f"{PROJECT}-{store}-1")


def upgraded(stack, _store, number) -> None:
    stack.deploy(stack_log_level=("debug", "warn")[number % 2])


def rolled_back(stack, _store, _number) -> None:
    result = stack.play("rollback")
    assert result.status == 0, result.text[-3000:]


EVENTS = (killed, recreated, restarted, rolled_back, upgraded)
# One of each that touches a store.
SAMPLE = (killed, recreated, restarted, rolled_back)


@pytest.fixture
def events(request) -> list:
    return [EVENTS[number % len(EVENTS)] for number in range(ROUNDS)] if request.config.getoption("--full") else list(SAMPLE)


def test_what_was_acknowledged_is_there(stack, events):
    stack.deploy()
    with Ledger(stack) as ledger:
        for number, event in enumerate(events):
            # Each kind with each store in turn.
            store = STORES[(number // len(EVENTS) + number) % len(STORES)]
            time.sleep(1)
            event(stack, store, number)
    stack.deploy()
    lost = ledger.lost()
    print(f"{len(events)} events; acknowledged: {ledger.told()}")
    assert lost == NOTHING
    assert all(len(book.acknowledged) > len(events) for book in ledger.books.values())
    assert any(book.refused for book in ledger.books.values())
