"""A build whose calls wait for approvals: approve, deny, deadline, message, pause, cancel, several at once."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import NOW, REQUEST, BuildScenario, begun, completed, tool_use
from tests.unit.orchestrator.test_waiting import results

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import (
    ApprovalRequested,
    ApprovalResolved,
    BudgetRequested,
    BuildResumed,
    BuildWaiting,
    ModelCallStarted,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.model import PendingKind
from nightshift.orchestrator.domain.commands import (
    CancelBuild,
    GiveApproval,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
)
from nightshift.orchestrator.domain.next_step import AwaitFact, Waiting

A, B, C = UUID(int=91), UUID(int=92), UUID(int=93)
PUSH = {"command": "git push"}
FIRST, SECOND, THIRD = "b1/1/0", "b1/1/1", "b1/1/2"


def wanting(*uses: dict, **policy) -> BuildScenario:
    """A build whose first answer makes these calls, under a policy that asks about `git push`."""
    policy_ = ApprovalPolicy(ask=("bash(git push *)",), **policy)
    scenario = begun(request=REQUEST.model_copy(update={"approvals": policy_}))
    scenario.thinks(*uses)
    return scenario


def waiting(**policy) -> BuildScenario:
    """A build that waits for the approval of its only call."""
    scenario = wanting(tool_use(given=PUSH, id="t0"), **policy)
    scenario.step()
    assert scenario.next() == Waiting()
    return scenario


def kinds(events) -> list[type]:
    return [type(event) for event in events]


def rows(scenario: BuildScenario) -> set[tuple[PendingKind, str]]:
    """The rows that the log's events leave open."""
    left: set[tuple[PendingKind, str]] = set()
    for event in scenario.log:
        for change in event.data.pending("b1"):
            (left.add if change.opens else left.discard)((change.kind, change.key))
    return left


def test_a_call_that_the_policy_asks_about_waits_in_rows():
    scenario = waiting()
    asked = scenario.last(ApprovalRequested)
    assert (asked.call_id, asked.tool, asked.input) == (FIRST, "bash", PUSH)
    assert "git push" in asked.reason
    assert scenario.requested_calls() == []
    assert scenario.last(BuildWaiting).reason == "approval"
    assert {(PendingKind.APPROVAL, FIRST), (PendingKind.WAITING, "b1")} <= rows(scenario)
    assert PendingKind.TOOL_CALL not in {kind for kind, _ in rows(scenario)}


def test_an_approved_call_runs_and_its_result_reaches_the_agent():
    scenario = waiting()
    events = scenario.do(GiveApproval(FIRST, approved=True, cause=A, given_by="/acme/web"))
    assert kinds(events) == [ApprovalResolved, ToolCallRequested, BuildResumed]
    assert (events[0].by, events[0].given_by) == ("person", "/acme/web")
    assert (events[1].tool_use_id, events[1].input, events[1].timeout_s) == ("t0", PUSH, 120)
    assert scenario.next() == AwaitFact()
    scenario.results(output="pushed")
    assert results(scenario) == [("t0", "pushed")]
    assert scenario.state.tool_calls_made == 1
    scenario.step()
    scenario.granted()
    scenario.step()
    assert scenario.last(ModelCallStarted).turn == 2


def test_a_comment_on_an_approval_reaches_the_agent_too():
    scenario = waiting()
    scenario.do(GiveApproval(FIRST, approved=True, comment="Only this once.", cause=A))
    assert "Only this once." in scenario.state.conversation.waiting[-1]


def test_the_comment_of_a_denial_is_the_result_of_the_call():
    scenario = waiting()
    events = scenario.do(GiveApproval(FIRST, approved=False, comment="Not tonight.", cause=A))
    assert kinds(events) == [ApprovalResolved, ToolCallAnswered, BuildResumed, BudgetRequested]
    assert (events[1].is_error, events[1].by) == (True, "person")
    [(use, output)] = results(scenario)
    assert use == "t0"
    assert "denied" in output
    assert "Not tonight." in output
    assert not scenario.state.wrote


def test_nobody_approves_in_time_and_the_call_is_denied():
    scenario = waiting(deadline_s=600)
    assert scenario.last(BuildWaiting).until == NOW + timedelta(seconds=600)
    scenario.passes(599)
    assert scenario.next() == Waiting()
    scenario.passes(1)
    events = scenario.step()
    assert (events[0].approved, events[0].by, events[1].by) == (False, "default", "default")
    assert "in time" in results(scenario)[0][1]


def test_only_the_first_decision_counts():
    scenario = waiting()
    scenario.do(GiveApproval(FIRST, approved=False, cause=A))
    assert scenario.do(GiveApproval(FIRST, approved=True, cause=B)) == ()
    assert scenario.do(GiveApproval("b1/9/0", approved=True, cause=C)) == ()


