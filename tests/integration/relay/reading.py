"""Reads topics as a consumer does, and the log, so that a test can compare them."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

import asyncpg
from aiokafka import AIOKafkaConsumer

from nightshift.contracts.envelope import peek
from nightshift.contracts.registry import CATALOGUE
from nightshift.contracts.topics import Topics

Seen = dict[tuple[str, str], list[int]]


class Reader:
    """Reads topics from their beginning and drops stale re-sends, as every consumer does.

    `seen` is what a consumer handles, by topic and build; `raw` is everything that came, re-sends included.
    """

    def __init__(self) -> None:
        self.seen: Seen = defaultdict(list)
        self.raw: Seen = defaultdict(list)
        self.headers: dict[tuple[str, str, int], dict[str, bytes]] = {}
        self.values: dict[tuple[str, str, int], bytes] = {}
        self.dropped = 0

    def take(self, record: object) -> None:
        """Handle one message."""
        look = peek(record.headers)
        assert look.subject is not None
        assert look.sequence is not None
        key = (record.topic, look.subject)
        self.raw[key].append(look.sequence)
        if self.seen[key] and look.sequence <= self.seen[key][-1]:
            self.dropped += 1
            return
        self.seen[key].append(look.sequence)
        self.headers[(*key, look.sequence)] = dict(record.headers)
        self.values[(*key, look.sequence)] = record.value

    @property
    def count(self) -> int:
        """The number of handled events."""
        return sum(map(len, self.seen.values()))


@contextlib.asynccontextmanager
async def reading(bootstrap: str, topics: Topics) -> AsyncIterator[Reader]:
    """Run a reader during the block."""
    consumer = AIOKafkaConsumer(
        *topics.facts,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    reader = Reader()

    async def follow() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    reader.take(record)

    following = asyncio.create_task(follow())
    try:
        yield reader
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await consumer.stop()


async def in_log(connection: asyncpg.Connection, topics: Topics, *, where: str = "true") -> Seen:
    """Return the versions that a consumer must see, by topic and build. `where` filters `events e`."""
    rows = await connection.fetch(
        f"SELECT stream_id, version, type FROM nightshift.events e WHERE {where} ORDER BY stream_id, version"
    )
    expected: Seen = defaultdict(list)
    for row in rows:
        topic = topics.of(CATALOGUE.model(row["type"]))
        expected[topic, row["stream_id"].partition("-")[2]].append(row["version"])
    return expected
