"""A message that is delivered again at any later time changes nothing."""

import asyncio
from uuid import UUID

from tests.memory.orchestrator.lone_orchestrator import (
    AN_HOUR,
    BUILD,
    REQUEST,
    LoneOrchestrator,
    after_an_hour,
)

from nightshift.contracts.events.build import Usage
from nightshift.contracts.events.requests import BuildCancelRequested, BuildMessageSent
from nightshift.contracts.model import Event
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.handlers import Handlers


def a_tool_call() -> Answer:
    use = {"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "true"}}
    return Answer("msg_1", "scripted-1", (use,), "tool_use", Usage(input_tokens=1_000), 1, 1)


def test_old_messages_delivered_again_change_nothing() -> None:
    """All requests and facts come once more after the build has ended."""
    before: list[Event] = []

    async def redeliver(orchestrator: LoneOrchestrator) -> None:
        handlers = Handlers(orchestrator.builds, orchestrator.scheduler)
        requests = [
            (handlers.on_build_message_sent, BuildMessageSent(build_id=BUILD, message="Use blue.")),
            (handlers.on_build_cancel_requested, BuildCancelRequested(build_id=BUILD)),
            (handlers.on_build_requested, REQUEST),
        ]
        first = orchestrator.recorded()[0]
        for number in range(2):
            if number:
                before.extend(orchestrator.events())
            for place, (handle, request) in enumerate(requests):
                await handle(first._replace(data=request, event_id=UUID(int=place)))
        for event in orchestrator.recorded():
            await handlers.on_fact(event)
            await handlers.on_wake_requested(event)
        await asyncio.sleep(AN_HOUR)

    orchestrator = after_an_hour(a_tool_call, redeliver)
    assert before[-1].type == "build.cancelled"
    assert orchestrator.events() == before
    assert orchestrator.calls == 1
