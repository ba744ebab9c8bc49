"""Model calls that fail: which are retried and when, which make the build sleep, which end it."""

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    NOW,
    REQUEST,
    BuildScenario,
    answer,
    begun,
    text,
    tool_use,
)

from nightshift.contracts.events.build import (
    BuildFailed,
    BuildStalled,
    BuildWaiting,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    SleepRequested,
    Usage,
)
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    CallFailed,
    ReportStall,
    ResumeFromProvider,
    StartCall,
    StopOnFault,
)
from nightshift.orchestrator.domain.next_step import Asleep, AwaitProvider, AwaitTime
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode


def started(**more) -> BuildScenario:
    scenario = begun(**more)
    scenario.step()
    return scenario


def again(scenario: BuildScenario) -> None:
    """Make the next attempt after its wait."""
    scenario.passes(200)
    while not isinstance(scenario.next(), StartCall):
        scenario.step()
        scenario.granted()
    scenario.step()


@pytest.mark.parametrize(
    "kind", ["rate_limited", "overloaded", "server", "connection", "stream_cut", "malformed"]
)
def test_failures_that_pass_by_themselves_are_retried(kind):
    scenario = started()
    scenario.do(CallFailed(kind, "no"))
    step = scenario.next()
    assert isinstance(step, AwaitTime)
    assert scenario.now < step.until <= scenario.now + timedelta(seconds=Policy().first_backoff_s)
    again(scenario)
    assert (scenario.last(ModelCallStarted).turn, scenario.last(ModelCallStarted).attempt) == (1, 2)


@pytest.mark.parametrize(("kind", "status"), [("invalid", 400), ("unknown", None)])
def test_failures_that_do_not_pass_end_the_build(kind, status):
    scenario = started()
    scenario.do(CallFailed(kind, "credit balance is too low", status=status))
    failed = scenario.last(BuildFailed)
    assert failed.reason == "model_error"
    assert "credit balance is too low" in failed.detail
    assert scenario.last(ModelCallFailed).retry_at is None


def test_the_provider_says_how_long():
    scenario = started()
    scenario.do(CallFailed("rate_limited", "no", status=429, retry_after_s=42.0))
    assert scenario.next() == AwaitTime(scenario.now + timedelta(seconds=42))


@pytest.mark.parametrize("retry_after_s", [99999999999999.0, 86_401.0, math.inf, math.nan, -math.inf, -5.0])
def test_a_wait_that_no_provider_means_is_bounded_and_free(retry_after_s):
    scenario = started()
    scenario.do(CallFailed("rate_limited", "no", status=429, retry_after_s=retry_after_s))
    assert scenario.now < scenario.last(ModelCallFailed).retry_at <= scenario.now + timedelta(days=1)
    assert scenario.state.funds.spent == 0
    again(scenario)
    assert scenario.last(ModelCallStarted).attempt == 2


def test_a_wait_of_a_day_is_slept():
    scenario = started()
    scenario.do(CallFailed("rate_limited", "no", status=429, retry_after_s=86_400.0))
    assert scenario.last(SleepRequested).wake_at == scenario.now + timedelta(days=1)


@pytest.mark.parametrize(
    ("kind", "status"), [("auth", 401), ("auth", 403), ("credit", 402), ("credit", 400), ("usage_limit", 429)]
)
def test_a_refused_key_waits_for_the_provider_and_counts_nothing(kind, status):
    scenario = started(policy=Policy(provider_sleeps=1, attempts=2))
    before = scenario.state.counters
    for _ in range(9):
        events = scenario.do(CallFailed(kind, "key k: no", status=status))
        assert [event.type for event in events] == ["model_call.failed", "build.waiting"]
        failed, waiting = events
        assert (failed.retry_at, failed.cost_microusd) == (None, 0)
        assert (waiting.reason, waiting.detail) == ("provider", f"{kind} (status {status}): key k: no")
        assert (scenario.next(), scenario.state.counters) == (AwaitProvider(), before)
        assert [event.type for event in scenario.do(ResumeFromProvider())] == [
            "build.resumed",
            "budget.requested",
        ]
        scenario.granted()
        scenario.step()
    scenario.do(answer(text()))
    assert scenario.state.mode is RunMode.RUNNING
    assert scenario.state.funds.spent == scenario.last(ModelCallResponded).cost_microusd


def test_a_wait_for_the_provider_ends_at_the_deadline():
    deadline = NOW + timedelta(hours=1)
    scenario = started(request=REQUEST.model_copy(update={"deadline": deadline}))
    scenario.do(CallFailed("auth", "no", status=401))
    assert scenario.last(BuildWaiting).until == deadline
    scenario.passes(3_600)
    scenario.step()
    assert scenario.last(BuildFailed).reason == "deadline"


@pytest.mark.parametrize("kind", ["rate_limited", "overloaded"])
def test_a_provider_without_room_never_fails_a_build(kind):
    scenario = started(policy=Policy(attempts=2, provider_sleeps=1))
    for _ in range(20):
        scenario.do(CallFailed(kind, "no", status=429))
        if scenario.state.mode is RunMode.SLEEPING:
            scenario.passes(3_600)
            scenario.woken()
        again(scenario)
    assert scenario.state.funds.spent == 0


