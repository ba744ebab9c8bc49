"""A conversation that becomes too long is condensed between complete turns, and the build goes on."""

import json
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, answer, begun, text, tool_use

from nightshift.contracts.events.build import (
    BuildFailed,
    ContextCondensed,
    ModelCallFailed,
    ModelCallStarted,
    Usage,
)
from nightshift.devstack.model.conversation import validate
from nightshift.devstack.model.rules import signature
from nightshift.orchestrator.domain import context, prompt, side_calls
from nightshift.orchestrator.domain.commands import CallFailed, MessageAgent, StartCall
from nightshift.orchestrator.domain.next_step import CountPrompt, next_step
from nightshift.orchestrator.domain.policy import Policy

SMALL = Policy(context_tokens=40_000, grant_turns=100)
LONG = "\n".join(f"line {number} of a long output" for number in range(400))
NOTE = "\n\n[... 90000 characters cut; the whole is in /home/user/.out/7/out ...]\n\n"


def request(scenario: BuildScenario) -> dict:
    """The next request, which must be valid."""
    body = json.loads(prompt.request_bytes(scenario.state, scenario.policy))
    validate(body)
    return body


def thinking(scenario: BuildScenario) -> dict:
    """A thinking block as the provider signs it: bound to all that the open call has sent."""
    body = request(scenario)
    return {"type": "thinking", "thinking": "…", "signature": signature(body, len(body["messages"]))}


def turn(scenario: BuildScenario, number: int, *, output: str = LONG, calls: int = 1) -> None:
    """One turn of the builder with results of this length, and the condensing that precedes it if one is due."""
    start(scenario)
    while scenario.state.call.role == "condenser":
        scenario.do(answer(text(f"The plan after {number} turns.")))
        start(scenario)
    uses = [
        tool_use("write_file", {"file_path": f"app/{number}-{one}.py", "content": "x"}, f"t{number}-{one}")
        for one in range(calls)
    ]
    tokens = len(prompt.request_bytes(scenario.state, scenario.policy)) // 4
    scenario.do(answer(thinking(scenario), *uses, usage=Usage(input_tokens=tokens, output_tokens=50)))
    scenario.results(output=output)


def start(scenario: BuildScenario) -> None:
    """Start the next model call, whoever makes it."""
    while scenario.state.call is None:
        events = scenario.step()
        if events[-1].type == "budget.requested":
            scenario.granted()


def condensings(scenario: BuildScenario) -> list[ContextCondensed]:
    return [event.data for event in scenario.log if isinstance(event.data, ContextCondensed)]


def long_build(turns: int = 30, policy: Policy = SMALL) -> BuildScenario:
    scenario = begun(policy=policy)
    for number in range(turns):
        turn(scenario, number, output=LONG + NOTE + LONG)
    return scenario


def test_a_long_conversation_is_condensed_and_stays_valid():
    scenario = long_build()
    assert len(condensings(scenario)) >= 2
    sizes = [
        event.data.reserve_microusd for event in scenario.log if isinstance(event.data, ModelCallStarted)
    ]
    assert max(sizes) < 1_000_000
    request(scenario)


def test_the_summary_keeps_brief_statements_files_and_kept_outputs():
    scenario = begun(policy=SMALL)
    scenario.do(MessageAgent("Use the colour teal.", UUID(int=77)))
    for number in range(30):
        turn(scenario, number, output=LONG + NOTE + LONG)
    opening = [block["text"] for block in request(scenario)["messages"][0]["content"]]
    assert REQUEST.idea_brief in opening[0]
    summary = opening[1]
    for kept in (
        "The plan after",
        "Use the colour teal.",
        "\n- app/0-0.py\n",
        "\n- app/5-0.py\n",
        "/home/user/.out/7/out",
    ):
        assert kept in summary, kept


def test_no_thinking_and_no_long_result_stays_after_a_boundary():
    scenario = long_build()
    for number in range(100, 130):
        start(scenario)
        if scenario.state.call.role == "condenser":
            break
        turn(scenario, number, output=LONG + NOTE + LONG)
    scenario.do(answer(text("Summary.")))
    body = request(scenario)
    blocks = [block for message in body["messages"][1:] for block in message["content"]]
    assert {block["type"] for block in blocks} == {"tool_use", "tool_result"}
    outputs = [block["content"][0]["text"] for block in blocks if block["type"] == "tool_result"]
    assert outputs
    assert all(len(output) < 4_500 for output in outputs)
    assert "the whole is in /home/user/.out/7/out" in outputs[0]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=4, max_size=14))
@settings(max_examples=8, deadline=None)
def test_between_boundaries_each_request_begins_with_the_one_before(moves):
    scenario = begun(policy=SMALL)
    requests: list[tuple[int, list]] = []
    for number, (length, calls) in enumerate(moves):
        turn(scenario, number, output=LONG[: length * 8_000], calls=calls)
        body = request(scenario)
        messages = json.loads(json.dumps(body["messages"]))
        for message in messages:
            for block in message["content"]:
                block.pop("cache_control", None)
        requests.append((len(condensings(scenario)), messages))
    for (boundaries, before), (later, after) in pairwise(requests):
        if boundaries == later:
            assert after[: len(before)] == before


