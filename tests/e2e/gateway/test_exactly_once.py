"""The service itself, killed at every point: each call's effect is in the workspace once, and each has one result."""

import asyncio
import os
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway_service import Gateways, a_seed, driver_of, environment, publish_twice
from tests.support.gateway_world import World
from tests.support.stack import Database

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database

pytestmark = [pytest.mark.fault, pytest.mark.kafka, pytest.mark.long]

CALLS = int(os.environ.get("NIGHTSHIFT_GATEWAY_CALLS", "0"))
KILLS = int(os.environ.get("NIGHTSHIFT_GATEWAY_KILLS", "0"))
_LONG_S = 1800
_FIRST = (
    "after_create",
    "after_open",
    "before_run",
    "after_start",
    "after_run",
    "before_append",
    "after_append",
)
_LATER = ("before_run", "after_start", "after_run", "after_note", "before_append", "after_append")


@pytest.fixture(params=["local", "e2b"])
async def world(
    request: pytest.FixtureRequest,
    database: Database,
    kafka: KafkaAddress,
    s3: S3Address,
    topics: Topics,
    tmp_path: Path,
) -> AsyncIterator[tuple[World, Gateways]]:
    pool = log_database(PgConfig(dsn=database.dsn()))
    log = PostgresEventLog(pool, actor="test")
    async with driver_of(request.param, tmp_path / "home") as (driver, settings):
        gateways = Gateways(
            environment(database, kafka, s3, topics, tmp_path / "home", **settings), tmp_path / "gateway.log"
        )
        one = World(driver, log)
        try:
            await one.accept()
            yield one, gateways
        finally:
            gateways.stop()
            await log.close()
            await pool.close()


@pytest.mark.timeout(_LONG_S + 60 if CALLS else 300)
async def test_no_call_is_run_twice_whenever_the_gateway_dies(
    world: tuple[World, Gateways], kafka: KafkaAddress, topics: Topics
) -> None:
    build, gateways = world
    chance = a_seed()
    on_e2b = build.driver.name == "e2b"
    calls, kills = CALLS or (6 if on_e2b else 14), KILLS or (2 if on_e2b else 5)
    first = _FIRST[:1] + _FIRST[4:6] if on_e2b and not KILLS else _FIRST
    points = chain(
        (f"{point}:1" for point in first), (f"{p}:{n}" for n in (1, 2, 3) for p in _LATER) if KILLS else ()
    )
    asked = 0

    async def ask(number: int) -> None:
        """Ask for more calls, and publish each request twice, as the relay may."""
        nonlocal asked
        head: list[tuple[str, dict[str, Any]]] = []
        if (
            asked == 0
        ):  # by a call: a sandbox that no event names may be ended by the sweep of a gateway that starts
            head = [("write_file", {"file_path": "count", "content": "|"})]
        wanted = await build.ask(*head, *(_call(asked + more, attack=not on_e2b) for more in range(number)))
        asked += number
        facts = [
            fact
            async for fact in build.log.read_stream(build.stream)
            if isinstance(fact.data, ToolCallRequested) and fact.data.call_id in wanted
        ]
        await publish_twice(kafka, topics, facts)

    next_kill = chance.randint(1, 6)
    gateways.start(next(points))
    gateways.start(next(points))
    await ask(min(calls, 20))
    async with asyncio.timeout(_LONG_S if CALLS else 280):
        while (done := len(await build.results())) < calls + 1 or gateways.kills < kills:
            if done == asked + 1:
                await ask(
                    20 if CALLS else 2
                )  # the next, or more of the same when the calls were quicker than the kills
            gateways.replace_the_dead(points)
            if done >= next_kill and gateways.kills < kills + 4:  # never faster than the calls go on
                gateways.kill_one()
                next_kill = done + chance.randint(1, 6)
            await asyncio.sleep(0.1)  # the pace of the faults, not a wait for anything
        gateways.replace_the_dead(iter(()))
        while len(await build.results()) < asked + 1:
            gateways.replace_the_dead(iter(()))
            await asyncio.sleep(0.1)

    results = await build.results()
    assert not [one.output for one in results.values() if one.is_error]
    sandbox = await build.driver.connect(await build.box_id())
    lines = b"".join(b"%d\n" % number for number in range(asked) if number % 2)
    assert await sandbox.read_file("log") == lines
    edits = b"".join(b"%d," % number for number in range(asked) if number % 2 == 0)
    assert await sandbox.read_file("count") == edits + b"|"
    types = await build.types()
    assert types.count("tool_call.completed") == asked + 1
    assert types.count("sandbox.opened") == 1
    print(f"{build.driver.name}: {asked + 1} calls, {gateways.kills} kills")


def _call(number: int, *, attack: bool) -> tuple[str, dict[str, Any]]:
    """A call whose effect shows how often it was done. Every second command also attacks the record of calls."""
    if number % 2:
        hostile = "rm -rf ~/.nightshift*; " if attack and number % 4 == 1 else ""
        return "bash", {"command": f"echo {number} >> log; {hostile}sleep 0.05"}
    return "edit_file", {"file_path": "count", "old_string": "|", "new_string": f"{number},|"}
