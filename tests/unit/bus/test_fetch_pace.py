"""When a broker that wakes nobody is asked again."""

import asyncio

import pytest

from nightshift.bus.kafka.fetch_pace import STEPS, TOLD_S, FetchPace


class Word:
    """The relay's word, heard or not."""

    heard = True

    def on(self, topic, ring):
        raise AssertionError("a pace does not listen by itself")


def test_soon_while_messages_flow_later_the_longer_none_came():
    now = [0.0]
    pace = FetchPace(clock=lambda: now[0])
    waits = []
    waits.append(pace.wait_s)
    pace.fetched(found=True, missed=False)
    for second in (1.0, 2.5, 29.0, 31.0):
        now[0] = second
        pace.fetched(found=False, missed=False)
        waits.append(pace.wait_s)
    pace.fetched(found=True, missed=False)
    waits.append(pace.wait_s)
    short, middle, long = (wait for _, wait in STEPS)
    assert waits == [long, short, middle, middle, long, short]  # at rest before the first one


def test_where_the_relay_tells_each_fetch_in_vain_doubles_the_wait():
    word, waits = Word(), []
    pace = FetchPace(word, clock=lambda: 0.0)
    for _ in range(12):
        waits.append(pace.wait_s)
        pace.fetched(found=False, missed=False)
    first, longest = TOLD_S
    assert waits[:3] == [first, 2 * first, 4 * first]
    assert waits[-1] == longest
    word.heard = False
    assert pace.wait_s == STEPS[-1][1]
    word.heard = True
    pace.ring()
    pace.fetching()  # the broker may answer without having looked
    pace.fetched(found=False, missed=False)
    assert pace.wait_s == 2 * first


async def test_what_rings_while_a_fetch_is_under_way_ends_the_wait_after_it(monkeypatch):
    monkeypatch.setattr("nightshift.bus.kafka.fetch_pace.TOLD_S", (3600.0, 3600.0))
    pace = FetchPace(Word())
    pace.ring()
    pace.fetching()  # it finds what was rung for
    waiting = asyncio.create_task(pace.pause())
    await asyncio.sleep(0)
    assert not waiting.done()
    pace.ring()
    await waiting
    pace.fetching()
    pace.ring()
    await pace.pause()


async def test_a_patient_consumer_fetches_at_once_after_a_quiet_while_and_not_again_before_its_patience_is_over(
    monkeypatch,
):
    now, slept = [100.0], []

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pace = FetchPace(Word(), patience_s=0.5, clock=lambda: now[0])
    monkeypatch.setattr("nightshift.bus.kafka.fetch_pace.asyncio.sleep", sleep)
    await pace.rest()
    pace.leaving()
    assert slept == []
    now[0] += 0.2
    await pace.rest()
    pace.leaving()
    assert slept == [pytest.approx(0.3)]
    now[0] += 7
    await pace.rest()
    assert len(slept) == 1


async def test_who_has_no_patience_never_rests():
    pace = FetchPace(Word())
    for _ in range(3):
        resting = asyncio.create_task(pace.rest())
        await asyncio.sleep(0)
        assert resting.done()
        pace.leaving()
