"""Old messages that are delivered again, at any later time and to a process that remembers nothing, change nothing."""

from datetime import timedelta

import pytest
from tests.support.budget_rig import DAY, BudgetRig

from nightshift.contracts.events.account import (
    AccountBudgetSet,
    AccountOpened,
    AccountPolicyChanged,
    AccountPolicySet,
    AccountToppedUp,
)
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled, WakeRequested
from nightshift.contracts.events.build import BuildCancelled, BuildWoken, ModelCallStarted
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import BadMessage
from nightshift.eventlog.port import account_stream

CANCELLED = BuildCancelled(reason="enough", cost_microusd=0, turns=1)


async def test_an_answered_request_leaves_the_newer_grant_alone(rig: BudgetRig) -> None:
    """The broker came back empty and delivers the first request while a call runs under the second grant."""
    first = await rig.granted("b", 200_000)
    await rig.call("b", first.data.lease_id, reserve=150_000, cost=90_000)
    second = await rig.granted("b", 200_000)
    await rig.call("b", second.data.lease_id, reserve=150_000, turn=2, answered=False)
    rig.restart()
    await rig.deliver(first, second, first)
    await rig.answer_call("b", cost=30_000, turn=2)
    await rig.deliver(await rig.add("b", CANCELLED))
    assert [one.posted_microusd for one in await rig.facts("b", BudgetSettled)] == [90_000, 30_000]
    account = await rig.account()
    assert (account.posted, account.pending) == (120_000, 0)


async def test_a_denied_request_leaves_a_newer_grant_alone(rig: BudgetRig) -> None:
    holder = await rig.granted("holder", DAY)
    denied = await rig.granted("b", 200_000)
    assert await rig.facts("b", BudgetDenied)
    await rig.deliver(await rig.add("holder", CANCELLED))
    live = await rig.granted("b", 200_000)
    await rig.call("b", live.data.lease_id, reserve=150_000, answered=False)
    rig.restart()
    await rig.deliver(denied, holder, denied)
    assert await rig.facts("b", BudgetSettled) == []
    assert (await rig.account()).pending == 200_000


async def test_a_past_sleep_leaves_the_grant_of_a_woken_build_alone(rig: BudgetRig) -> None:
    await rig.granted("b", 200_000)
    slept = await rig.sleep("b")
    await rig.add("b", BuildWoken(reason="person"))
    live = await rig.granted("b", 300_000)
    await rig.call("b", live.data.lease_id, reserve=150_000, answered=False)
    rig.restart()
    await rig.deliver(slept)
    assert len(await rig.facts("b", BudgetSettled)) == 1
    assert (await rig.account()).pending == 300_000


async def test_a_past_wake_request_wakes_no_later_sleep(rig: BudgetRig) -> None:
    await rig.granted("b", 200_000)
    await rig.sleep("b", reason="person")
    asked = rig.request(BuildWakeAsked(build_id="b"), "b")
    await rig.deliver(asked)
    await rig.add("b", BuildWoken(reason="person"))
    rig.restart()
    await rig.deliver(asked)  # the build runs: the request was granted, so that nothing is refused either
    await rig.sleep("b", reason="person")
    rig.restart()
    await rig.deliver(asked)
    assert len(await rig.facts("b", WakeRequested)) == 1
    assert await rig.waiting(PendingKind.SLEEPER) == ["b"]


@pytest.mark.parametrize(
    "data",
    [
        AccountOpened(account_id="ada", period_budget_microusd=900, period_days=3),
        AccountBudgetSet(account_id="ada", period_budget_microusd=800, period_days=5),
        AccountToppedUp(account_id="ada", amount_microusd=70_000),
    ],
    ids=lambda data: data.type,
)
async def test_a_past_account_request_is_not_applied_again(rig: BudgetRig, data) -> None:
    """Also on a later day, after another request, when the same request would give other figures."""
    asked = rig.request(data, "ada")
    await rig.deliver(asked)
    await rig.deliver(
        rig.request(AccountBudgetSet(account_id="ada", period_budget_microusd=3_000, period_days=9), "ada")
    )
    await rig.later(timedelta(hours=30))
    before = await rig.account(), await rig.events(account_stream("ada"))
    rig.restart()
    await rig.deliver(asked)
    assert (await rig.account(), await rig.events(account_stream("ada"))) == before


async def test_a_request_of_an_ended_build_is_denied(rig: BudgetRig) -> None:
    """However the end and the request come: nothing waits for money that nobody can spend."""
    asked = await rig.ask("b", 200_000)
    ended = await rig.add("b", CANCELLED)
    await rig.deliver(ended, asked)
    [denied] = await rig.facts("b", BudgetDenied)
    assert denied.lease_id == asked.data.lease_id
    assert await rig.facts("b", BudgetGranted) == []
    assert await rig.waiting(PendingKind.BUDGET_REQUEST) == []
    assert (await rig.account()).pending == 0
    await rig.deliver(asked, ended)
    assert len(await rig.facts("b", BudgetDenied)) == 1


async def test_a_request_leaves_a_grant_with_a_call_in_flight_alone(rig: BudgetRig) -> None:
    """A build may begin a call under an older grant while its request waits, as after a wake that brought money."""
    first = await rig.granted("b", 200_000)
    asked = await rig.ask("b", 300_000)
    await rig.call("b", first.data.lease_id, reserve=150_000, answered=False)
    await rig.deliver(asked)
    assert await rig.facts("b", BudgetSettled) == []
    assert (await rig.account()).pending == 500_000
    await rig.answer_call("b", cost=30_000)
    await rig.deliver(await rig.add("b", CANCELLED))
    settled = await rig.facts("b", BudgetSettled)
    assert [(one.posted_microusd, one.estimated_microusd) for one in settled] == [(30_000, None), (0, None)]


async def test_a_past_expiry_leaves_a_settled_reservation_alone(rig: BudgetRig) -> None:
    rig.restart(grant_lasts=timedelta(milliseconds=1))
    first = await rig.granted("b", 200_000)
    [item] = await rig.log.pending(PendingKind.RESERVATION)
    await rig.expire(item)
    await rig.granted("b", 100_000)
    await rig.expire(item)
    assert [one.lease_id for one in await rig.facts("b", BudgetSettled)] == [first.data.lease_id]
    assert (await rig.account()).pending == 100_000


async def test_a_call_started_under_a_settled_grant_is_not_posted(rig: BudgetRig) -> None:
    """What was settled is settled: a repeat of the end adds nothing, whatever the stream holds by then."""
    asked = await rig.granted("b", 200_000)
    slept = await rig.sleep("b")
    common = {"turn": 1, "attempt": 1, "model": "scripted-1"}
    await rig.add("b", ModelCallStarted(**common, lease_id=asked.data.lease_id, reserve_microusd=5))
    await rig.deliver(slept)
    assert [one.posted_microusd for one in await rig.facts("b", BudgetSettled)] == [0]


async def test_a_policy_is_set_once_and_one_with_an_unknown_model_never(rig: BudgetRig) -> None:
    first = rig.request(AccountPolicySet(account_id="ada", models={"judge": "claude-opus-5-5"}), "ada")
    second = rig.request(AccountPolicySet(account_id="ada"), "ada")
    await rig.deliver(first, second)
    rig.restart()
    await rig.deliver(first, second)
    events = [event.data for event in await rig.events(account_stream("ada"))]
    changes = [event for event in events if isinstance(event, AccountPolicyChanged)]
    assert [one.models for one in changes] == [{"judge": "claude-opus-5-5"}, None]
    with pytest.raises(BadMessage, match="no model 'gpt'"):
        await rig.deliver(rig.request(AccountPolicySet(account_id="ada", models={"judge": "gpt"}), "ada"))
