"""The relay: sustained rate, hop from append to a handler in another process, and memory after a million events.

Beside each figure is the same without us: a bare aiokafka producer with the same bytes, a bare hop without a log. The
handler of our hop is called by the consumer of the services, with their settings; the bare one reads with aiokafka
and the services' shortest fetch wait. All of them, writers too, are on the event loop of services.

Each measurement has servers of its own. The embedded broker looks through every batch of a partition at each fetch
that finds something (docs/adr/0006), so on one broker a measurement would measure what those before it left behind.

`--million` adds the memory run (several minutes). `--rounds N` (3). `--only rate|hop|million`.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer
from servers.relay_stack import BUILDS, TEXT, Stack, fill, leads, relay, stack

from nightshift.contracts.events.build import AgentSteered
from nightshift.contracts.topics import Topics
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.servicekit.service import run_loop

BACKLOG, HOPS, RATE = 60_000, 2_000, 200
HANDLERS = Path(__file__).parent / "handlers"


async def to_publish(connection: asyncpg.Connection) -> int:
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM nightshift.events e JOIN nightshift.relay_cursors c USING (shard)"
            " WHERE e.position > c.position"
        )
    )


async def caught_up(on: Stack) -> float:
    """Wait until the cursors are at the end; the time of that."""
    connection = await asyncpg.connect(on.dsn)
    goal = await connection.fetch("SELECT shard, max(position) AS p FROM nightshift.events GROUP BY shard")
    shards, positions = [r["shard"] for r in goal], [r["p"] for r in goal]
    behind = (
        "SELECT count(*) FROM unnest($1::smallint[], $2::bigint[]) AS e (shard, p)"
        " JOIN nightshift.relay_cursors c USING (shard) WHERE c.position < e.p"
    )
    while await connection.fetchval(behind, shards, positions):
        await asyncio.sleep(0.01)
    done = time.perf_counter()
    await connection.close()
    return done


async def sustained(on: Stack, topics: Topics) -> float:
    """Events per second of a relay with a backlog, from its first cursor move to its last."""
    await fill(on, BACKLOG)
    watch = await asyncpg.connect(on.dsn)
    start_sum = await watch.fetchval("SELECT sum(position) FROM nightshift.relay_cursors")
    async with relay(on, topics):
        while await watch.fetchval("SELECT sum(position) FROM nightshift.relay_cursors") == start_sum:
            await asyncio.sleep(0.002)
        began, left = time.perf_counter(), await to_publish(watch)
        rate = left / (await caught_up(on) - began)
    await watch.close()
    return rate


async def bare_producer(on: Stack, topics: Topics) -> float:
    """The same bytes from memory, by aiokafka's own send."""
    producer = AIOKafkaProducer(
        bootstrap_servers=on.bootstrap,
        acks="all",
        enable_idempotence=False,
        max_batch_size=1 << 18,
        linger_ms=2,
    )
    await producer.start()
    value = json.dumps({"reason": "person", "message": TEXT}).encode()
    headers = [(f"ce_header{n}", b"a value of some forty bytes, as uuids have") for n in range(11)]
    began = time.perf_counter()
    for start in range(0, BACKLOG // 2, 2000):
        futures = [
            await producer.send(topics.build, value, key=f"bench{n % BUILDS}".encode(), headers=headers)
            for n in range(start, start + 2000)
        ]
        await asyncio.gather(*futures)
    rate = (BACKLOG // 2) / (time.perf_counter() - began)
    await producer.stop()
    return rate


async def hops(
    on: Stack, topics: Topics, handler: str, send: Callable[[int], Awaitable[str]]
) -> tuple[float, float]:
    """p50 and p99 in ms from before `send(n) -> id` to a handler in another process, at RATE a second.

    `handler` is a file of HANDLERS. The first events are for both sides to be at work; they do not count.
    """
    warm = RATE // 2
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HANDLERS / handler),
        on.bootstrap,
        topics.build,
        str(warm + HOPS),
        on.relay_dsn,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    sent: dict[str, float] = {}
    tasks, began = [], time.perf_counter()

    async def one(n: int) -> None:
        at = time.time()
        name = await send(n)
        if n >= warm:
            sent[name] = at

    for n in range(warm + HOPS):
        await asyncio.sleep(max(0.0, began + n / RATE - time.perf_counter()))
        tasks.append(asyncio.create_task(one(n)))
    await asyncio.gather(*tasks)
    out, _ = await process.communicate()
    heard = dict(line.split() for line in out.decode().splitlines())
    took = sorted((float(heard[name]) - at) * 1e3 for name, at in sent.items())
    return took[len(took) // 2], took[int(len(took) * 0.99)]


async def bare_hops(on: Stack, topics: Topics) -> tuple[float, float]:
    producer = AIOKafkaProducer(bootstrap_servers=on.bootstrap, acks="all", enable_idempotence=False)
    await producer.start()
    value = json.dumps({"reason": "person", "message": TEXT}).encode()

    async def send(n: int) -> str:
        name = str(uuid.uuid4())
        await producer.send_and_wait(
            topics.build, value, key=f"bench{n % BUILDS}".encode(), headers=[("ce_id", name.encode())]
        )
        return name

    try:
        return await hops(on, topics, "bare.py", send)
    finally:
        await producer.stop()


async def idle_cpu(on: Stack, topics: Topics) -> float:
    """Percent of one core that an idle leader takes."""
    async with relay(on, topics) as process:
        await leads(on)
        await asyncio.sleep(3)
        times, began = psutil.Process(process.pid).cpu_times(), time.perf_counter()
        await asyncio.sleep(10)
        now = psutil.Process(process.pid).cpu_times()
        return 100 * (now.user + now.system - times.user - times.system) / (time.perf_counter() - began)


async def relay_hops(on: Stack, topics: Topics) -> tuple[float, float]:
    database = log_database(PgConfig(dsn=on.dsn))
    log = PostgresEventLog(database, actor="orchestrator/bench")

    async def send(n: int) -> str:
        done = await log.append(
            build_stream(f"hop-{n % BUILDS}"),
            [NewEvent(AgentSteered(reason="person", message=TEXT), causation_id=uuid.uuid4())],
        )
        return str(done.event_ids[0])

    try:
        async with relay(on, topics):
            await leads(on)
            return await hops(on, topics, "ours.py", send)
    finally:
        await log.close()
        await database.close()


async def hops_beside_a_transaction(on: Stack, topics: Topics) -> tuple[float, float]:
    """A write transaction stays open in another database."""
    other = await asyncpg.connect(on.other_dsn)
    try:
        async with other.transaction():
            await other.execute("CREATE TABLE held (n int)")
            return await relay_hops(on, topics)
    finally:
        await other.close()


async def hops_beside_an_index_build(on: Stack, topics: Topics) -> tuple[float, float]:
    """A prepared transaction that nobody ends, and an index build on the log that waits for it all the while."""
    orphan, builder = [await asyncpg.connect(on.dsn) for _ in range(2)]
    try:
        await orphan.execute("BEGIN; LOCK nightshift.events IN ROW EXCLUSIVE MODE; SELECT txid_current()")
        await orphan.execute("PREPARE TRANSACTION 'orphan'")
        building = asyncio.create_task(
            builder.execute("CREATE INDEX CONCURRENTLY by_actor ON nightshift.events (actor)")
        )
        took = await relay_hops(on, topics)
        assert not building.done(), "the index build was over before the measurement"
        await orphan.execute("ROLLBACK PREPARED 'orphan'")
        await building
        return took
    finally:
        for connection in (orphan, builder):
            await connection.close()


async def million(on: Stack, topics: Topics) -> dict[int, int]:
    """Resident KiB of the relay after so many events, of ever more builds.

    Small ones: the embedded broker keeps them all in memory.
    """
    sizes: dict[int, int] = {}
    async with relay(on, topics) as process:
        for done in range(100_000, 1_000_001, 100_000):
            await fill(on, 100_000, builds=BUILDS + done // 100, text="short")
            await caught_up(on)
            sizes[done] = psutil.Process(process.pid).memory_info().rss // 1024
            print(f"  {done:>9,} events: {sizes[done]:,} KiB", file=sys.stderr)
    return sizes


HOP_CASES = {
    "relay hop": relay_hops,
    "relay hop, open transaction": hops_beside_a_transaction,
    "relay hop, orphaned transaction and index build": hops_beside_an_index_build,
}


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--million", action="store_true")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", choices=["rate", "hop", "million"])
    given = arguments.parse_args()
    figures: dict[str, list[float]] = {}

    def note(name: str, *values: float) -> None:
        for part, value in zip(("p50", "p99") if len(values) > 1 else ("",), values, strict=True):
            figures.setdefault(f"{name} {part}".strip(), []).append(value)
            print(f"  {name} {part}: {value:,.1f}", file=sys.stderr)

    async def fresh(measure: Callable[[Stack, Topics], Awaitable[Any]]) -> Any:
        async with stack() as on:
            return await measure(on, Topics())

    sizes: dict[int, int] = {}
    for _ in range(0 if given.only == "million" else given.rounds):
        if given.only != "hop":
            note("bare rate", await fresh(bare_producer))
            note("relay rate", await fresh(sustained))
        if given.only != "rate":
            note("bare hop", *await fresh(bare_hops))
            for name, measure in HOP_CASES.items():
                note(name, *await fresh(measure))
    note("idle cpu", await fresh(idle_cpu))
    if given.million or given.only == "million":
        sizes = await fresh(million)
    table(figures, sizes)


def table(figures: dict[str, list[float]], sizes: dict[int, int]) -> None:
    middle = {name: statistics.median(values) for name, values in figures.items()}
    print("| what | ours | the limit, same run | ratio | target |\n|---|---|---|---|---|")
    if "relay rate" in middle:
        ours, bare = middle["relay rate"], middle["bare rate"]
        print(f"| sustained, events/s | {ours:,.0f} | {bare:,.0f} | {ours / bare:.2f} | ≥ 10,000 |")
    for name in HOP_CASES:
        for part, target in (("p50", "≤ 5"), ("p99", "≤ 25")):
            if f"{name} {part}" in middle:
                ours, bare = middle[f"{name} {part}"], middle[f"bare hop {part}"]
                print(f"| {name}, ms {part} | {ours:.1f} | {bare:.1f} | {ours / bare:.2f} | {target} |")
    print(f"| CPU of an idle relay, % of one core | {middle['idle cpu']:.1f} | | | |")
    if sizes:
        first, last = sizes[100_000], sizes[1_000_000]
        print(
            f"| memory after 1,000,000 events, KiB | {last:,} | {first:,} at 100,000 | {last / first:.2f} | flat |"
        )


if __name__ == "__main__":
    run_loop(main())
