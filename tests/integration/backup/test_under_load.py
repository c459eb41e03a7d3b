# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody notices that a backup is made, or that one is brought back beside what serves; and what people store meanwhile makes no set worth less."""

from deployed import full_only
from load import Load

ROUNDS = 3


@full_only
def test_no_request_fails_while_sets_are_made_and_brought_back(stack):
    (password,) = (stack.directory / "secrets").glob("api_operator_password_*")
    load = Load(stack.ports["frontend"], "operator", password.read_text().strip())
    running = stack.containers()
    before = set(stack.sets())
    with load as seen:
        for _ in range(ROUNDS):
            load.sign_in()
            stack.well("backup")
            stack.well("drill")
    print(f"{len(seen.times)} requests and {seen.uploads} slow uploads over {ROUNDS} backups and drills, p99 {seen.p99() * 1000:.0f} ms")
    assert seen.failures == []
    assert seen.uploads > 0
    assert stack.containers() == running
    # Of one day, one set is kept, and each was brought back whole.
    assert {state for _name, state in set(stack.sets()) - before} == {"verified"}
    # Nothing that was acknowledged is missing in what serves.
    assert set(seen.created) <= set(stack.sql("SELECT id FROM campaign.campaigns").split())