@pytest.mark.parametrize(
    "outcome",
    [
        AbandonCall(),
        CallFailed("malformed", "no", maybe_billed=True),
        CallFailed("stream_cut", "no", usage=Usage(input_tokens=9), maybe_billed=True),
    ],
)
def test_calls_that_cost_money_without_an_answer_are_bounded(outcome):
    scenario, calls = started(policy=Policy(attempts=3, provider_sleeps=2)), 0
    while scenario.state.mode is not RunMode.ENDED:
        scenario.do(outcome)
        calls += 1
        if scenario.state.mode is RunMode.SLEEPING:
            scenario.passes(3_600)
            scenario.woken()
        if scenario.state.mode is not RunMode.ENDED:
            again(scenario)
    assert calls == 3 + 2
    assert scenario.last(BuildFailed).reason == "model_error"


def test_a_fault_during_a_call_sleeps_until_a_person_wakes():
    scenario = started()
    events = scenario.do(StopOnFault("OverflowError: date value out of range", Usage(input_tokens=9)))
    assert [event.type for event in events] == ["model_call.failed", "build.stalled", "sleep.requested"]
    assert scenario.last(ModelCallFailed).cost_microusd == 27
    assert "OverflowError" in scenario.last(BuildStalled).detail
    assert "nightshift wake" in scenario.last(BuildStalled).action
    assert scenario.last(SleepRequested).wake_at is None
    assert scenario.next() == Asleep()


def test_a_reported_stall_changes_nothing_that_is_decided_next():
    scenario = begun()
    before, step = scenario.state, scenario.next()
    scenario.do(ReportStall("dependency", "no object store", UUID(int=5)))
    assert scenario.next() == step
    assert replace(scenario.state, version=before.version) == before


def test_the_wait_grows():
    scenario, waits = started(policy=Policy(attempts=6)), []
    for _ in range(4):
        scenario.do(CallFailed("overloaded", "no", status=529))
        waits.append(scenario.last(ModelCallFailed).retry_at - scenario.now)
        again(scenario)
    assert all(later > earlier / 2 for earlier, later in pairwise(waits))
    assert waits[-1] > 2 * waits[0]


def test_a_long_wait_is_slept_and_the_build_is_woken_for_it():
    scenario = started()
    scenario.do(CallFailed("rate_limited", "no", status=429, retry_after_s=3_600.0))
    slept = scenario.last(SleepRequested)
    assert (slept.reason, slept.wake_at) == ("provider", scenario.now + timedelta(hours=1))
    assert scenario.state.mode is RunMode.SLEEPING
    scenario.passes(3_600)
    scenario.woken()
    scenario.step()
    scenario.granted()
    scenario.step()
    assert scenario.last(ModelCallStarted).attempt == 2


def test_too_many_attempts_become_a_sleep_and_too_many_sleeps_an_end():
    scenario = started(policy=Policy(attempts=2, provider_sleeps=1))
    for _ in range(2):
        scenario.do(CallFailed("stream_cut", "no", maybe_billed=True))
        if scenario.state.mode is RunMode.RUNNING:
            again(scenario)
    assert scenario.state.mode is RunMode.SLEEPING
    scenario.passes(3_600)
    scenario.woken()
    scenario.step()
    scenario.granted()
    scenario.step()
    scenario.do(CallFailed("stream_cut", "no", maybe_billed=True))
    assert scenario.last(BuildFailed).reason == "model_error"


def test_an_outage_that_costs_nothing_ends_no_build():
    scenario = started(policy=Policy(attempts=2, provider_sleeps=1))
    for _ in range(8):
        scenario.do(CallFailed("connection", "no route", status=None))
        if scenario.state.mode is RunMode.SLEEPING:
            scenario.passes(3_600)
            scenario.woken()
            scenario.step()
            scenario.granted()
            scenario.step()
        else:
            again(scenario)
    assert scenario.state.mode is RunMode.RUNNING


def test_an_answer_resets_the_failures():
    scenario = started()
    scenario.do(CallFailed("server", "no", status=500))
    again(scenario)
    scenario.do(answer(tool_use()))
    assert scenario.state.counters.failures == 0


def test_a_broken_stream_costs_its_usage_or_its_worst_case():
    scenario = started()
    scenario.do(
        CallFailed("stream_cut", "cut", usage=Usage(input_tokens=1_000, output_tokens=10), maybe_billed=True)
    )
    assert scenario.last(ModelCallFailed).cost_microusd == 3_150
    again(scenario)
    scenario.do(CallFailed("stream_cut", "cut", maybe_billed=True))
    assert scenario.last(ModelCallFailed).cost_microusd == scenario.last(ModelCallStarted).reserve_microusd
    again(scenario)
    scenario.do(CallFailed("rate_limited", "no", status=429))
    assert scenario.last(ModelCallFailed).cost_microusd == 0
    again(scenario)
    scenario.do(answer(text()))
    total = sum(
        getattr(one.data, "cost_microusd", 0)
        for one in scenario.log
        if one.data.type.startswith("model_call")
    )
    assert scenario.state.funds.spent == total
