"""A build that waits for a person has no run, and goes on with the answer, the message or the end of the pause."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from tests.memory.orchestrator.lone_orchestrator import BUILD, LoneOrchestrator, after_an_hour

from nightshift.contracts.events.build import (
    BuildWaiting,
    ModelCallFailed,
    ModelCallStarted,
    ToolCallAnswered,
    Usage,
)
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildMessageSent,
    BuildPauseRequested,
    BuildResumeRequested,
)
from nightshift.contracts.model import Event, PendingKind
from nightshift.eventlog.errors import BadMessage, NotFound
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.handlers import Handlers

QUESTION = f"{BUILD}/1/0"
Then = Callable[[LoneOrchestrator], Coroutine[Any, Any, None]]


def asks_then_ends(**more: object) -> Callable[[], Answer]:
    """A model that asks with its first answer and waits for a tool with every later one."""
    answers = 0

    def respond() -> Answer:
        nonlocal answers
        answers += 1
        name, given = ("ask_user", {"question": "Which colour?", "options": ["blue"], **more})
        if answers > 1:
            name, given = "bash", {"command": "true"}
        use = {"type": "tool_use", "id": f"t{answers}", "name": name, "input": given}
        return Answer(f"msg_{answers}", "scripted-1", (use,), "tool_use", Usage(input_tokens=1_000), 1, 1)

    return respond


def handle(orchestrator: LoneOrchestrator, request: Event, number: int = 1) -> Coroutine[Any, Any, None]:
    handlers = Handlers(orchestrator.builds, orchestrator.scheduler)
    event = orchestrator.recorded()[0]._replace(data=request, event_id=UUID(int=number))
    return handlers.on_requests()[type(request)](event)  # type: ignore[return-value]


def waiting_then(then: Then) -> LoneOrchestrator:
    """Lets a build ask, wait for an hour without a run, and does `then` with the scheduler running again."""

    async def go_on(orchestrator: LoneOrchestrator) -> None:
        assert orchestrator.calls == 1
        assert orchestrator.scheduler.active == 0
        assert isinstance(orchestrator.events()[-1], BuildWaiting)
        orchestrator.scheduler._closing = False
        grants = asyncio.create_task(orchestrator.grant())
        await then(orchestrator)
        grants.cancel()
        await asyncio.gather(grants, return_exceptions=True)
        await orchestrator.scheduler.close()

    return after_an_hour(asks_then_ends(), go_on)


@pytest.mark.parametrize(
    "request_",
    [
        BuildAnswerGiven(build_id=BUILD, question_id=QUESTION, option="blue"),
        BuildMessageSent(build_id=BUILD, message="Use what you like."),
    ],
    ids=lambda one: one.type,
)
def test_a_waiting_build_goes_on_once_with_what_a_person_says(request_: Event) -> None:
    async def say(orchestrator: LoneOrchestrator) -> None:
        for _ in range(3):  # delivered again
            await handle(orchestrator, request_)
        await asyncio.sleep(60)
        before = orchestrator.events()
        await handle(orchestrator, request_)
        assert orchestrator.events() == before

    orchestrator = waiting_then(say)
    assert orchestrator.calls == 2
    assert [event.type for event in orchestrator.events()].count("tool_call.answered") == 1


def test_a_pause_ends_the_call_in_flight_and_a_resume_repeats_it() -> None:
    async def pause(orchestrator: LoneOrchestrator) -> None:
        await handle(orchestrator, BuildAnswerGiven(build_id=BUILD, question_id=QUESTION, text="Blue."))
        for _ in range(100):  # the call takes a second
            if isinstance(orchestrator.events()[-1], ModelCallStarted):
                break
            await asyncio.sleep(0.1)
        await handle(orchestrator, BuildPauseRequested(build_id=BUILD), 2)
        await asyncio.sleep(1)
        assert [type(event) for event in orchestrator.events()[-3:]] == [
            BuildWaiting,
            ModelCallFailed,
            BuildWaiting,
        ]
        assert orchestrator.scheduler.active == 0
        await handle(orchestrator, BuildResumeRequested(build_id=BUILD), 3)
        await asyncio.sleep(60)

    orchestrator = waiting_then(pause)
    assert orchestrator.events()[-1].type == "tool_call.requested"
    assert orchestrator.calls == 3


def test_a_cancel_ends_a_waiting_build_at_once() -> None:
    async def cancel(orchestrator: LoneOrchestrator) -> None:
        before = asyncio.get_running_loop().time()
        await handle(orchestrator, BuildCancelRequested(build_id=BUILD))
        assert asyncio.get_running_loop().time() - before < 2

    orchestrator = waiting_then(cancel)
    assert orchestrator.events()[-1].type == "build.cancelled"
    kinds = {item.kind for item in orchestrator.tables.pending.values()}
    assert not kinds & {PendingKind.BUILD, PendingKind.WAITING, PendingKind.QUESTION}


def test_answers_that_cannot_be_right_are_refused() -> None:
    async def answer(orchestrator: LoneOrchestrator) -> None:
        with pytest.raises(BadMessage, match="among the options: blue"):
            await handle(orchestrator, BuildAnswerGiven(build_id=BUILD, question_id=QUESTION, option="red"))
        with pytest.raises(BadMessage, match="needs `option` or `text`"):
            await handle(orchestrator, BuildAnswerGiven(build_id=BUILD, question_id=QUESTION))
        with pytest.raises(NotFound):
            await handle(orchestrator, BuildAnswerGiven(build_id="b9", question_id=QUESTION, text="x"))

    waiting_then(answer)


def test_a_question_is_answered_by_its_default_without_anybody() -> None:
    orchestrator = after_an_hour(asks_then_ends(deadline_s=600, default="blue"))
    [answered] = [event for event in orchestrator.events() if isinstance(event, ToolCallAnswered)]
    assert (answered.by, answered.output) == ("default", "blue")
    assert orchestrator.calls == 2
