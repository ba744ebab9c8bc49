"""A build of 250 turns, two nights, a question and an escalation, while its orchestrator is killed ten times."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import uvicorn
from tests.integration.orchestrator.conftest import RunningServers, granted
from tests.integration.orchestrator.test_service import asked
from tests.support import build_invariants
from tests.support.long_agent import LongAgent

from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildReady,
    BuildWoken,
    ContextCondensed,
    EscalationRaised,
    ModelCallFailed,
    ModelCallResponded,
    QuestionAsked,
    SleepRequested,
)
from nightshift.contracts.events.requests import BuildAnswerGiven
from nightshift.contracts.model import Event
from nightshift.devstack.model.conversation import Conversation
from nightshift.devstack.model.request_log import RequestLog
from nightshift.devstack.model.scenario import PositionedTurn, Turn, parse_scenario
from nightshift.devstack.model.server import ModelServer
from nightshift.devstack.ports import LOOPBACK, draw_port
from nightshift.eventlog.port import NewEvent, build_stream

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("NIGHTSHIFT_LONG_BUILD"), reason="takes minutes; `make test-long-build` runs it"
    ),
]

_TURNS, _KILLS = 250, 10
_BUILD = "b1"
_ANY = "name: long\nturns: [{say: nothing}]"


class StrictModel(ModelServer):
    """The Messages API of a long build: the agent answers, after all checks of the scripted model and its own."""

    def __init__(self, agent: LongAgent) -> None:
        super().__init__(parse_scenario(_ANY), RequestLog(None))
        self._agent = agent
        self._any = PositionedTurn(Turn(say="any"), 1, None, None)

    def _choose(self, conversation: Conversation) -> tuple[PositionedTurn, Turn]:
        return self._any, self._agent.turn(self._agent.check(conversation.body))

    def _note(self, request: object, status: int, turn: str | None) -> None:
        if status != 200:
            self._agent.refused.append(f"status {status}")


@pytest.fixture
async def agent(servers: RunningServers) -> AsyncIterator[LongAgent]:
    agent, port = LongAgent(output=3_000), draw_port()
    config = uvicorn.Config(StrictModel(agent), host=LOOPBACK, port=port, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    servers.environment["ANTHROPIC_BASE_URL"] = f"http://{LOOPBACK}:{port}"
    servers.complete = agent.result
    try:
        yield agent
    finally:
        server.should_exit = True
        await serving


def turns(events: Sequence[Event]) -> int:
    return sum(isinstance(event, ModelCallResponded) and event.role is None for event in events)


def count(events: Sequence[Event], kind: type[Event]) -> int:
    return sum(isinstance(event, kind) for event in events)


def denied(asked: BudgetRequested) -> BudgetDenied:
    return BudgetDenied(
        lease_id=asked.lease_id,
        account_id=asked.account_id,
        day="2026-11-22",
        left_today_microusd=0,
        refresh_at=datetime.now(UTC) + timedelta(hours=1),
    )


async def test_a_long_build_survives_kills_nights_and_people(
    servers: RunningServers, agent: LongAgent
) -> None:
    draws = random.Random(7)
    kills = sorted(draws.sample(range(10, _TURNS - 10), _KILLS))
    nights = [80, 170]
    name = "orchestrator-0"
    settings = {"context_tokens": "40000", "grant_turns": "2"}
    await servers.orchestrator(name, **settings)
    await servers.send(asked(_BUILD, "A tool library for the neighbours."))

    events: list[Event] = []
    while True:
        newer = servers.log.read_stream(build_stream(_BUILD), from_version=len(events) + 1)
        events += [event.data async for event in newer]
        number = turns(events)
        if events and events[-1].terminal:
            break
        agent.done = number >= _TURNS
        agent.asks = number >= 50 and count(events, QuestionAsked) == 0
        agent.stuck = number >= 120 and count(events, EscalationRaised) == 0
        asleep = count(events, SleepRequested) > count(events, BuildWoken)
        # The budget service denies the first request of money after these turns, and wakes the build later.
        night = bool(nights) and number >= nights[0]
        servers.grant = denied if night else granted
        if asleep:
            nights = nights[1:] if night else nights
            servers.grant = granted
            wake = WakeRequested(reason="refresh")
            await servers.log.append(build_stream(_BUILD), [NewEvent(wake, uuid4())])
            await servers.reached_count(_BUILD, "build.woken", count(events, BuildWoken) + 1)
        waiting = [event for event in events if event.type == "build.waiting"]
        if len(waiting) > count_type(events, "build.resumed"):
            question = waiting[-1].question_id
            assert question is not None
            await servers.send(
                BuildAnswerGiven(build_id=_BUILD, question_id=question, text="Go on; blue."), id=question
            )
            await servers.reached_count(_BUILD, "build.resumed", len(waiting))
        if kills and number >= kills[0]:
            kills.pop(0)
            await asyncio.sleep(draws.uniform(0, 0.1))
            await servers.kill(name)
            name = f"orchestrator-{_KILLS - len(kills)}"
            await servers.orchestrator(name, **settings)
        await asyncio.sleep(0.05)

    assert agent.refused == []
    assert isinstance(events[-1], BuildReady), events[-1]
    assert build_invariants.violations(events) == []
    assert turns(events) >= _TURNS
    assert (kills, nights) == ([], [])
    condensed = count(events, ContextCondensed)
    assert condensed >= 3
    assert count(events, SleepRequested) == 2
    assert (count(events, QuestionAsked), count(events, EscalationRaised)) == (1, 1)
    failed = {event.kind for event in events if isinstance(event, ModelCallFailed)}
    assert failed <= {"abandoned", "connection"}, failed
    print(
        f"\n{turns(events)} turns, {len(events)} events, {condensed} condensings, {_KILLS} kills, "
        f"{count(events, BudgetGranted)} grants, {count(events, ModelCallFailed)} calls abandoned"
    )


def count_type(events: Sequence[Event], type_: str) -> int:
    return sum(event.type == type_ for event in events)
