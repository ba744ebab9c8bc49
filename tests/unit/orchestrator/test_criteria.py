"""The judge: another conversation that looks at the finished work and says which criteria are met."""

import json
from typing import Any
from uuid import UUID

import pytest
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    BuildScenario,
    answer,
    begun,
    completed,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.budget import BudgetSettled
from nightshift.contracts.events.build import (
    AgentSteered,
    BudgetRequested,
    BuildFailed,
    BuildReady,
    BuildWaiting,
    CriteriaJudged,
    EscalationRaised,
    ModelCallStarted,
    Phase,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxOpened
from nightshift.contracts.tools import TOOLS
from nightshift.devstack.model.conversation import validate
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain import prompt, side_calls
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    AnswerQuestion,
    Complete,
    MessageAgent,
    SendBack,
    Sleep,
    StartCall,
)
from nightshift.orchestrator.domain.next_step import AwaitFact, worst_case
from nightshift.orchestrator.domain.policy import Policy

CRITERIA = ("A tool can be borrowed.", "The page shows who has it.")
GIVEN = REQUEST.model_copy(update={"criteria": CRITERIA})
CAUSE = UUID(int=77)


def verdicts(*met: bool, evidence: str = "app.py:3", id: str = "v1") -> dict[str, Any]:
    given = [{"criterion": n, "met": one, "evidence": evidence} for n, one in enumerate(met, 1)]
    return tool_use("report_verdicts", {"verdicts": given}, id=id)


def checked(**more: Any) -> BuildScenario:
    """A build whose checks have passed, so that the judge is next."""
    scenario = working(request=GIVEN, **more)
    scenario.thinks(text("Done."))
    scenario.results()
    return scenario


def judge_body(scenario: BuildScenario) -> dict[str, Any]:
    """The judge's request, which the scripted model's strict checks accept."""
    body = json.loads(side_calls.request_bytes(scenario.state, scenario.policy, "judge"))
    validate(body)
    return body


def test_criteria_are_judged_before_a_build_is_ready():
    scenario = checked()
    assert isinstance(scenario.next(), StartCall)
    assert scenario.next().role == "judge"
    scenario.thinks(verdicts(True, True))
    judged = scenario.last(CriteriaJudged)
    assert [(one.index, one.met, one.evidence) for one in judged.verdicts] == [
        (0, True, "app.py:3"),
        (1, True, "app.py:3"),
    ]
    assert (judged.round, judged.usage.output_tokens) == (1, 100)
    assert scenario.next() == Complete()
    scenario.do(Complete(build_version=1))
    ready = scenario.last(BuildReady)
    assert ready.proof.criteria == judged.verdicts
    events = [event.data for event in scenario.log]
    assert [*build_invariants.money(events), *build_invariants.proof(events)] == []


def test_the_judge_has_its_own_conversation_and_reading_tools():
    scenario = checked()
    builder = prompt.request_bytes(scenario.state, scenario.policy)
    scenario.step()
    body = judge_body(scenario)
    assert {tool["name"] for tool in body["tools"]} == {"read_file", "glob", "grep", "report_verdicts"}
    assert "You did not build it" in body["system"][0]["text"]
    (opening,) = body["messages"]
    told = opening["content"][0]["text"]
    assert "1. A tool can be borrowed.\n2. The page shows who has it." in told
    assert "3 passed in 0.02s" in told
    assert "Done." not in told, "the builder's own words are no evidence"
    scenario.do(answer(tool_use("read_file", {"file_path": "app.py"})))
    assert prompt.request_bytes(scenario.state, scenario.policy) == builder


def test_the_judge_reads_and_its_requests_only_grow():
    scenario = checked()
    scenario.step()
    first = judge_body(scenario)
    events = scenario.do(
        answer(
            tool_use("read_file", {"file_path": "app.py"}, id="r1"),
            tool_use("grep", {"pattern": "x"}, id="r2"),
        )
    )
    calls = [event for event in events if isinstance(event, ToolCallRequested)]
    assert [(call.purpose, call.call_id) for call in calls] == [("judge", "b1/2/1"), ("judge", "b1/2/2")]
    assert scenario.next() == AwaitFact()
    scenario.others(completed("b1/2/2", output="second"))
    assert scenario.next() == AwaitFact()
    scenario.others(completed("b1/2/1", output="first"), completed("b1/2/1", output="again"))
    scenario.step()
    body = judge_body(scenario)
    opening, said, results = body["messages"]
    assert opening["content"][0]["text"] == first["messages"][0]["content"][0]["text"]
    assert [block["id"] for block in said["content"]] == ["r1", "r2"]
    assert [block["content"][0]["text"] for block in results["content"]] == ["first", "second"]
    assert scenario.state.tool_calls_made == 1, "only the agent's calls count towards its limit"


def test_the_judge_begins_after_the_checkpoint_of_the_turn():
    """A provider that refuses the judge lets the build sleep, and a sleep needs the checkpoint."""
    scenario = checked()
    scenario.step()
    assert scenario.types()[-2:] == ["checkpoint.saved", "model_call.started"]
    assert scenario.state.conversation.checkpoint == scenario.state.conversation.turn


