"""The loop from the request to its end, as the log tells it."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.story import (
    NOW,
    REQUEST,
    Story,
    answer,
    begun,
    completed,
    requested,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    ModelCallFailed,
    ModelCallStarted,
    Phase,
    SleepRequested,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.requests import Check
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxLost,
    SandboxOpened,
    SandboxRestored,
    ToolCallCompleted,
)
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    CancelBuild,
    Complete,
    Fail,
    SendBack,
    StartCall,
    TellAgent,
)
from nightshift.orchestrator.domain.decide import decide
from nightshift.orchestrator.domain.next_step import Asleep, AwaitFact, AwaitModel, Ended
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode

NOW_CAUSE = UUID(int=77)


def test_accepting_asks_for_money_at_once():
    story = Story()
    assert story.types() == ["build.accepted", "build.phase_changed", "budget.requested"]
    assert story.next() == AwaitFact()


def test_the_first_turn():
    story = begun()
    assert [event.type for event in story.step()] == ["build.phase_changed", "model_call.started"]
    assert story.state.phase is Phase.SCAFFOLD
    assert story.next() == AwaitModel()
    events = story.do(
        answer(text("Let me look."), tool_use(id="t1"), tool_use("glob", {"pattern": "*"}, id="t2"))
    )
    assert [call.call_id for call in requested(events)] == ["b1/1/0", "b1/1/1"]
    assert story.next() == AwaitFact()


def test_the_checkpoint_is_saved_with_the_next_call_when_all_results_are_in():
    story = begun()
    story.thinks(tool_use(id="t1"), tool_use("glob", {"pattern": "*"}, id="t2"))
    story.others(completed("b1/1/1"))
    assert story.next() == AwaitFact()
    story.others(completed("b1/1/0"))
    assert [event.type for event in story.step()] == ["checkpoint.saved", "model_call.started"]


def test_a_second_result_for_a_call_changes_nothing():
    story = begun()
    story.thinks(tool_use(id="t1"), tool_use(id="t2", given={"command": "false"}))
    story.others(completed("b1/1/0", output="first"))
    story.others(completed("b1/1/0", output="second"))
    assert [call.result and call.result.output for call in story.state.tool_calls] == ["first", None]


def test_done_means_checked_and_the_sum_of_the_log_is_the_cost():
    story = working()
    story.others(SandboxOpened(sandbox_id="s1", driver="local", generation=1))
    story.others(PreviewOpened(sandbox_id="s1", port=8000, url="http://127.0.0.1:9"))
    usage = Usage(
        input_tokens=10, output_tokens=20, cache_read_input_tokens=3_000, cache_write_5m_input_tokens=400
    )
    events = story.thinks(text(), usage=usage)
    assert [(call.tool, call.purpose) for call in requested(events)] == [
        ("bash", "check"),
        ("open_port", "preview"),
    ]
    assert story.state.phase is Phase.CHECKS
    story.results()
    assert story.next() == Complete()
    story.do(Complete(build_version=3))
    ready = story.last(BuildReady)
    costs = [
        getattr(event.data, "cost_microusd", 0)
        for event in story.log
        if event.data.type.startswith("model_call.")
    ]
    assert ready.cost_microusd == sum(costs) > 0
    assert (ready.build_version, ready.sandbox_id, ready.preview_url) == (3, "s1", "http://127.0.0.1:9")
    assert (ready.turns, ready.tool_calls) == (2, 1)
    assert story.next() == Ended()


def opened(
    story: Story, path: str, *, port: int = 8000, is_error: bool = False, url: str = "http://h:9"
) -> None:
    """The agent opens a port, and the gateway says what came of it."""
    story.thinks(tool_use("open_port", {"port": port, "path": path}))
    story.others(PreviewOpened(sandbox_id="s1", port=port, url=url))
    story.results(is_error=is_error)


def preview_check(story: Story) -> dict:
    """What the round of checks asks `open_port`, after the agent says that it is done."""
    *_, call = requested(story.thinks(text()))
    assert (call.tool, call.purpose) == ("open_port", "preview")
    return call.input


@pytest.mark.parametrize("url", ["http://h:9", "http://h:9/", "http://h:9/health?deep=1"])
def test_the_path_that_the_agent_opened_is_checked_and_shown(url):
    story = begun()
    opened(story, "/health?deep=1", url=url)
    assert preview_check(story) == {"port": 8000, "path": "/health?deep=1"}
    story.results()
    story.do(Complete(build_version=1))
    assert story.last(BuildReady).preview_url == "http://h:9/health?deep=1"


def test_a_path_that_answered_stays_when_a_later_one_does_not():
    story = begun()
    opened(story, "/health")
    opened(story, "/nowhere", is_error=True)
    assert preview_check(story)["path"] == "/health"


def test_the_last_path_that_answered_is_checked():
    story = begun()
    opened(story, "/health")
    opened(story, "/app")
    assert preview_check(story)["path"] == "/app"


def test_a_path_of_another_port_is_not_checked():
    story = begun()
    opened(story, "/health")
    opened(story, "/", port=9000)
    assert preview_check(story) == {"port": 9000, "path": "/"}


def test_a_preview_that_fails_is_named_with_its_path():
    story = begun()
    opened(story, "/health")
    preview_check(story)
    story.results(is_error=True, exit_code=None)
    story.step()
    assert "The preview on port 8000, path /health, failed" in story.last(AgentSteered).message


def test_the_checks_of_the_request_are_run_instead_of_what_is_found():
    request = REQUEST.model_copy(update={"checks": (Check(name="unit", command="make unit", timeout_s=7),)})
    story = working(request=request)
    (call,) = requested(story.thinks(text()))
    assert (call.input["command"], call.timeout_s) == ("make unit", 7)


def test_a_failed_check_goes_back_to_the_agent_until_no_try_is_left():
    story = working(policy=Policy(check_tries=2))
    story.thinks(text())
    story.results(is_error=True, output="1 failed: test_x", exit_code=1)
    assert story.next() == SendBack()
    story.step()
    assert story.state.phase is Phase.CODE
    assert "1 failed: test_x" in story.last(AgentSteered).message
    story.thinks(text("Fixed."))
    story.results(is_error=True, exit_code=1)
    step = story.next()
    assert isinstance(step, Fail)
    story.do(step)
    assert story.last(BuildFailed).reason == "checks_failed"


def test_a_check_whose_time_was_up_is_told_so():
    story = working()
    story.thinks(text())
    (call,) = story.state.tool_calls
    story.others(
        ToolCallCompleted(call_id=call.call_id, is_error=True, error_kind="timeout", output="", duration_ms=9)
    )
    story.step()
    assert "tests failed because the time was up" in story.last(AgentSteered).message


def test_the_agent_tells_its_phase_forward_only():
    story = begun()
    story.thinks(tool_use("narrate", {"phase": "code", "message": "now code"}))
    assert story.state.phase is Phase.CODE
    story.results()
    story.thinks(tool_use("narrate", {"phase": "scaffold", "message": "back"}))
    assert story.state.phase is Phase.CODE
    story.results()
    story.thinks(tool_use("narrate", {"phase": "checks", "message": "I check"}))
    assert story.state.phase is Phase.CODE


def test_an_end_before_any_work_is_asked_about_once():
    story = begun()
    story.thinks(text("I cannot."))
    assert story.last(AgentSteered).reason == "no_tool_call"
    story.thinks(text("I still cannot."))
    assert story.last(BuildFailed).reason == "checks_failed"
    assert "nothing was built" in story.last(BuildFailed).detail


def test_checks_of_the_request_judge_an_end_without_any_work():
    request = REQUEST.model_copy(update={"checks": (Check(name="unit", command="make unit", timeout_s=7),)})
    story = begun(request=request)
    story.thinks(text("There is nothing to do."))
    story.thinks(text("There still is nothing to do."))
    assert [call.purpose for call in story.state.tool_calls] == ["check"]


@pytest.mark.parametrize("reason", ["pause_turn", "a_reason_of_next_year"])
def test_an_answer_that_stopped_before_its_end_is_gone_on_with_and_never_checked(reason):
    story = working()
    for _ in range(story.policy.max_cuts):
        story.thinks(text("Let me think."), stop_reason=reason)
        assert story.state.phase is not Phase.CHECKS
        assert reason in story.last(AgentSteered).message
    story.thinks(text("Still."), stop_reason=reason)
    assert story.last(BuildFailed).reason == "model_error"
    assert reason in story.last(BuildFailed).detail


def test_the_calls_of_an_answer_with_an_unknown_stop_reason_are_run():
    story = begun()
    assert requested(story.thinks(tool_use(), stop_reason="a_reason_of_next_year"))


def test_denied_money_is_a_checkpoint_and_then_a_sleep():
    story = begun(policy=Policy(grant_microusd=1))
    story.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    story.results()
    assert [event.type for event in story.step()] == ["budget.requested"]
    story.denied(refresh_s=600)
    assert [event.type for event in story.step()] == ["checkpoint.saved", "sleep.requested"]
    assert story.last(SleepRequested).wake_at == story.now + timedelta(seconds=600)
    assert story.next() == Asleep()


def test_a_build_sleeps_and_wakes_three_times():
    story = begun(policy=Policy(grant_microusd=1))
    for night in range(3):
        story.thinks(tool_use(given={"command": f"echo {night}"}), usage=Usage(input_tokens=90_000))
        story.results()
        story.step()
        story.denied()
        story.step()
        assert story.state.mode is RunMode.SLEEPING
        assert not story.state.funds.grants
        story.passes(3_600)
        story.woken()
        assert [event.type for event in story.step()] == ["build.woken", "budget.requested"]
        story.granted()
    assert isinstance(story.next(), StartCall)
    assert story.types().count("sleep.requested") == 3


@pytest.mark.parametrize("enough", [True, False])
def test_a_wake_asks_for_money_only_when_none_is_reserved(enough):
    story = begun(policy=Policy(grant_microusd=1))
    story.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    story.results()
    story.step()
    story.denied()
    story.step()
    story.granted(None if enough else 1)  # reserved for the sleeper, before it is called
    story.woken()
    asked = [] if enough else ["budget.requested"]
    assert [event.type for event in story.step()] == ["build.woken", *asked]
    if enough:
        assert isinstance(story.next(), StartCall)


def test_a_wake_that_finds_the_build_awake_changes_nothing():
    story = begun()
    story.woken()
    assert isinstance(story.next(), StartCall)


def test_a_finished_build_without_money_is_ready_not_asleep():
    story = begun(policy=Policy(grant_microusd=1))
    story.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    story.results()
    story.step()
    story.granted(left=0, limit=20_000_000)
    story.step()
    assert "Nine tenths" in story.last(AgentSteered).message
    story.do(answer(text(), usage=Usage(input_tokens=90_000)))
    story.results()
    assert story.next() == Complete()
    assert "sleep.requested" not in story.types()


def test_the_wind_down_is_told_once_a_day():
    story = begun()
    story.thinks(tool_use(given={"command": "a"}), usage=Usage(input_tokens=300_000))
    story.results()
    story.step()
    story.granted(left=100_000, limit=50_000_000)
    for number in range(3):
        story.thinks(tool_use(given={"command": f"b{number}"}))
        story.results()
    assert [event.data.reason for event in story.log if isinstance(event.data, AgentSteered)] == ["budget"]


def test_no_call_starts_that_its_grant_does_not_cover():
    story = Story()
    reserve = story.last(type(story.log[-1].data)).minimum_microusd
    story.granted(amount=reserve - 1)
    assert [event.type for event in story.step()] == ["budget.requested"]
    story.granted(amount=reserve)
    started = story.step()[-1]
    assert started.reserve_microusd == reserve


def test_a_prompt_that_the_provider_did_not_count_keeps_its_bound():
    story = begun()
    story.thinks(tool_use(), usage=Usage(input_tokens=1_000, output_tokens=100))
    story.results()
    counted = story.state.conversation.tokens
    story.thinks(tool_use(given={"command": "ls"}), usage=Usage(output_tokens=5))
    assert story.state.conversation.tokens > counted


def test_what_a_call_did_not_cost_is_free_again():
    story = begun()
    before = story.state.funds.grants[0].left_microusd
    story.step()
    assert story.state.funds.grants[0].left_microusd == before - story.last(ModelCallStarted).reserve_microusd
    story.do(answer(tool_use()))
    assert story.state.funds.grants[0].left_microusd == before - story.state.funds.spent


def test_an_expired_grant_covers_nothing():
    story = begun()
    story.passes(3_600)
    assert [event.type for event in story.step()] == ["budget.requested"]


def test_a_crash_in_a_call_counts_its_worst_case_and_tries_again():
    story = begun()
    story.step()
    reserve = story.last(ModelCallStarted).reserve_microusd
    story.do(AbandonCall())
    failed = story.last(ModelCallFailed)
    assert (failed.kind, failed.cost_microusd) == ("abandoned", reserve)
    assert story.state.funds.spent == reserve
    if not isinstance(story.next(), StartCall):
        story.step()
        story.granted()
    story.step()
    started = story.last(ModelCallStarted)
    assert (started.turn, started.attempt) == (1, 2)


def test_a_late_answer_to_an_abandoned_call_is_not_used():
    story = begun()
    story.step()
    story.do(AbandonCall())
    assert story.do(answer(tool_use())) == ()


def test_repetition_is_told_once_and_then_ends_the_build():
    story = begun()
    for _ in range(3):
        assert "agent.steered" not in story.types()
        story.thinks(tool_use())
        story.results()
    story.step()
    assert story.last(AgentSteered).reason == "repetition"
    story.do(answer(tool_use()))
    story.results()
    for _ in range(2):
        story.thinks(tool_use())
        story.results()
    story.step()
    assert story.last(BuildFailed).reason == "repetition"


def test_a_repeated_call_with_new_results_is_progress():
    story = begun()
    for number in range(12):
        story.thinks(tool_use(given={"command": "sleep 2; tail -1 job.log"}))
        story.results(output=f"{number} of 12 files")
    story.step()
    assert "agent.steered" not in story.types()


@pytest.mark.parametrize("result", [{}, {"output": "other"}, {"exit_code": 3}, {"is_error": True}])
def test_any_part_of_a_result_that_changes_is_progress(result):
    story = begun()
    for changes in ({}, {}, result):
        story.thinks(tool_use())
        story.results(**changes)
    story.step()
    assert ("agent.steered" in story.types()) == (result == {})


def test_a_slow_job_that_moves_on_is_warned_and_never_ended():
    story = begun()
    for number in range(18):
        story.thinks(tool_use(given={"command": "sleep 60; tail -1 job.log"}))
        story.results(output=f"step {number // 3}")
    assert story.last(AgentSteered).reason == "repetition"
    assert story.state.mode is RunMode.RUNNING
    for _ in range(8):
        if story.state.mode is RunMode.RUNNING:
            story.thinks(tool_use(given={"command": "sleep 60; tail -1 job.log"}))
            story.results(output="step 5")
            if isinstance(story.next(), Fail):
                story.step()
    assert story.last(BuildFailed).reason == "repetition"


def test_whoever_edits_and_runs_the_tests_again_and_again_gets_on():
    story = begun()
    for number in range(12):
        story.thinks(
            tool_use("edit_file", {"file_path": "a.py", "old_string": f"{number}", "new_string": "x"})
        )
        story.results()
        story.thinks(tool_use(given={"command": "make test"}))
        story.results(is_error=True, exit_code=1)
    assert "agent.steered" not in story.types()


def test_whoever_looks_at_what_runs_in_the_background_waits_and_goes_in_no_circle():
    story = begun()
    for _ in range(6):
        story.thinks(tool_use(given={"action": "read", "handle": "b1/1/0"}))
        story.results()
    assert "agent.steered" not in story.types()


def test_a_circle_of_two_calls_is_one_too():
    story = begun()
    for number in range(5):
        story.thinks(tool_use(given={"command": ("ls", "pwd")[number % 2]}))
        story.results()
    story.step()
    assert story.last(AgentSteered).reason == "repetition"


def test_the_same_call_now_and_then_is_no_repetition():
    story = begun()
    for number in range(12):
        same = number % 5 == 0
        story.thinks(tool_use(given={"command": "same" if same else f"echo {number}"}))
        story.results()
    assert "agent.steered" not in story.types()


def test_a_cut_answer_runs_nothing_and_is_continued_until_it_is_too_much():
    story = begun(policy=Policy(max_cuts=2))
    for _ in range(2):
        events = story.thinks(text("…"), tool_use(), stop_reason="max_tokens")
        assert not requested(events)
        assert story.last(AgentSteered).reason == "max_tokens"
    story.thinks(text("…"), stop_reason="max_tokens")
    assert story.last(BuildFailed).reason == "max_tokens"


@pytest.mark.parametrize(
    ("stop_reason", "reason"), [("refusal", "refusal"), ("model_context_window_exceeded", "model_error")]
)
def test_what_the_model_will_not_go_on_with_ends_the_build(stop_reason, reason):
    story = begun()
    story.thinks(text("No."), stop_reason=stop_reason)
    assert story.last(BuildFailed).reason == reason
    assert story.last(BuildFailed).cost_microusd == story.state.funds.spent > 0
    assert story.state.phase is Phase.FAILED


def test_the_limit_of_tool_calls_is_told_before_it_ends_the_build():
    story = begun(policy=Policy(tool_call_limit=10))
    for number in range(10):
        story.thinks(tool_use(given={"command": f"echo {number}"}))
        story.results()
    assert [event.data.reason for event in story.log if isinstance(event.data, AgentSteered)] == ["turns"]
    story.step()
    assert story.last(BuildFailed).reason == "tool_call_limit"


def test_the_limit_of_turns_ends_the_build():
    story = begun(policy=Policy(turn_limit=2))
    for number in range(2):
        story.thinks(tool_use(given={"command": f"echo {number}"}))
        story.results()
    story.step()
    assert story.last(BuildFailed).reason == "turn_limit"


def test_the_deadline_ends_a_build_whatever_it_does():
    request = REQUEST.model_copy(update={"deadline": NOW + timedelta(minutes=5)})
    story = begun(request=request)
    story.step()
    story.passes(300)
    story.step()
    assert story.last(BuildFailed).reason == "deadline"
    assert story.last(ModelCallFailed).cost_microusd == story.last(ModelCallStarted).reserve_microusd


def test_a_cancel_stops_the_call_at_what_was_seen_of_it_and_waits_for_no_tool():
    story = begun()
    story.step()
    seen = Usage(input_tokens=100, output_tokens=1)
    story.do(CancelBuild("enough", NOW_CAUSE, seen))
    assert story.last(ModelCallFailed).kind == "cancelled"
    assert story.last(BuildCancelled).cost_microusd == story.state.funds.spent == 315
    other = begun()
    other.thinks(tool_use())
    other.do(CancelBuild("enough", NOW_CAUSE))
    assert other.next() == Ended()
    assert other.do(CancelBuild("again", NOW_CAUSE)) == ()


def test_a_persons_message_comes_after_the_results_of_the_turn():
    story = begun()
    story.thinks(tool_use())
    story.do(TellAgent("use blue", NOW_CAUSE))
    story.results()
    story.step()
    assert [type(entry).__name__ for entry in story.state.conversation.entries] == [
        "AssistantSaid",
        "ToolsAnswered",
        "UserSaid",
    ]


def test_the_agent_hears_that_its_sandbox_is_a_fresh_one_and_its_preview_is_gone():
    story = working()
    story.others(PreviewOpened(sandbox_id="s1", port=8000, url="http://x"))
    story.thinks(tool_use(given={"command": "ls"}))
    story.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
    digest = "sha256:" + "0" * 64
    story.others(
        SandboxRestored(
            sandbox_id="s2", from_snapshot="k", tree_digest=digest, files=3, healed=0, lost=("a.txt",)
        )
    )
    story.results()
    story.step()
    steered = story.last(AgentSteered)
    assert steered.reason == "sandbox_restored"
    assert "a.txt" in steered.message
    assert story.state.workspace.preview_url is None
    story.do(answer(tool_use(given={"command": "pwd"})))
    story.results()
    assert [event.type for event in story.step()] == ["checkpoint.saved", "model_call.started"]


def test_the_agent_hears_of_a_lost_sandbox_what_is_gone_with_it():
    story = working()
    story.others(SandboxOpened(sandbox_id="s1", driver="local", generation=1))
    story.others(SandboxLost(sandbox_id="s1", detail="its process ended"))
    story.step()
    assert "workspace of the last snapshot" in story.last(AgentSteered).message


def test_the_agent_hears_that_nothing_of_its_work_could_be_restored():
    story = working()
    story.thinks(tool_use(given={"command": "ls"}))
    story.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
    empty = "sha256:" + "0" * 64
    story.others(
        SandboxRestored(sandbox_id="s2", from_snapshot="k", tree_digest=empty, files=0, healed=0, lost=(".",))
    )
    story.results()
    story.step()
    assert "its workspace is empty" in story.last(AgentSteered).message


def test_a_command_gets_more_time_when_it_asks_for_it():
    story = begun()
    (call,) = requested(story.thinks(tool_use(given={"command": "make", "timeout_s": 900})))
    assert call.timeout_s > 900
    assert isinstance(call, ToolCallRequested)


def test_deciding_twice_gives_the_same_events():
    story = working()
    step = story.next()
    assert decide(story.state, step, story.now, story.policy) == decide(
        story.state, step, story.now, story.policy
    )
