"""A build of 45 turns with three condensings and restarts, on a strict model. `make test-long-build` runs 250 turns."""

import asyncio
import json

from tests.memory.orchestrator.lone_orchestrator import LoneOrchestrator, after_an_hour
from tests.support import build_invariants
from tests.support.long_agent import LongAgent

from nightshift.contracts.events.build import (
    BuildReady,
    ContextCondensed,
    ModelCallFailed,
    ModelCallResponded,
    Usage,
)
from nightshift.devstack.model.answer import count_tokens, message_of
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.ports import UsageMeter

_TURNS = 45


class StrictOrchestrator(LoneOrchestrator):
    """The lone orchestrator with the strict model of a long build. Each tenth call is stopped and taken over."""

    def __init__(self, agent: LongAgent) -> None:
        super().__init__(_no_answer, tools=agent.result, policy=Policy(context_tokens=12_000))
        self.agent = agent

    async def count(self, body: bytes) -> int:
        return count_tokens(self.agent.check(json.loads(body), counting=True))

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        meter.under_way = True
        conversation = self.agent.check(json.loads(body))
        self.agent.done = self.agent.answers >= _TURNS
        await asyncio.sleep(1)
        if self.agent.answers % 10 == 9:
            self.agent.answers += 1
            [active] = self.scheduler._active.values()
            active.task.cancel()
            await asyncio.sleep(60)
        message = message_of(self.agent.turn(conversation), conversation)
        usage = Usage(
            input_tokens=count_tokens(conversation), output_tokens=message["usage"]["output_tokens"]
        )
        return Answer(
            message["id"], message["model"], tuple(message["content"]), message["stop_reason"], usage, 1, 1
        )


def _no_answer() -> Answer:
    raise AssertionError("the strict model answers")


def test_a_long_build_is_never_refused_and_becomes_ready() -> None:
    agent = LongAgent(output=2_000)
    orchestrator = after_an_hour(_no_answer, make=lambda: StrictOrchestrator(agent))
    events = orchestrator.events()
    assert agent.refused == []
    assert isinstance(events[-1], BuildReady), events[-1]
    condensed = [event for event in events if isinstance(event, ContextCondensed)]
    assert len(condensed) >= 3
    assert agent.boundaries == len(condensed)
    abandoned = [event for event in events if isinstance(event, ModelCallFailed)]
    assert len(abandoned) >= 4
    assert {event.kind for event in abandoned} == {"abandoned"}
    roles = [event.role for event in events if isinstance(event, ModelCallResponded)]
    assert roles.count("condenser") == len(condensed)
    assert build_invariants.violations(events) == []
