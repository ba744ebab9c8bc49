"""Questions to a person, from the model's call of `ask_user` to the next model call, with real servers."""

import asyncio

import pytest
from tests.integration.orchestrator.conftest import RunningServers
from tests.integration.orchestrator.test_service import asked
from tests.support import build_invariants
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.contracts.events.build import ToolCallAnswered
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildPauseRequested,
    BuildResumeRequested,
)
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import log_database

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


async def test_a_build_waits_without_a_lease_and_goes_on_with_the_answer(
    servers: RunningServers, database: Database
):
    await servers.orchestrator("one")
    await servers.send(asked("b1", "A curious start."))
    await servers.send(asked("b2", "A patient start."))
    await servers.send(asked("b3", "A curious start."))
    await servers.reached("b1", "build.waiting")
    await servers.reached("b3", "build.waiting")

    # The default comes by itself, so no owner is needed for a wait that is due.
    done = await servers.reached("b2", "build.ready")
    [answered] = [event.data for event in done if isinstance(event.data, ToolCallAnswered)]
    assert (answered.by, answered.output) == ("default", "green")
    assert [item.key for item in await servers.log.pending(PendingKind.QUESTION)] == ["b1/1/0", "b3/1/0"]
    connection = log_database(PgConfig(dsn=database.dsn()))
    try:
        assert await connection.fetch("SELECT * FROM nightshift.unowned_builds(10, 10)") == []
        live = "SELECT name FROM nightshift.leases WHERE name LIKE 'build/%' AND owner IS NOT NULL"
        assert await connection.fetch(live) == []
    finally:
        await connection.close()

    for number in range(3):  # a producer that repeats itself
        await servers.send(
            BuildAnswerGiven(build_id="b1", question_id="b1/1/0", option="blue"), id=f"answer-{number}"
        )
    events = await servers.reached("b1", "build.ready")
    data = [event.data for event in events]
    assert build_invariants.violations(data) == []
    assert [event.type for event in data].count("tool_call.answered") == 1

    await servers.send(BuildCancelRequested(build_id="b3"))
    await servers.reached("b3", "build.cancelled", timeout=5)
    left = [*await servers.log.pending(PendingKind.QUESTION), *await servers.log.pending(PendingKind.WAITING)]
    assert left == []


async def test_a_pause_stops_a_call_on_any_replica_and_a_resume_repeats_it(servers: RunningServers):
    await asyncio.gather(servers.orchestrator("one"), servers.orchestrator("two"))
    await servers.send(asked("b1", "An endless conversation."))
    await servers.reached("b1", "model_call.started")
    await servers.send(BuildPauseRequested(build_id="b1", reason="a look"))
    await servers.reached("b1", "model_call.failed", timeout=10)
    types = await eventually(lambda: _rests(servers))
    await servers.send(BuildResumeRequested(build_id="b1"))
    events = await servers.reached("b1", "build.resumed", timeout=10)
    assert [event.data.type for event in events][: len(types)] == types
    await eventually(lambda: _thinks_again(servers))


async def _rests(servers: RunningServers) -> list[str] | None:
    types = await servers.types("b1")
    return types if types[-1] == "build.waiting" else None


async def _thinks_again(servers: RunningServers) -> bool:
    return (await servers.types("b1")).count("model_call.started") == 2
