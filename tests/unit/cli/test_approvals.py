"""Calls that wait for an approval or for a customer's consumer, as the commands show and name them."""

from datetime import timedelta

import pytest
from tests.unit.cli.events import ACCEPTED, START, recorded, status_after

from nightshift.cli.approvals import chosen
from nightshift.cli.commands import answer
from nightshift.cli.errors import WrongUsage
from nightshift.cli.follow import doing
from nightshift.cli.narration import lines
from nightshift.contracts.events.build import (
    ApprovalRequested,
    ApprovalResolved,
    BuildResumed,
    BuildWaiting,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.eventlog.errors import NotFound

PUSH = ApprovalRequested(
    call_id="b/1/0",
    turn=1,
    index=0,
    tool="bash",
    tool_use_id="u",
    input={"command": "make\ngit push \u202eniam", "timeout_s": 5},
    timeout_s=20,
    purpose="agent",
    reason="the rule bash(git push *) asks",
    deadline=START + timedelta(hours=1),
)
TAG = PUSH.model_copy(update={"call_id": "b/1/1", "input": {"command": "git push --tags"}})
WAITS = BuildWaiting(reason="approval", question_id="b/1/0")
STOCK = ToolCallRequested(
    call_id="b/2/0", turn=2, index=0, tool="stock_of", tool_use_id="s", input={"sku": "x"}, purpose="customer"
)


def test_the_whole_call_is_shown_with_its_invisible_characters():
    [question] = status_after(ACCEPTED, PUSH, WAITS).questions.values()
    assert question.call_in_full() == [
        "bash",
        "  command: make",
        "    git push \\u202eniam",
        "  timeout_s: 5",
    ]
    assert question.as_json()["input"] == PUSH.input
    assert question.default == "denied"


def test_a_build_that_waits_for_an_approval_names_what_to_type():
    status = status_after(ACCEPTED, PUSH, WAITS)
    wait = status.waiting(START + timedelta(hours=9))
    assert "git push" in wait.reason
    assert "nightshift approve b b/1/0" in wait.action
    assert "nightshift deny b b/1/0" in wait.action
    assert "git push" in doing(status, START)
    goes_on = (ApprovalResolved(call_id="b/1/0", approved=True, by="person"), BuildResumed(reason="approval"))
    status = status_after(ACCEPTED, PUSH, WAITS, *goes_on)
    assert (status.questions, status.waiting(START)) == ({}, None)


def test_the_only_call_needs_no_id_and_several_do():
    one, both = status_after(ACCEPTED, PUSH), status_after(ACCEPTED, PUSH, TAG)
    assert [call.question_id for call in chosen(one, ["No."], every=False)[0]] == ["b/1/0"]
    assert chosen(both, ["b/1/1", "No."], every=False)[1] == "No."
    assert len(chosen(both, ["No."], every=True)[0]) == 2
    with pytest.raises(WrongUsage, match="which call"):
        chosen(both, ["No."], every=False)
    with pytest.raises(WrongUsage, match="one text"):
        chosen(one, ["not", "tonight"], every=False)
    with pytest.raises(NotFound, match="waits for an approval"):
        chosen(status_after(ACCEPTED), [], every=False)


def test_an_approval_is_not_answered_like_a_question():
    with pytest.raises(WrongUsage, match="waits for an approval"):
        answer.chosen(status_after(ACCEPTED, PUSH), ["b/1/0", "yes"])
    with pytest.raises(NotFound, match="asks nothing"):
        answer.chosen(status_after(ACCEPTED, PUSH), ["yes"])


def test_a_build_that_waits_for_a_customers_tool_says_so():
    waits = BuildWaiting(reason="customer_tool", question_id="b/2/0")
    status = status_after(ACCEPTED, STOCK, waits)
    wait = status.waiting(START + timedelta(hours=1))
    assert wait.reason == "for the result of your tool stock_of (call b/2/0)"
    assert 'nightshift answer b b/2/0 "RESULT"' in wait.action
    answered = (
        ToolCallAnswered(call_id="b/2/0", output="3", by="customer"),
        BuildResumed(reason="customer_tool"),
    )
    status = status_after(ACCEPTED, STOCK, waits, *answered)
    assert (status.waiting(START), status.asked) == (None, {})


def test_each_fact_about_an_approval_has_a_line():
    denied = ApprovalResolved(call_id="b/1/0", approved=False, comment="No.", by="person", given_by="/acme")
    told = [line.text for event in recorded([PUSH, denied]) for line in lines(status_after(ACCEPTED), event)]
    assert told == [
        "approve? bash make; git push \\u202eniam (the rule bash(git push *) asks)",
        "denied (person /acme): No.",
    ]