def test_gaps_go_back_to_the_agent_and_a_new_round_follows():
    scenario = checked()
    scenario.thinks(verdicts(True, False, evidence="The page never names anybody."))
    assert scenario.next() == SendBack()
    scenario.step()
    told = scenario.last(AgentSteered)
    assert told.reason == "criteria_not_met"
    assert "2. The page shows who has it.\n   The page never names anybody." in told.message
    assert "A tool can be borrowed" not in told.message
    assert scenario.state.phase is Phase.CODE
    scenario.thinks(tool_use())
    scenario.results()
    scenario.thinks(text("Now it does."))
    scenario.results()
    scenario.step()
    earlier = judge_body(scenario)["messages"][0]["content"][0]["text"]
    assert "An earlier round found these criteria not met" in earlier
    assert "2. The page never names anybody." in earlier
    scenario.do(answer(verdicts(True, True)))
    assert scenario.last(CriteriaJudged).round == 2
    assert scenario.next() == Complete()


def unmet(rounds: int = 1) -> BuildScenario:
    """A build that waits for a person, because a criterion is not met after all rounds."""
    scenario = checked(policy=Policy(judge_rounds=rounds))
    for _ in range(rounds - 1):
        scenario.thinks(verdicts(True, False))
        scenario.step()
        scenario.thinks(text("Done."))
        scenario.results()
    scenario.thinks(verdicts(True, False, evidence="No name anywhere."))
    scenario.step()
    return scenario


def answered(scenario: BuildScenario, option: str) -> None:
    escalation = scenario.last(EscalationRaised)
    scenario.do(AnswerQuestion(str(escalation.escalation_id), option, None, CAUSE))


@pytest.mark.parametrize("rounds", [1, 3])
def test_after_the_last_round_a_person_is_asked(rounds):
    scenario = unmet(rounds)
    raised = scenario.last(EscalationRaised)
    assert (raised.kind, raised.options) == ("unproven", ("continue", "accept", "end"))
    assert "2. The page shows who has it.\n   No name anywhere." in raised.detail
    assert scenario.last(BuildWaiting).reason == "escalation"


def test_a_person_can_end_a_build_whose_criteria_are_not_met():
    scenario = unmet()
    answered(scenario, "end")
    assert scenario.last(BuildFailed).reason == "unproven"
    assert "The page shows who has it." in scenario.last(BuildFailed).detail


def test_a_person_can_accept_a_build_as_it_is():
    scenario = unmet()
    answered(scenario, "accept")
    assert scenario.next() == Complete()
    scenario.do(Complete(build_version=1))
    first, second = scenario.last(BuildReady).proof.criteria
    assert (first.met, first.accepted, second.met, second.accepted) == (True, None, False, True)


def test_a_person_can_order_more_rounds():
    scenario = unmet()
    answered(scenario, "continue")
    scenario.step()
    messages = [event.data for event in scenario.log if isinstance(event.data, AgentSteered)]
    assert [one.reason for one in messages[-2:]] == ["answer", "criteria_not_met"]
    assert scenario.state.phase is Phase.CODE
    scenario.thinks(text("Done."))
    scenario.results()
    scenario.thinks(verdicts(False, True))
    assert scenario.last(CriteriaJudged).round == 2


def given(*numbers: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"criterion": number, "met": True, "evidence": "x", **fields} for number in numbers]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (given(1), "one verdict for each of the criteria 1 to 2, not for [1]"),
        (given(1, 1, 2), "not for [1, 1, 2]"),
        (given(1, 3), "not for [1, 3]"),
        (given(1, 2, met="perhaps"), "verdicts.0.met: Input should be a valid boolean"),
        ([], "verdicts: Tuple should have at least 1 item"),
    ],
)
def test_verdicts_that_do_not_fit_are_asked_for_again(wrong: list[dict[str, Any]], told: str):
    scenario = checked()
    scenario.thinks(tool_use("report_verdicts", {"verdicts": wrong}))
    assert "criteria.judged" not in scenario.types()
    scenario.step()
    (result,) = judge_body(scenario)["messages"][-1]["content"]
    assert result["is_error"]
    assert told in result["content"][0]["text"]
    scenario.do(answer(verdicts(True, True, id="v2")))
    assert scenario.next() == Complete()


@pytest.mark.parametrize("content", [(text(),), (tool_use("glob", {"pattern": "*"}),), ()])
def test_a_judge_that_is_always_cut_off_ends_its_round(content: tuple[dict[str, Any], ...]):
    scenario = checked(policy=Policy(judge_answers=4))
    for number in range(4):
        assert "criteria.judged" not in scenario.types()
        cut = tuple({**block, "id": f"c{number}"} if "id" in block else block for block in content)
        scenario.thinks(*cut, stop_reason="max_tokens")
        if number < 3:
            judge_body(scenario)
    assert not any(one.met for one in scenario.last(CriteriaJudged).verdicts)


def test_a_judge_that_only_talks_ends_without_verdicts():
    scenario = checked(policy=Policy(judge_answers=3))
    for _ in range(3):
        assert "criteria.judged" not in scenario.types()
        scenario.thinks(text("It looks fine."))
    judged = scenario.last(CriteriaJudged)
    assert [one.met for one in judged.verdicts] == [False, False]
    assert "no verdict" in judged.verdicts[0].evidence
    assert scenario.next() == SendBack()


def test_the_judges_last_answer_reads_nothing_more():
    scenario = checked(policy=Policy(judge_answers=2))
    scenario.thinks(tool_use("read_file", {"file_path": "a"}))
    assert scenario.requested_calls()[-1].purpose == "check", "no call of the judge was made"
    scenario.step()
    (result,) = judge_body(scenario)["messages"][-1]["content"]
    assert "report_verdicts" in result["content"][0]["text"]


def test_long_evidence_keeps_the_event_small():
    request = REQUEST.model_copy(update={"criteria": tuple(f"c{n}" for n in range(100))})
    scenario = working(request=request)
    scenario.thinks(text())
    scenario.results()
    scenario.thinks(verdicts(*[True] * 100, evidence="ö" * 4_000))
    sizes = [len(one.evidence) for one in scenario.last(CriteriaJudged).verdicts]
    assert (len(sizes), sum(sizes)) == (100, 60_000)


def test_a_judge_without_money_lets_the_build_sleep_and_goes_on():
    scenario = begun(request=GIVEN)
    scenario.thinks(tool_use())
    scenario.results()
    # The builder's next call costs more than the judge's.
    scenario.thinks(text("Done."), usage=Usage(input_tokens=200_000, output_tokens=100))
    scenario.results()
    for grant in scenario.state.funds.grants:
        settled = {"lease_id": grant.lease_id, "account_id": "a1", "day": "2026-11-22", "outcome": "expired"}
        counts = {"reserved_microusd": 1, "posted_microusd": 1, "released_microusd": 0}
        scenario.others(BudgetSettled(**settled, **counts))
    (asked,) = scenario.step()
    assert isinstance(asked, BudgetRequested)
    scenario.denied()
    assert isinstance(scenario.next(), Sleep)
    scenario.step()
    scenario.others(SandboxClosed(sandbox_id="s1", reason="sleep"))
    scenario.passes(4_000)
    scenario.woken()
    scenario.step()
    assert worst_case(scenario.state, scenario.policy) <= asked.minimum_microusd, "no wake ends in a denial"
    scenario.granted()
    scenario.step()
    assert scenario.last(AgentSteered).reason == "sandbox_restored"


@pytest.mark.parametrize("asked", [True, False])
def test_checks_of_a_sandbox_that_is_gone_prove_nothing(asked):
    scenario = checked()
    if asked:
        scenario.thinks(tool_use("read_file", {"file_path": "a"}))
        scenario.others(SandboxClosed(sandbox_id="s1", reason="sleep"))
        scenario.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
        scenario.others(completed("b1/2/1"))
    else:
        scenario.thinks(verdicts(True, True))
        scenario.others(SandboxClosed(sandbox_id="s1", reason="sleep"))
    assert scenario.next() == SendBack()
    scenario.step()
    assert "Start again what must run" in scenario.last(AgentSteered).message
    scenario.thinks(text())
    scenario.results()
    assert scenario.next().role == "judge"


def test_a_message_during_judging_reaches_the_agent_first():
    scenario = checked()
    scenario.step()
    scenario.do(MessageAgent("Make it blue.", CAUSE))
    scenario.do(answer(verdicts(True, True)))
    assert scenario.next() == SendBack()


def test_a_call_of_the_judge_that_nobody_awaits_is_made_again():
    scenario = checked()
    scenario.step()
    before = judge_body(scenario)
    scenario.do(AbandonCall(Usage(input_tokens=5)))
    scenario.step()
    assert judge_body(scenario) == before
    scenario.do(answer(tool_use("glob", {"pattern": "*"})))
    scenario.others(completed("b1/2/1"))
    scenario.thinks(verdicts(True, True))
    calls = [event.data for event in scenario.log if getattr(event.data, "role", None) == "judge"]
    assert [one.attempt for one in calls if isinstance(one, ModelCallStarted)] == [1, 2, 3]
    judged = scenario.last(CriteriaJudged)
    assert judged.cost_microusd == sum(getattr(one, "cost_microusd", 0) for one in calls)
    assert judged.usage == Usage(input_tokens=2_000, output_tokens=200)


def test_a_build_is_not_completed_without_its_verdicts():
    scenario = checked()
    with pytest.raises(Fault, match="judged"):
        scenario.do(Complete(build_version=1))
    scenario.thinks(verdicts(True, False))
    with pytest.raises(Fault, match="proof"):
        scenario.do(Complete(build_version=1))


def test_the_reading_tools_are_those_of_the_agent():
    scenario = checked()
    scenario.step()
    for tool in judge_body(scenario)["tools"]:
        assert tool["name"] == "report_verdicts" or tool["name"] in TOOLS
