"""Calls that fail: what is tried again and when, what sleeps, what ends the build."""

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from tests.unit.orchestrator.story import Story, answer, begun, text, tool_use

from nightshift.contracts.events.build import (
    BuildFailed,
    BuildStalled,
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
    StartCall,
    StopOnFault,
)
from nightshift.orchestrator.domain.next_step import Asleep, AwaitTime
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode


def started(**more) -> Story:
    story = begun(**more)
    story.step()
    return story


def again(story: Story) -> None:
    """The next attempt, when its time has come."""
    story.passes(200)
    while not isinstance(story.next(), StartCall):
        story.step()
        story.granted()
    story.step()


@pytest.mark.parametrize(
    "kind", ["rate_limited", "overloaded", "server", "connection", "stream_cut", "malformed"]
)
def test_what_passes_by_itself_is_tried_again(kind):
    story = started()
    story.do(CallFailed(kind, "no"))
    step = story.next()
    assert isinstance(step, AwaitTime)
    assert story.now < step.until <= story.now + timedelta(seconds=Policy().first_backoff_s)
    again(story)
    assert (story.last(ModelCallStarted).turn, story.last(ModelCallStarted).attempt) == (1, 2)


@pytest.mark.parametrize(("kind", "status"), [("invalid", 400), ("unknown", None)])
def test_what_does_not_pass_ends_the_build_with_its_reason(kind, status):
    story = started()
    story.do(CallFailed(kind, "credit balance is too low", status=status))
    failed = story.last(BuildFailed)
    assert failed.reason == "model_error"
    assert "credit balance is too low" in failed.detail
    assert story.last(ModelCallFailed).retry_at is None


def test_the_provider_says_how_long():
    story = started()
    story.do(CallFailed("rate_limited", "no", status=429, retry_after_s=42.0))
    assert story.next() == AwaitTime(story.now + timedelta(seconds=42))


@pytest.mark.parametrize("retry_after_s", [99999999999999.0, 86_401.0, math.inf, math.nan, -math.inf, -5.0])
def test_a_wait_that_no_provider_means_is_bounded_and_free(retry_after_s):
    story = started()
    story.do(CallFailed("rate_limited", "no", status=429, retry_after_s=retry_after_s))
    assert story.now < story.last(ModelCallFailed).retry_at <= story.now + timedelta(days=1)
    assert story.state.funds.spent == 0
    again(story)
    assert story.last(ModelCallStarted).attempt == 2


def test_a_wait_of_a_day_is_slept():
    story = started()
    story.do(CallFailed("rate_limited", "no", status=429, retry_after_s=86_400.0))
    assert story.last(SleepRequested).wake_at == story.now + timedelta(days=1)


@pytest.mark.parametrize("status", [400, 401, 402, 403])
def test_a_refused_key_waits_for_a_person_and_costs_nothing(status):
    story = started(policy=Policy(provider_sleeps=1))
    for _ in range(4):
        story.do(CallFailed("auth", "credit balance is too low", status=status))
        failed, slept = story.last(ModelCallFailed), story.last(SleepRequested)
        assert (failed.kind, failed.detail, failed.retry_at) == (
            "auth",
            "credit balance is too low",
            slept.wake_at,
        )
        assert slept.reason == "provider"
        story.woken()
        again(story)
    story.do(answer(text()))
    assert story.state.mode is RunMode.RUNNING
    assert story.state.funds.spent == story.last(ModelCallResponded).cost_microusd


@pytest.mark.parametrize(
    "outcome",
    [
        AbandonCall(),
        CallFailed("malformed", "no", maybe_billed=True),
        CallFailed("stream_cut", "no", usage=Usage(input_tokens=9), maybe_billed=True),
    ],
)
def test_calls_that_cost_money_without_an_answer_are_bounded(outcome):
    story, calls = started(policy=Policy(attempts=3, provider_sleeps=2)), 0
    while story.state.mode is not RunMode.ENDED:
        story.do(outcome)
        calls += 1
        if story.state.mode is RunMode.SLEEPING:
            story.passes(3_600)
            story.woken()
        if story.state.mode is not RunMode.ENDED:
            again(story)
    assert calls == 3 + 2
    assert story.last(BuildFailed).reason == "model_error"


def test_a_fault_during_a_call_stops_the_build_until_a_person_wakes_it():
    story = started()
    events = story.do(StopOnFault("OverflowError: date value out of range", Usage(input_tokens=9)))
    assert [event.type for event in events] == ["model_call.failed", "build.stalled", "sleep.requested"]
    assert story.last(ModelCallFailed).cost_microusd == 27
    assert "OverflowError" in story.last(BuildStalled).detail
    assert "nightshift wake" in story.last(BuildStalled).action
    assert story.last(SleepRequested).wake_at is None
    assert story.next() == Asleep()


def test_a_reported_stall_changes_nothing_that_is_decided_next():
    story = begun()
    before, step = story.state, story.next()
    story.do(ReportStall("dependency", "no object store", UUID(int=5)))
    assert story.next() == step
    assert replace(story.state, version=before.version) == before


def test_the_wait_grows():
    story, waits = started(policy=Policy(attempts=6)), []
    for _ in range(4):
        story.do(CallFailed("overloaded", "no", status=529))
        waits.append(story.last(ModelCallFailed).retry_at - story.now)
        again(story)
    assert all(later > earlier / 2 for earlier, later in pairwise(waits))
    assert waits[-1] > 2 * waits[0]


def test_a_long_wait_is_slept_and_the_build_is_woken_for_it():
    story = started()
    story.do(CallFailed("rate_limited", "no", status=429, retry_after_s=3_600.0))
    slept = story.last(SleepRequested)
    assert (slept.reason, slept.wake_at) == ("provider", story.now + timedelta(hours=1))
    assert story.state.mode is RunMode.SLEEPING
    story.passes(3_600)
    story.woken()
    story.step()
    story.granted()
    story.step()
    assert story.last(ModelCallStarted).attempt == 2


def test_too_many_attempts_become_a_sleep_and_too_many_sleeps_an_end():
    story = started(policy=Policy(attempts=2, provider_sleeps=1))
    for _ in range(2):
        story.do(CallFailed("server", "no", status=500))
        if story.state.mode is RunMode.RUNNING:
            again(story)
    assert story.state.mode is RunMode.SLEEPING
    story.passes(3_600)
    story.woken()
    story.step()
    story.granted()
    story.step()
    story.do(CallFailed("server", "no", status=500))
    again(story)
    story.do(CallFailed("server", "no", status=500))
    assert story.last(BuildFailed).reason == "model_error"


def test_an_answer_forgets_the_trouble():
    story = started()
    story.do(CallFailed("server", "no", status=500))
    again(story)
    story.do(answer(tool_use()))
    assert story.state.counters.failures == 0


def test_a_stream_that_broke_is_billed_at_what_was_seen_or_at_its_worst():
    story = started()
    story.do(
        CallFailed("stream_cut", "cut", usage=Usage(input_tokens=1_000, output_tokens=10), maybe_billed=True)
    )
    assert story.last(ModelCallFailed).cost_microusd == 3_150
    again(story)
    story.do(CallFailed("stream_cut", "cut", maybe_billed=True))
    assert story.last(ModelCallFailed).cost_microusd == story.last(ModelCallStarted).reserve_microusd
    again(story)
    story.do(CallFailed("rate_limited", "no", status=429))
    assert story.last(ModelCallFailed).cost_microusd == 0
    again(story)
    story.do(answer(text()))
    total = sum(
        getattr(one.data, "cost_microusd", 0) for one in story.log if one.data.type.startswith("model_call")
    )
    assert story.state.funds.spent == total
