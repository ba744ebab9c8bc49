"""When the relay is notified of appends."""

import asyncio

from nightshift.eventlog import append_notification as module
from nightshift.eventlog.append_notification import AppendNotifier


class FakeDatabase:
    """Remembers the shards of each notification."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []

    async def fetch(self, query, channel, shards):
        self.sent.append(shards)
        return []


async def test_shards_that_follow_closely_are_sent_together(monkeypatch):
    database, pauses, over = FakeDatabase(), [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        await over.wait()

    monkeypatch.setattr(module.asyncio, "sleep", pause)
    notifier = AppendNotifier(database)
    notifier.notify(7)
    await notification_sent(database, 1)
    for shard in (3, 1, 3):
        notifier.notify(shard)
    await asyncio.gather(*[asyncio.ensure_future(nothing()) for _ in range(5)])
    assert database.sent == [[7]]
    over.set()
    await notification_sent(database, 2)
    assert database.sent == [[7], [1, 3]]
    assert set(pauses) == {module._BETWEEN_S}
    await notifier.close()


async def test_close_sends_the_last_shards():
    database = FakeDatabase()
    notifier = AppendNotifier(database)
    notifier.notify(1)
    await notification_sent(database, 1)
    notifier.notify(2)
    await notifier.close()
    assert database.sent == [[1], [2]]


async def notification_sent(database, count):
    while len(database.sent) < count:
        await nothing()


async def nothing():
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned
