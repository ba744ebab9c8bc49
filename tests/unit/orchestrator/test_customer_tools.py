"""Tools that a request brings: their schemas, the inputs of their calls, results, deadlines and defaults."""

import json
from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    NOW,
    REQUEST,
    BuildScenario,
    answer,
    begun,
    completed,
    tool_use,
)
from tests.unit.orchestrator.test_approvals import kinds, rows
from tests.unit.orchestrator.test_waiting import results

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildResumed,
    BuildWaiting,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import BuildRequested, CustomTool, ToolCallResultGiven
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain.admission import admit
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    CancelBuild,
    GiveApproval,
    GiveResult,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
)
from nightshift.orchestrator.domain.customer_tools import output_of
from nightshift.orchestrator.domain.next_step import AwaitFact, Waiting
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.prompt import build_request, request_bytes

A, B, C = UUID(int=91), UUID(int=92), UUID(int=93)
SCHEMA = {
    "type": "object",
    "properties": {
        "cents": {"type": "integer", "minimum": 1},
        "to": {"type": "string", "pattern": "^[a-z]+$"},
    },
    "required": ["cents"],
    "additionalProperties": False,
}
PAY = CustomTool(name="pay", description="Pays.", input_schema=SCHEMA, timeout_s=600)
CALL = "b1/1/0"


def pay(given: dict | None = None, id: str = "t0") -> dict:
    return tool_use("pay", {"cents": 5} if given is None else given, id=id)


def calling(*uses: dict, tool: CustomTool = PAY, **fields) -> BuildScenario:
    """A build with the tool `pay`, whose first answer makes these calls."""
    scenario = begun(request=REQUEST.model_copy(update={"tools": (tool,), **fields}))
    scenario.thinks(*(uses or (pay(),)))
    return scenario


def waiting(**more) -> BuildScenario:
    scenario = calling(**more)
    scenario.step()
    assert scenario.next() == Waiting()
    return scenario


def asked(**schema) -> BuildRequested:
    tool = {"name": "pay", "description": "Pays.", "input_schema": {"type": "object", **schema}}
    return BuildRequested.model_validate({**REQUEST.model_dump(), "tools": [tool]})


def test_the_model_is_offered_the_tool_after_ours():
    scenario = calling()
    body = build_request(scenario.state, Policy())
    assert body["tools"][-1] == {"name": "pay", "description": "Pays.", "input_schema": SCHEMA}
    assert json.loads(request_bytes(scenario.state, Policy())) == body


def test_a_call_goes_out_with_its_purpose_and_the_build_waits_in_rows():
    scenario = waiting()
    [call] = scenario.requested_calls()
    assert (call.tool, call.purpose, call.input, call.timeout_s) == ("pay", "customer", {"cents": 5}, 600)
    assert call.deadline == NOW + timedelta(seconds=600)
    wait = scenario.last(BuildWaiting)
    assert (wait.reason, wait.question_id, wait.until) == ("customer_tool", CALL, call.deadline)
    assert (PendingKind.CUSTOMER_CALL, CALL) in rows(scenario)
    assert (PendingKind.TOOL_CALL, CALL) not in rows(scenario)  # nothing for the sandbox-gateway


def test_the_result_is_that_of_the_call_and_asks_for_money():
    scenario = waiting()
    events = scenario.do(GiveResult(CALL, is_error=False, output="paid", cause=A))
    assert kinds(events) == [ToolCallAnswered, BuildResumed, BudgetRequested]
    assert events[0].by == "customer"
    assert results(scenario) == [("t0", "paid")]
    assert scenario.do(GiveResult(CALL, is_error=False, output="again", cause=B)) == ()
    assert PendingKind.CUSTOMER_CALL not in {kind for kind, _ in rows(scenario)}


@pytest.mark.parametrize(
    ("default", "output", "is_error"),
    [("nothing was paid", "nothing was paid", False), (None, "did not answer within 600 s", True)],
)
def test_a_call_without_a_result_in_time_gets_its_default_or_an_error(default, output, is_error):
    scenario = waiting(tool=PAY.model_copy(update={"default_output": default}))
    scenario.passes(599)
    assert scenario.next() == Waiting()
    scenario.passes(1)
    scenario.step()
    answered = scenario.last(ToolCallAnswered)
    assert (answered.by, answered.is_error) == ("default", is_error)
    assert output in answered.output


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, '"cents" is a required property'),
        ({"cents": "5"}, "cents:"),
        ({"cents": 0}, "cents:"),
        ({"cents": 5, "to": "A1"}, "to:"),
        ({"cents": 5, "x": 1}, "x"),
    ],
)
def test_a_wrong_input_is_answered_before_it_goes_out(given, wrong):
    scenario = calling(pay(given))
    assert scenario.requested_calls() == []
    answered = scenario.last(ToolCallAnswered)
    assert (answered.by, answered.is_error, answered.tool) == ("policy", True, "pay")
    assert wrong in answered.output
    assert results(scenario)[0][0] == "t0"
    assert scenario.state.tool_calls_made == 1


def test_results_keep_the_order_of_the_calls_whoever_answers_first():
    scenario = calling(
        pay({}, "t0"),
        tool_use(id="t1"),
        pay(id="t2"),
        tool_use("ask_user", {"question": "?"}, id="q"),
        pay({}, "t4"),
    )
    assert scenario.next() == AwaitFact()
    scenario.others(completed("b1/1/1"))
    scenario.step()
    assert scenario.last(BuildWaiting).reason == "question"
    scenario.do(GiveResult("b1/1/2", is_error=False, output="paid", cause=A))
    assert scenario.next() == Waiting()
    scenario.do(AnswerQuestion("b1/1/3", None, "yes", B))
    assert [use for use, _ in results(scenario)] == ["t0", "t1", "t2", "q", "t4"]


