"""The request: stable bytes, stable prefix, one result per tool use, nothing that the API refuses."""

import json
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    BuildScenario,
    begun,
    completed,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.requests import Check, QuestionAnswer
from nightshift.contracts.registry import decode, encode
from nightshift.devstack.model.conversation import validate
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import AnswerQuestion
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.state import INITIAL


def body(scenario: BuildScenario) -> dict:
    return json.loads(prompt.request_bytes(scenario.state, scenario.policy))


def refolded(scenario: BuildScenario):
    """Fold the state from the stored text of each event."""
    state = INITIAL
    for one in scenario.log:
        data = decode(one.data.type, one.data.version, encode(one.data))
        state = evolve(state, one._replace(data=data))
    return state


def test_a_state_folded_again_from_stored_events_gives_the_same_bytes():
    scenario = begun()
    odd = {
        "type": "tool_use",
        "id": "t1",
        "name": "bash",
        "input": {"z": 1, "a": [1e400, "\x00", "ü"], "command": "x"},
    }
    new = {"type": "something_new", "payload": {"b": None, "a": 1}}
    scenario.thinks(text("Hm."), new, odd)
    scenario.others(completed("b1/1/0", output="bin \x00 \udc80 \U0001f600"))
    scenario.step()
    assert prompt.request_bytes(refolded(scenario), scenario.policy) == prompt.request_bytes(
        scenario.state, scenario.policy
    )
    assert refolded(scenario) == scenario.state


def test_what_a_tool_returned_comes_without_half_characters():
    scenario = begun()
    scenario.thinks(tool_use())
    scenario.others(completed("b1/1/0", output="a\udc80b\x00"))
    (result,) = body(scenario)["messages"][2]["content"][:1]
    assert result["content"] == [{"type": "text", "text": "a\ufffdb\x00"}]


def test_three_cache_marks_the_last_of_them_at_the_end():
    scenario = working()
    scenario.step()
    marked = json.dumps(body(scenario)).count('"cache_control"')
    assert marked == 3
    assert "cache_control" in body(scenario)["system"][-1]
    assert "cache_control" in body(scenario)["messages"][-1]["content"][-1]


def test_a_build_that_waits_long_marks_its_conversation_for_an_hour():
    hour, minutes = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"}
    scenario = begun()
    scenario.thinks(tool_use("ask_user", {"question": "Which colour?", "options": []}))
    assert body(scenario)["messages"][0]["content"][-1]["cache_control"] == minutes
    scenario.step()
    scenario.do(AnswerQuestion("b1/1/0", None, "Blue.", cause=UUID(int=5)))
    scenario.granted()
    scenario.step()
    assert _marks(scenario) == [hour, hour, hour]
    scenario = begun()
    scenario.thinks(tool_use())
    scenario.others(completed("b1/1/0", duration_ms=301_000))
    scenario.step()
    assert _marks(scenario) == [hour, hour, hour]


def _marks(scenario) -> list[dict]:
    sent = body(scenario)
    validate(sent)
    blocks = [*sent["system"], *(block for message in sent["messages"] for block in message["content"])]
    return [block["cache_control"] for block in blocks if "cache_control" in block]


def test_roles_take_turns_and_every_tool_use_has_its_result():
    scenario = begun()
    scenario.thinks(text("…"), tool_use(id="cut"), stop_reason="max_tokens")
    scenario.thinks(tool_use(id="t1"), tool_use("glob", {"pattern": "*"}, id="t2"))
    scenario.others(completed("b1/2/1", is_error=True, output=""))
    scenario.others(completed("b1/2/0"))
    scenario.step()
    messages = body(scenario)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2) + [
        "user"
    ]
    used = [b["id"] for m in messages for b in m["content"] if b["type"] == "tool_use"]
    results = [b for m in messages for b in m["content"] if b["type"] == "tool_result"]
    assert [result["tool_use_id"] for result in results] == used == ["cut", "t1", "t2"]
    assert [result.get("is_error", False) for result in results] == [True, False, True]
    assert all(block["text"] for result in results for block in result["content"])


def test_empty_texts_and_empty_answers_are_not_sent_back():
    scenario = working()
    scenario.thinks(text(""), text(" \n"), tool_use(given={"command": "ls"}))
    scenario.results()
    scenario.thinks()
    scenario.results(is_error=True)
    scenario.step()
    scenario.step()
    messages = body(scenario)["messages"]
    assert all(message["content"] for message in messages)
    assert all(block.get("text", "x").strip() for message in messages for block in message["content"])


def test_the_idea_its_answers_and_what_must_be_true_are_told():
    request = REQUEST.model_copy(
        update={
            "understanding_qna": (QuestionAnswer(question="Which colour?", answer="Blue."),),
            "criteria": ("It counts visits.",),
            "checks": (Check(name="unit", command="make unit"),),
        }
    )
    scenario = begun(request=request)
    said = json.dumps(body(scenario))
    for words in (request.idea_brief, "Which colour?", "Blue.", "It counts visits.", "make unit"):
        assert words in said


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (None, "Files alone prove nothing"),
        ("tests", "A preview does not replace them"),
        ("preview", "only when its preview answers"),
        ("checks", "commands that check it succeed"),
        ("none", "No proof is demanded"),
    ],
)
def test_the_agent_is_told_which_proof_is_demanded(proof, words):
    scenario = begun(request=REQUEST.model_copy(update={"proof": proof}))
    assert words in body(scenario)["system"][0]["text"]
