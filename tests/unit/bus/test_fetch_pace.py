"""When a broker that wakes nobody is asked again."""

import asyncio

from nightshift.runtime.bus.kafka.fetch_pace import STEPS, TOLD_S, FetchPace


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
    monkeypatch.setattr("nightshift.runtime.bus.kafka.fetch_pace.TOLD_S", (3600.0, 3600.0))
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