def test_a_question_can_be_answered_while_a_tool_waits():
    scenario = calling(tool_use("ask_user", {"question": "?"}, id="q"), pay(id="t1"))
    scenario.step()
    scenario.do(AnswerQuestion(CALL, None, "yes", A))
    wait = scenario.last(BuildWaiting)
    assert (wait.reason, wait.question_id) == ("customer_tool", "b1/1/1")
    scenario.do(GiveResult("b1/1/1", is_error=False, output="paid", cause=B))
    assert isinstance(scenario.log[-2].data, BuildResumed)


def test_a_message_waits_for_the_result_of_a_customers_tool():
    """The call may have done something already, and would be made again."""
    scenario = waiting()
    scenario.do(MessageAgent("Faster.", A))
    assert scenario.next() == Waiting()
    scenario.do(GiveResult(CALL, is_error=False, output="paid", cause=B))
    assert scenario.state.conversation.waiting == ("Faster.",)


def test_a_result_that_comes_during_a_pause_is_kept():
    scenario = waiting()
    scenario.do(PauseBuild(None, A))
    scenario.do(GiveResult(CALL, is_error=False, output="paid", cause=B))
    assert scenario.next() == Waiting()
    scenario.do(ResumeBuild(C))
    assert results(scenario) == [("t0", "paid")]
    scenario.granted()
    assert scenario.next() != Waiting()


def test_a_cancel_closes_the_call():
    scenario = waiting()
    scenario.do(CancelBuild("enough", A))
    assert scenario.last(ToolCallAnswered).by == "cancelled"
    assert PendingKind.CUSTOMER_CALL not in {kind for kind, _ in rows(scenario)}


def test_the_time_of_an_approved_call_begins_with_its_approval():
    scenario = calling(approvals=ApprovalPolicy(ask=("pay",)))
    scenario.step()
    scenario.passes(5_000)
    scenario.do(GiveApproval(CALL, approved=True, cause=A))
    call = scenario.last(ToolCallRequested)
    assert call.deadline == scenario.now + timedelta(seconds=600)
    assert scenario.last(BuildWaiting).until == call.deadline
    assert scenario.next() == Waiting()
    scenario.do(GiveResult(CALL, is_error=False, output="paid", cause=B))
    assert results(scenario) == [("t0", "paid")]


def test_the_same_call_with_the_same_result_counts_as_repeated():
    scenario = calling()
    for turn in range(1, 4):
        scenario.step()
        scenario.do(GiveResult(f"b1/{turn}/0", is_error=True, output="no", cause=UUID(int=turn)))
        if turn < 3:
            scenario.granted()
            scenario.step()
            scenario.do(answer(pay(id=f"t{turn}")))
    scenario.granted()
    scenario.step()
    assert "returned the same 3 times" in scenario.state.conversation.entries[-1].text


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"output": "paid"}, "paid"),
        ({"data": {"to": "ü", "id": 1}}, '{\n  "id": 1,\n  "to": "ü"\n}'),
        ({"output": "paid", "data": {}}, "paid\n{}"),
        ({}, ""),
    ],
)
def test_a_result_is_text_then_data(fields, output):
    assert output_of(ToolCallResultGiven(build_id="b1", call_id=CALL, **fields)) == output


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array"}, "must be"),
        ({"type": None}, "must be"),
        ({"oneOf": []}, "not allowed at the top level"),
        ({"anyOf": [{}]}, "not allowed at the top level"),
        ({"allOf": [{}]}, "not allowed at the top level"),
        ({"properties": {"a b": {}}}, "'a b' must match"),
        ({"properties": {"x" * 65: {}}}, "must match"),
        ({"properties": []}, "no JSON Schema"),
        ({"properties": {"a": {"type": "whole"}}}, "no JSON Schema"),
        ({"properties": {"a": {"pattern": "("}}}, "no JSON Schema"),
        ({"required": "a"}, "no JSON Schema"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "no JSON Schema"),
        ({"properties": {"a": {"$ref": "https://example.org/schema.json"}}}, "no JSON Schema"),
        ({"description": "x" * 60_000}, "too large"),
    ],
)
def test_a_schema_that_the_messages_api_would_refuse_is_refused(schema, why):
    with pytest.raises(BadMessage, match=why) as refused:
        admit(asked(**schema), NOW, Policy())
    assert refused.value.field == "tools.0.input_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        SCHEMA,
        {"$defs": {"a": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}},
        {"properties": {"a": {"type": "string", "pattern": "^(?=.*[0-9])", "format": "made-up"}}},
    ],
)
def test_a_schema_of_draft_2020_12_is_accepted(schema):
    admit(asked(**schema), NOW, Policy())


@pytest.mark.parametrize(
    ("names", "why"),
    [(("bash",), "agent's own"), (("ask_user",), "agent's own"), (("pay", "pay"), "another tool's")],
)
def test_a_name_that_is_taken_is_refused(names, why):
    tools = [PAY.model_copy(update={"name": name}) for name in names]
    with pytest.raises(BadMessage, match=why) as refused:
        admit(REQUEST.model_copy(update={"tools": tuple(tools)}), NOW, Policy())
    assert refused.value.field == f"tools.{len(names) - 1}.name"


def test_a_pattern_that_would_take_for_ever_gives_up():
    schema = {"type": "object", "properties": {"to": {"type": "string", "pattern": "^(a+)+(?=b)b$"}}}
    scenario = calling(pay({"to": "a" * 5_000}), tool=PAY.model_copy(update={"input_schema": schema}))
    assert scenario.last(ToolCallAnswered).is_error