def test_calls_of_one_turn_wait_alone_and_the_others_run():
    scenario = wanting(
        tool_use(given=PUSH, id="t0"), tool_use(id="t1"), tool_use(given=PUSH, id="t2"), deadline_s=600
    )
    assert [call.call_id for call in scenario.requested_calls()] == [SECOND]
    assert scenario.next() == AwaitFact()
    scenario.others(completed(SECOND, output="ran"))
    scenario.step()
    assert scenario.next() == Waiting()
    events = scenario.do(GiveApproval(THIRD, approved=True, cause=A))
    assert kinds(events) == [ApprovalResolved, ToolCallRequested]
    scenario.others(completed(THIRD, output="pushed"))
    assert scenario.next() == Waiting()
    scenario.do(GiveApproval(FIRST, approved=False, comment="No.", cause=B))
    shown = results(scenario)
    assert [use for use, _ in shown] == ["t0", "t1", "t2"]
    assert [output for _, output in shown][1:] == ["ran", "pushed"]


def test_an_approved_call_still_runs_when_the_last_approval_comes():
    scenario = wanting(tool_use(given=PUSH, id="t0"), tool_use(given=PUSH, id="t1"))
    scenario.step()
    scenario.do(GiveApproval(FIRST, approved=True, cause=A))
    events = scenario.do(GiveApproval(SECOND, approved=False, cause=B))
    assert kinds(events) == [ApprovalResolved, ToolCallAnswered, BuildResumed]
    assert scenario.next() == AwaitFact()
    scenario.others(completed(FIRST, output="pushed"))
    assert results(scenario)[0] == ("t0", "pushed")


def test_the_wait_names_what_is_left_to_answer():
    scenario = wanting(
        tool_use("ask_user", {"question": "Which?", "deadline_s": 60, "default": "x"}, id="q"),
        tool_use(given=PUSH, id="t1"),
        deadline_s=600,
    )
    scenario.step()
    wait = scenario.last(BuildWaiting)
    assert (wait.reason, wait.question_id, wait.until) == ("question", FIRST, NOW + timedelta(seconds=60))
    scenario.passes(60)
    scenario.step()
    wait = scenario.last(BuildWaiting)
    assert (wait.reason, wait.question_id, wait.until) == ("approval", SECOND, NOW + timedelta(seconds=600))
    assert scenario.next() == Waiting()
    assert scenario.types().count("build.waiting") == 2


@pytest.mark.parametrize("still_runs", [True, False])
def test_a_message_denies_the_call_and_is_read_next(still_runs: bool):
    scenario = wanting(tool_use(given=PUSH, id="t0"), tool_use(id="t1"))
    if not still_runs:
        scenario.others(completed(SECOND))
        scenario.step()
    events = scenario.do(MessageAgent("Write the tests first.", A))
    assert scenario.last(ApprovalResolved).by == "message"
    assert (BuildResumed in kinds(events)) is not still_runs
    if still_runs:
        scenario.others(completed(SECOND))
    assert "sent a message instead" in results(scenario)[0][1]
    assert scenario.state.conversation.waiting == ("Write the tests first.",)


def test_a_call_approved_during_a_pause_runs_after_it():
    scenario = waiting(deadline_s=600)
    scenario.do(PauseBuild(None, A))
    events = scenario.do(GiveApproval(FIRST, approved=True, cause=B))
    assert kinds(events) == [ApprovalResolved]
    scenario.passes(700)  # an approval that was given is not overdue
    assert scenario.next() == Waiting()
    events = scenario.do(ResumeBuild(C))
    assert kinds(events)[:2] == [BuildResumed, ToolCallRequested]
    scenario.results(output="pushed")
    assert results(scenario) == [("t0", "pushed")]


def test_a_deadline_that_passes_during_a_pause_denies_after_it():
    scenario = waiting(deadline_s=600)
    scenario.do(PauseBuild(None, A))
    scenario.passes(700)
    assert scenario.next() == Waiting()
    scenario.do(ResumeBuild(B))
    scenario.step()
    assert scenario.last(ApprovalResolved).by == "default"


@pytest.mark.parametrize("paused_and_approved", [True, False])
def test_a_cancel_closes_what_waits_for_an_approval(paused_and_approved: bool):
    scenario = waiting()
    if paused_and_approved:
        scenario.do(PauseBuild(None, A))
        scenario.do(GiveApproval(FIRST, approved=True, cause=B))
    scenario.do(CancelBuild("enough", C))
    assert scenario.last(ToolCallAnswered).by == "cancelled"
    left = {kind for kind, _ in rows(scenario)}
    assert not left & {PendingKind.APPROVAL, PendingKind.WAITING, PendingKind.TOOL_CALL, PendingKind.BUILD}
    assert scenario.requested_calls() == []


def test_the_orchestrators_own_checks_need_no_approval():
    policy = ApprovalPolicy(mode="always")
    checks = ({"name": "push", "command": "git push"},)
    request = REQUEST.model_validate({**REQUEST.model_dump(), "approvals": policy, "checks": checks})
    scenario = begun(request=request)
    scenario.thinks(tool_use("read_file", {"file_path": "a"}, id="t0"))
    scenario.step()
    scenario.do(GiveApproval(FIRST, approved=True, cause=A))
    scenario.results()
    scenario.thinks({"type": "text", "text": "Done."})
    assert [call.purpose for call in scenario.requested_calls()] == ["agent", "check"]
