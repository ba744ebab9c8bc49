"""The real loop and what builds have to show: without effort none becomes ready, whatever it demands and claims."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from tests.memory.orchestrator.lone_orchestrator import REQUEST, LoneOrchestrator, after_an_hour
from tests.support import build_invariants

from nightshift.contracts.events.build import BuildFailed, BuildReady, ToolCallRequested, Usage
from nightshift.contracts.events.requests import Check
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.orchestrator.domain.commands import Answer

TESTED = "== make test\n3 passed in 0.02s\n== exit code 0\n"
NOTHING = "no tests found\n"
MODES = (None, "tests", "preview", "checks", "none")


def says(*uses: dict[str, Any]) -> Answer:
    content = ({"type": "text", "text": "It is done and works."}, *uses)
    return Answer("m", "scripted-1", content, "tool_use" if uses else "end_turn", Usage(input_tokens=9), 1, 1)


def agent(tool: str, *, calls: int) -> Callable[[], Answer]:
    """Makes this many tool calls, then claims to be done, and makes one more each time it is sent back."""
    numbers = itertools.count()

    def respond() -> Answer:
        number = next(numbers)
        if not calls or (number >= calls and number % 2):
            return says()
        given = {"command": f"make part-{number}"} if tool == "bash" else {"file_path": f"a{number}.py"}
        return says({"type": "tool_use", "id": f"t{number}", "name": tool, "input": given})

    return respond


def sandbox(
    *, fails: bool = False, checks: str = NOTHING
) -> Callable[[ToolCallRequested], ToolCallCompleted]:
    def result(asked: ToolCallRequested) -> ToolCallCompleted:
        output, failed = checks, False
        if asked.purpose == "agent":
            output, failed = f"{asked.call_id}: no such target", fails
        code = 127 if failed else 0
        return ToolCallCompleted(
            call_id=asked.call_id, is_error=failed, output=output, exit_code=code, duration_ms=1
        )

    return result


def ended(orchestrator: LoneOrchestrator) -> BuildReady | BuildFailed:
    events = orchestrator.events()
    assert build_invariants.proof(events) == []
    last = events[-1]
    assert isinstance(last, BuildReady | BuildFailed), last
    return last


LAZY = {
    "only failing calls": (agent("bash", calls=2), sandbox(fails=True)),
    "nothing written": (agent("read_file", calls=3), sandbox()),
    "done at once": (agent("bash", calls=0), sandbox()),
    "work that nothing shows": (agent("bash", calls=3), sandbox()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("effort", LAZY)
def test_a_build_without_effort_is_never_ready(effort: str, mode: str | None) -> None:
    respond, tools = LAZY[effort]
    request = REQUEST.model_copy(update={"proof": mode})
    end = ended(after_an_hour(respond, request=request, tools=tools))
    if mode == "none":
        assert isinstance(end, BuildReady), "the request demanded nothing, and the proof says so"
        assert (end.proof.mode, end.proof.tests_executed) == ("none", 0)
    else:
        assert isinstance(end, BuildFailed)
        assert end.reason == "unproven"


@pytest.mark.parametrize("effort", LAZY)
def test_checks_that_pass_prove_nothing_without_a_written_file(effort: str) -> None:
    respond, tools = LAZY[effort]
    request = REQUEST.model_copy(update={"checks": (Check(name="true", command="true"),)})
    end = ended(after_an_hour(respond, request=request, tools=tools))
    wrote = effort == "work that nothing shows"
    assert isinstance(end, BuildReady) == wrote


@pytest.mark.parametrize("mode", MODES)
def test_executed_tests_are_enough_unless_a_preview_is_demanded(mode: str | None) -> None:
    request = REQUEST.model_copy(update={"proof": mode})
    end = ended(after_an_hour(agent("bash", calls=3), request=request, tools=sandbox(checks=TESTED)))
    assert isinstance(end, BuildFailed) == (mode == "preview")