def test_a_prompt_that_is_too_long_is_condensed_and_sent_again():
    scenario = begun(policy=Policy())
    for number in range(6):
        turn(scenario, number)
    start(scenario)
    scenario.do(CallFailed("too_long", "prompt is too long: 9 tokens > 8 maximum", status=400))
    assert scenario.last(ModelCallFailed).cost_microusd == 0
    start(scenario)
    assert scenario.state.call.role == "condenser"
    scenario.do(answer(text("What was done.")))
    start(scenario)
    assert scenario.state.call.role == "builder"
    kept = len(request(scenario)["messages"])
    scenario.do(CallFailed("too_long", "prompt is too long", status=400))
    start(scenario)
    scenario.do(answer(text("Shorter.")))
    start(scenario)
    assert len(request(scenario)["messages"]) < kept
    scenario.do(answer(tool_use(id="more")))
    assert scenario.types()[-1] == "tool_call.requested"


def test_thinking_that_is_refused_is_left_out_and_the_build_goes_on():
    scenario = begun(policy=Policy())
    for number in range(3):
        turn(scenario, number)
    start(scenario)
    scenario.do(CallFailed("thinking", "The block is bound to a different conversation.", status=400))
    start(scenario)
    assert scenario.state.call.role == "builder"
    assert "thinking" not in {b["type"] for m in request(scenario)["messages"] for b in m["content"]}
    assert len(request(scenario)["messages"]) == 7
    scenario.do(CallFailed("thinking", "The block is bound to a different conversation.", status=400))
    assert scenario.last(BuildFailed).reason == "model_error"


def test_a_brief_that_is_too_long_by_itself_ends_the_build():
    scenario = begun(policy=Policy())
    scenario.step()
    scenario.do(CallFailed("too_long", "prompt is too long", status=400))
    assert scenario.last(BuildFailed).reason == "model_error"
    assert "nothing is left to condense" in scenario.last(BuildFailed).detail


def test_an_answer_without_room_is_condensed_and_goes_on():
    scenario = begun(policy=Policy())
    for number in range(4):
        turn(scenario, number)
    start(scenario)
    scenario.do(answer(text("I was about"), tool_use(id="cut"), stop_reason="model_context_window_exceeded"))
    start(scenario)
    assert scenario.state.call.role == "condenser"
    scenario.do(answer(text("A summary.")))
    start(scenario)
    request(scenario)


@pytest.mark.parametrize(
    "end",
    [
        CallFailed("invalid", "no", status=400),
        answer(text("  ")),
        answer(text("I cannot."), stop_reason="refusal"),
    ],
    ids=["invalid", "blank", "refusal"],
)
def test_without_a_summary_the_turns_are_listed(end):
    scenario = begun(policy=Policy())
    for number in range(6):
        turn(scenario, number)
    start(scenario)
    scenario.do(CallFailed("too_long", "prompt is too long", status=400))
    start(scenario)
    scenario.do(end)
    [condensed] = condensings(scenario)
    assert condensed.written_by == "loop"
    assert "write_file" in condensed.summary
    start(scenario)
    request(scenario)


def test_an_unavailable_condenser_is_tried_again():
    scenario = begun(policy=Policy())
    for number in range(6):
        turn(scenario, number)
    start(scenario)
    scenario.do(CallFailed("too_long", "prompt is too long", status=400))
    start(scenario)
    scenario.do(CallFailed("overloaded", "busy", status=529))
    assert not condensings(scenario)
    scenario.passes(100)
    start(scenario)
    assert scenario.state.call.role == "condenser"


def test_the_condensers_request_fits_and_is_valid():
    scenario = begun(policy=SMALL)
    for number in range(40):
        turn(scenario, number, output="ü" * 30_000, calls=3)
        body = side_calls.request(scenario.state, scenario.policy, "condenser")
        validate(json.loads(json.dumps(body)))
        assert len(body["messages"][0]["content"][0]["text"].encode()) <= 240_000


def test_a_guess_over_the_limit_is_counted_and_not_condensed():
    scenario = BuildScenario(policy=SMALL)
    scenario.granted(10_000_000)
    turn(scenario, 0, output=LONG * 4)
    assert isinstance(next_step(scenario.state, scenario.now, scenario.policy), CountPrompt)
    step = next_step(scenario.state, scenario.now, scenario.policy, 14_000)
    assert isinstance(step, StartCall)
    assert (step.role, step.counted_tokens) == ("builder", 14_000)


def test_money_is_asked_for_the_counted_tokens():
    scenario = begun(policy=Policy(grant_turns=1))
    scenario.thinks(tool_use())
    scenario.results(output="x" * 90_000)
    assert isinstance(next_step(scenario.state, scenario.now, scenario.policy), CountPrompt)
    few, many = (
        next_step(scenario.state, scenario.now, scenario.policy, counted).minimum_microusd
        for counted in (25_000, 100_000)
    )
    assert few < many / 1.5


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("claude-sonnet-5-5", 200_000),
        ("claude-haiku-5-5", 100_000),  # longer prompts cost five times as much
        ("claude-haiku-4-5", 165_600),  # nine tenths of what 200,000 leave beside an answer
    ],
)
def test_the_limit_follows_the_models_context_and_price(model, limit):
    scenario = BuildScenario(request=REQUEST.model_copy(update={"model": model}))
    assert context.limit(scenario.state, scenario.policy) == limit
