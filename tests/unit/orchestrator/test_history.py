"""The history only grows: each request begins with the bytes of the one before it."""

import json
from itertools import pairwise
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.build_scenario import BuildScenario, answer, begun, text, tool_use

from nightshift.contracts import canonical
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import AbandonCall, CallFailed, Complete, MessageAgent, Step
from nightshift.orchestrator.domain.next_step import Ended
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode

MOVES = st.lists(st.integers(0, 11), min_size=5, max_size=70)


def request(scenario: BuildScenario) -> dict:
    body = prompt.request_bytes(scenario.state, scenario.policy)
    assert prompt.request_bytes(scenario.state, scenario.policy, prompt.RenderedMessages()) == body
    return json.loads(body)


def rendered(scenario: BuildScenario) -> list[str]:
    """Each message of the request as its bytes without cache marks, after the system prompt and the tools."""
    body = request(scenario)
    for block in [*body["system"], *(b for message in body["messages"] for b in message["content"])]:
        block.pop("cache_control", None)
    return [canonical.dumps(part) for part in (body["system"], body["tools"], *body["messages"])]


def walk(moves: list[int]) -> list[list[str]]:
    """The requests of a random life of a build."""
    scenario = BuildScenario(policy=Policy(grant_turns=1, attempts=3, turn_limit=30, tool_call_limit=25))
    requests = []
    for number, move in enumerate(moves):
        step = scenario.next()
        if isinstance(step, Ended):
            break
        if move == 11:
            scenario.do(MessageAgent(f"message {number}", UUID(int=10_000 + number)))
        elif isinstance(step, Step):
            called = scenario.state.call is None
            scenario.do(Complete(1) if isinstance(step, Complete) else step)
            if called and scenario.state.call is not None:
                requests.append(rendered(scenario))
        elif scenario.state.mode is RunMode.SLEEPING:
            scenario.passes(4_000)
            scenario.woken()
        elif scenario.state.funds.asked is not None and scenario.state.call is None:
            scenario.granted(left=(20 - number) * 500_000 if number < 20 else 0, limit=10_000_000)
        elif scenario.state.call is not None:
            _end_call(scenario, move, number)
        elif scenario.state.tool_calls:
            scenario.results(is_error=move % 3 == 0)
        else:
            scenario.passes(100)
    return requests


def _end_call(scenario: BuildScenario, move: int, number: int) -> None:
    match move:
        case 0:
            scenario.do(AbandonCall())
        case 1 | 2:
            scenario.do(CallFailed("overloaded", "no", status=529))
        case 3:
            scenario.do(answer(text()))
        case 4:
            scenario.do(answer(stop_reason="max_tokens"))
        case 5:
            scenario.do(answer(text(" \n"), stop_reason="pause_turn"))
        case 6:
            scenario.do(answer(text(), tool_use(id=f"t{number}"), stop_reason="max_tokens"))
        case _:
            calls = [
                tool_use(given={"command": f"echo {number} {n}"}, id=f"t{number}-{n}")
                for n in range(move - 6)
            ]
            scenario.do(answer({"type": "thinking", "thinking": "…", "signature": "s"}, *calls))


@given(MOVES)
@settings(max_examples=150, deadline=None)
def test_each_request_begins_with_the_bytes_of_the_one_before(moves):
    requests = walk(moves)
    for before, after in pairwise(requests):
        assert after[: len(before)] == before


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_the_last_message_is_always_from_the_user(moves):
    for messages in walk(moves):
        assert json.loads(messages[-1])["role"] == "user"


def test_a_message_after_a_failed_attempt_is_a_message_of_its_own():
    scenario = BuildScenario()
    scenario.granted(5_000_000)
    scenario.step()
    before = request(scenario)["messages"]
    scenario.do(CallFailed("overloaded", "no", status=529))
    scenario.do(MessageAgent("use blue", UUID(int=7)))
    scenario.passes(100)
    scenario.step()
    after = request(scenario)["messages"]
    assert [message["content"][0]["text"][:8] for message in after[1:]] == ["use blue"]
    assert len(after) == len(before) + 1


def test_what_is_left_is_told_again_when_a_tenth_of_it_is_gone():
    scenario = begun(policy=Policy(turn_limit=200, tool_call_limit=20))
    told = []
    for number in range(6):
        scenario.thinks(tool_use(given={"command": f"echo {number}"}, id=f"t{number}"))
        scenario.results()
        scenario.step()
        told.append(json.dumps(request(scenario)["messages"]).count("Tool calls left"))
        scenario.do(answer(tool_use(given={"command": f"ls {number}"}, id=f"u{number}")))
        scenario.results()
    assert told == [1, 2, 3, 4, 5, 6]


def test_the_agent_is_told_more_money_when_the_account_gets_it():
    scenario = begun()
    scenario.thinks(tool_use())
    scenario.results()
    scenario.granted(left=90_000_000)
    scenario.step()
    assert "Money left today: $90." in request(scenario)["messages"][-1]["content"][-1]["text"]
