# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers are replaced while they work, the new one beside the old one for a while, and are killed and frozen: nothing is done twice, and nothing is lost.

The tests are one story on one pair of servers.
"""

import itertools
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

ROUNDS, ALL_ROUNDS = 10, 30
JOBS_PER_ROUND = 100
# A killed worker's job is given to another one within 20 s.
TAKEN_UP_SECONDS = 25
SCHEDULER, ENGINE = "campaign_scheduler_login", "campaign_rules_engine_login"
EVERY_SECOND = {"SCHEDULER_TICK_SECONDS": "1"}


def replace(servers, worker, chance: random.Random, killed: str | None, **environment: str):
    """Start the next worker beside one, end that, and return the next; one of them may be killed."""
    following = servers.start(worker.service, **environment)
    time.sleep(chance.uniform(0, 0.5))
    if killed == "new":
        following.kill()
        following = servers.start(worker.service, **environment)
    if killed == "old":
        worker.kill()
    else:
        assert worker.stop() < 10
    return following


@dataclass
class Upheaval:
    """What came of replacing the workers many times."""

    jobs: int
    schedulers: list
    engines: list


@pytest.fixture(scope="module")
def upheaval(servers, eventually, full) -> Upheaval:
    rounds = ALL_ROUNDS if full else ROUNDS
    jobs = rounds * JOBS_PER_ROUND

    def schedulers() -> None:
        chance = random.Random("schedulers")
        worker = servers.start("scheduler", **EVERY_SECOND)
        for number in range(rounds):
            worker = replace(servers, worker, chance, {3: "old", 6: "new"}.get(number), **EVERY_SECOND)
        time.sleep(2)
        assert worker.stop() < 10

    def engines() -> None:
        chance = random.Random("engines")
        servers.insert("upheaval", jobs)
        killed = 0.0
        pair = [servers.start("rules-engine"), servers.start("rules-engine")]
        for number in range(rounds // 2):
            pair[number % 2] = replace(servers, pair[number % 2], chance, {0: "old", 1: "new"}.get(number))
            killed = time.monotonic() if number == 1 else killed
        eventually(lambda: not servers.evaluations("upheaval")[0], 120, "each job is done", pause=0.5)
        # What the killed ones had in hand has been given to others by then, done as it was.
        time.sleep(max(0, killed + TAKEN_UP_SECONDS - time.monotonic()))
        for worker in pair:
            assert worker.stop() < 10

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(schedulers), pool.submit(engines)]:
            done.result()
    of = {service: [worker for worker in servers.workers if worker.service == service] for service in ("scheduler", "rules-engine")}
    return Upheaval(jobs, of["scheduler"], of["rules-engine"])


def each_once(servers) -> list[tuple[int, int, float]]:
    """See that every interval since the beginning was done, also those of which nobody was there, and that nobody did one that somebody else did."""
    ticks = servers.ticks()
    starts = [start for start, _seconds, _late in ticks]
    assert {seconds for _start, seconds, _late in ticks} == {1}
    assert starts == list(range(starts[0], starts[-1] + 1))
    schedulers = [worker for worker in servers.workers if worker.service == "scheduler"]
    # What was done by now is in a log a moment later.
    time.sleep(0.5)
    last = datetime.fromtimestamp(starts[-1], UTC)
    told = [line for scheduler in schedulers for line in scheduler.told("tick") if datetime.fromisoformat(line["start"]) <= last]
    assert [start for start, times in Counter(line["start"] for line in told).items() if times > 1] == []
    done = sum(line["intervals"] for line in told)
    # Who is killed between the commit and its line has done some without a word.
    silent = len(ticks) - done
    assert silent == 0 or (silent > 0 and any(scheduler.killed for scheduler in schedulers))
    return ticks


def ticks_again(servers) -> bool:
    ticks = servers.ticks()
    return bool(ticks) and ticks[-1][0] > time.time() - 2


def test_each_interval_is_ticked_once(servers, upheaval):
    ticks = each_once(servers)
    late = sorted(late for _start, _seconds, late in ticks)
    print(f"{len(upheaval.schedulers)} schedulers, {len(ticks)} intervals; done {late[len(late) // 2]:.2f} s after their start, the latest {late[-1]:.2f} s")
    assert late[-1] < 20


def test_each_job_is_done_once(servers, upheaval):
    assert servers.evaluations("upheaval") == {1: upheaval.jobs}
    print(f"{len(upheaval.engines)} rules-engines, {upheaval.jobs} jobs")


def test_redis_allows_the_workers_all_that_they_do(servers, upheaval):
    assert upheaval.jobs
    assert servers.refused() == ""


def test_a_job_in_hand_is_finished_within_the_grace_period(servers, eventually):
    servers.sql("DELETE FROM campaign.campaigns")
    servers.insert("in hand")
    hold = servers.hold("SELECT FROM campaign.campaigns FOR UPDATE")
    engine, scheduler = servers.start("rules-engine"), servers.start("scheduler", **EVERY_SECOND)
    eventually(lambda: servers.waiting(ENGINE) == 1, 10, "the job waits for its row")
    with ThreadPoolExecutor() as pool:
        stopping = pool.submit(engine.stop)
        eventually(lambda: engine.told("draining"), 5, "it ends")
        servers.insert("later")
        time.sleep(3)
        assert not stopping.done()
        hold.let_go()
        assert stopping.result() < 10
    assert len(engine.told("evaluated")) == 1
    assert servers.evaluations("in hand") == {1: 1}
    # It took nothing more.
    assert servers.evaluations("later") == {0: 1}
    assert not engine.told("an evaluation failed")
    assert servers.active("evaluation") == ""
    scheduler.stop()


@pytest.fixture
def held(servers, eventually):
    """A scheduler that is held up in the middle of a tick, another one that waits for it, and what holds it up."""
    first = servers.start("scheduler", **EVERY_SECOND)
    eventually(lambda: ticks_again(servers), 10, "it ticks")
    hold = servers.hold("SELECT pg_advisory_xact_lock(1)")
    eventually(lambda: servers.waiting(SCHEDULER) == 1, 10, "its tick is held up")
    second = servers.start("scheduler", **EVERY_SECOND)
    eventually(lambda: servers.waiting(SCHEDULER) == 2, 10, "the other one waits for its end")
    yield first, second, hold
    second.stop()


def test_two_schedulers_at_one_interval_do_it_once(servers, held):
    first, second, hold = held
    hold.let_go()
    time.sleep(2)
    first.stop()
    each_once(servers)
    # Each was at work on it.
    assert first.told("tick")
    assert second.told("tick")


def test_a_tick_whose_scheduler_was_killed_is_done_by_another_one_at_once(servers, eventually, held):
    first, _second, hold = held
    first.kill()
    hold.let_go()
    took = eventually(lambda: ticks_again(servers), 5, "the other one ticks")
    print(f"the other one ticks {took:.1f} s later")
    each_once(servers)


def test_what_a_frozen_worker_had_in_hand_is_done_once(servers, eventually):
    servers.sql("DELETE FROM campaign.campaigns")
    # The job of one rules-engine, and the tick of one scheduler, in the middle of which they stop.
    servers.insert("frozen")
    row = servers.hold("SELECT FROM campaign.campaigns FOR UPDATE")
    engines = [servers.start("rules-engine")]
    schedulers = [servers.start("scheduler", **EVERY_SECOND)]
    eventually(lambda: servers.waiting(ENGINE) == 1, 10, "the job waits for its row")
    engines[0].freeze()
    engines.append(servers.start("rules-engine"))
    tick = servers.hold("SELECT pg_advisory_xact_lock(1)")
    eventually(lambda: servers.waiting(SCHEDULER) == 1, 10, "the tick is held up")
    schedulers[0].freeze()
    tick.let_go()
    schedulers.append(servers.start("scheduler", **EVERY_SECOND))
    eventually(lambda: servers.waiting(ENGINE) == 2, TAKEN_UP_SECONDS, "the job waits in another worker's hands too")
    row.let_go()
    eventually(lambda: ticks_again(servers), TAKEN_UP_SECONDS, "the other scheduler ticks")
    engines[0].thaw()
    schedulers[0].thaw()
    eventually(lambda: not servers.active("evaluation"), TAKEN_UP_SECONDS, "no job is in a worker's hands")
    time.sleep(2)
    for worker in (*engines, *schedulers):
        worker.stop()
    assert servers.evaluations("frozen") == {1: 1}
    each_once(servers)
    # Its tick was not its own any more, and its job was still its own or not.
    lost = [line for line in schedulers[0].told("an error of the queue") if line["error"].startswith("Missing")]
    assert lost or schedulers[0].told("a tick failed; it is tried again"), schedulers[0].logs()[-3000:]


def test_the_newest_scheduler_says_how_long_an_interval_is(servers, eventually, full):
    old = servers.start("scheduler", **EVERY_SECOND)
    new = servers.start("scheduler", SCHEDULER_TICK_SECONDS="2")
    time.sleep(2)
    old.stop()
    since = time.time()
    time.sleep(4)
    ticks = servers.ticks()
    assert ticks[-1][0] > since
    assert {seconds for start, seconds, _late in ticks if start > since} == {2}
    # Nothing was lost at the change: no start is further from the one before it than the interval lasts.
    assert [(a, b) for a, b in itertools.pairwise(ticks) if b[0] - a[0] > max(a[1], b[1])] == []
    if full:
        # One that is on its way out, and starts once more, has its way until it has been gone for two minutes.
        again = servers.start("scheduler", **EVERY_SECOND)
        eventually(lambda: servers.ticks()[-1][1] == 1, 10, "the interval is the other one's")
        again.stop()
        took = eventually(lambda: servers.ticks()[-1][1] == 2, 140, "the interval is the remaining one's", pause=1)
        print(f"the remaining scheduler took {took:.0f} s to have its way")
    new.stop()


@pytest.mark.parametrize("length", [1, 3, 7])
def test_intervals_that_nobody_did_before_their_length_changed_are_made_up(servers, eventually, length):
    servers.sql("DELETE FROM campaign.ticks")
    # As one left it that counted by another length, and was gone for a while.
    border = int(time.time()) // length * length
    servers.sql(f"INSERT INTO campaign.ticks (start, seconds) VALUES (to_timestamp({border - 5 * length}), {length})")
    scheduler = servers.start("scheduler", SCHEDULER_TICK_SECONDS="2")
    eventually(lambda: servers.ticks()[-1][1] == 2, 10, "it ticks")
    scheduler.stop()
    (before, _length, _late), *made_up = servers.ticks()
    # From the first border of its own length after what was done, each interval.
    first = -(-(before + length) // 2) * 2
    assert [start for start, _seconds, _late in made_up] == list(range(first, made_up[-1][0] + 1, 2))
    assert len(made_up) > 1
