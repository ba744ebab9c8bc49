"""The relay delivers every event in order while its leaders are killed a hundred times, paused and replaced."""

import asyncio
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from tests.integration.relay.reading import in_log, reading
from tests.integration.relay.relays import Relays, leader, published_up_to, relays
from tests.integration.relay.writing import SandboxClosed, checkpoint, log_on, new
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.eventlog.port import build_stream
from nightshift.eventlog.postgres import PostgresEventLog

WRITERS, APPENDS, KILLS, PAUSES = 8, 2000, 100, (20, 50, 80)
SEED = 20041


@dataclass
class Progress:
    """Counts kills and pauses. Writers wait for them, so that each happens under traffic."""

    done: int = 0

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()

    def go_on(self) -> None:
        """Count one more."""
        self.done += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def at(self, share: float) -> None:
        """Wait until this share of them is done, without the last one."""
        while self.done < share * (KILLS + len(PAUSES) + 1) - 1:
            await self.changed.wait()


async def _write(log: PostgresEventLog, writer: int, progress: Progress, dice: random.Random) -> None:
    for n in range(APPENDS):
        await progress.at(n / APPENDS)
        stream = build_stream(f"b{dice.randrange(40)}")
        event = (
            checkpoint(n)
            if dice.random() < 0.7
            else new(SandboxClosed(sandbox_id=f"s{writer}", reason="test"))
        )
        way = dice.random()
        if way < 0.94:
            await log.append(stream, [event])
            continue
        async with log.transaction() as (connection, within):
            if way < 0.97:
                # A transaction id drawn long before the position: what loses events for readers by xid.
                await connection.execute("INSERT INTO other_rows DEFAULT VALUES")
                await asyncio.sleep(dice.random() * 0.02)
            await within.append(stream, [event])
            await asyncio.sleep(dice.random() * 0.02)  # committed late, while others draw later positions


async def _next_leader(watch: asyncpg.Connection, old: int | None) -> int:
    """Wait for the next leader and return its process id."""

    async def next_leader() -> int | None:
        found = await leader(watch)
        return found if found != old else None

    return await eventually(next_leader, 30, what="the next leader")


async def _moved(watch: asyncpg.Connection, before: int) -> None:
    async def moved() -> bool:
        return await published_up_to(watch) > before

    await eventually(moved, 30, what="progress after a take-over")


async def _kill(relay: Relays, watch: asyncpg.Connection, progress: Progress, dice: random.Random) -> int:
    leading, pauses = await _next_leader(watch, None), 0
    for kill in range(KILLS):
        if kill in PAUSES:
            relay.signal(leading, signal.SIGSTOP)
            before = await published_up_to(watch)
            progress.go_on()
            paused, leading = leading, await _next_leader(watch, leading)
            await _moved(watch, before)
            relay.signal(paused, signal.SIGCONT)
            pauses += 1
        # Any moment: while it looks at the broker, between a send and the cursor, in a batch.
        await asyncio.sleep(dice.random() * 0.25)
        relay.signal(leading, signal.SIGKILL)
        before = await published_up_to(watch)
        await relay.start()
        progress.go_on()
        leading = await _next_leader(watch, leading)
        if kill % 5 == 0:
            await _moved(watch, before)
    return pauses


@pytest.mark.fault
@pytest.mark.kafka
@pytest.mark.timeout(240)  # half a minute alone on two cores; others may be busy on them too
@pytest.mark.long
async def test_events_arrive_in_order_while_leaders_are_killed(
    database: Database, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    watch = await asyncpg.connect(database.dsn())
    await watch.execute("CREATE TABLE other_rows (n bigint GENERATED ALWAYS AS IDENTITY)")
    progress = Progress()
    async with (
        relays(tmp_path, database, kafka, topics) as relay,
        reading(kafka.bootstrap, topics) as reader,
        log_on(database.dsn()) as log,
    ):
        await relay.start(3)
        writers = [
            asyncio.create_task(_write(log, writer, progress, random.Random(SEED + writer)))
            for writer in range(WRITERS)
        ]
        pauses = await _kill(relay, watch, progress, random.Random(SEED))
        await asyncio.gather(*writers)
        expected = await in_log(watch, topics)
        total = sum(map(len, expected.values()))
        await eventually(lambda: reader.count >= total, 40, what=f"all {total} events")
    assert total == WRITERS * APPENDS
    assert reader.seen == expected
    assert (progress.done, pauses) == (KILLS + len(PAUSES), len(PAUSES))
    await watch.close()
