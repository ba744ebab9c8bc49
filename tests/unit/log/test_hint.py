"""When the relay is told of appends."""

import asyncio

from nightshift.eventlog import append_notification as module
from nightshift.eventlog.append_notification import Hint


class Told:
    """Stands for the database: remembers the shards of each hint."""

    def __init__(self) -> None:
        self.hints: list[list[int]] = []

    async def fetch(self, query, channel, shards):
        self.hints.append(shards)
        return []


async def test_the_first_leaves_at_once_and_what_follows_closely_leaves_together(monkeypatch):
    told, pauses, over = Told(), [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        await over.wait()

    monkeypatch.setattr(module.asyncio, "sleep", pause)
    hint = Hint(told)
    hint.tell(7)
    await hint_sent(told, 1)
    for shard in (3, 1, 3):
        hint.tell(shard)
    await asyncio.gather(*[asyncio.ensure_future(nothing()) for _ in range(5)])
    assert told.hints == [[7]]
    over.set()
    await hint_sent(told, 2)
    assert told.hints == [[7], [1, 3]]
    assert set(pauses) == {module._BETWEEN}
    await hint.close()


async def test_closing_sends_what_was_told_last():
    told = Told()
    hint = Hint(told)
    hint.tell(1)
    await hint_sent(told, 1)
    hint.tell(2)
    await hint.close()
    assert told.hints == [[1], [2]]


async def hint_sent(told, count):
    while len(told.hints) < count:
        await nothing()


async def nothing():
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned
