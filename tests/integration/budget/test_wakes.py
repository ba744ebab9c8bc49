"""A build wakes only with the money for its next call, whoever wakes it, and waits no longer than it must."""

import asyncio
from datetime import timedelta
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from tests.support.budget_rig import DAY, BudgetRig, accepted

from nightshift.contracts.events.account import AccountBudgetSet, AccountToppedUp
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import BuildCancelled, BuildWaiting, BuildWoken, EscalationRaised
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Refused, Unavailable

BUILDS = [f"b{n}" for n in range(6)]


async def sleepers(rig: BudgetRig, minimum: int, builds=BUILDS, amount: int = 500_000) -> None:
    """Builds that were denied because one holder has the whole day, and that sleep until the next one."""
    rig.restart(grant_lasts=timedelta(days=1))  # no grant expires at the hours that the tests name
    await rig.granted("holder", DAY)
    refresh = (await rig.account()).period.start + timedelta(hours=1)
    for build in builds:
        await rig.granted(build, max(amount, minimum), minimum)
        assert await rig.facts(build, BudgetDenied)
        await rig.sleep(build, wake_at=refresh)


async def woken(rig: BudgetRig, builds=BUILDS) -> list[str]:
    return [build for build in builds if await rig.facts(build, WakeRequested)]


async def wakes_and_asks(rig: BudgetRig, build: str, minimum: int, amount: int = 500_000) -> None:
    """What a woken build does: it asks for the money of its next call."""
    await rig.add(build, BuildWoken(reason="refresh"))
    await rig.granted(build, max(amount, minimum), minimum)


async def test_only_as_many_wake_at_midnight_as_can_be_paid(rig: BudgetRig) -> None:
    await sleepers(rig, 300_000)
    await rig.later(timedelta(hours=1))
    tomorrow = (await rig.account()).period.start + timedelta(hours=2, minutes=1)
    await rig.deliver(await rig.add("holder", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    await rig.tick(tomorrow)
    first = await woken(rig)
    assert first == BUILDS[:3]
    for build in first:
        await wakes_and_asks(rig, build, 300_000)
        assert len(await rig.facts(build, BudgetDenied)) == 1, "a wake ended in a denial"


async def test_wakes_in_a_row_promise_no_money_twice(rig: BudgetRig) -> None:
    """Money came back for one of two; another replica looks before the woken build has asked for it."""
    await sleepers(rig, 600_000, ["b0", "b1"])
    await rig.deliver(await rig.add("holder", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    await rig.look()
    rig.restart()
    await rig.look()
    assert await woken(rig) == ["b0"]
    await wakes_and_asks(rig, "b0", 600_000)
    assert len(await rig.facts("b0", BudgetDenied)) == 1


async def test_replicas_that_wake_at_once_never_reserve_more_than_the_day(rig: BudgetRig) -> None:
    await sleepers(rig, 300_000)
    await rig.deliver(await rig.add("holder", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    replicas = [rig.restart() for _ in range(3)]
    await asyncio.gather(*(one.wakes.wake_for_released_money() for one in replicas))
    assert len(await woken(rig)) == 3
    assert (await rig.account()).pending <= DAY


async def test_a_woken_build_asks_again_and_keeps_its_money(rig: BudgetRig) -> None:
    """The request settles what the wake reserved and reserves anew in one transaction: nobody comes between."""
    await sleepers(rig, 900_000, ["b0"])
    await rig.deliver(await rig.add("holder", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    await rig.look()
    await rig.add("b0", BuildWoken(reason="top_up"))
    asked = await rig.ask("b0", 950_000, 900_000)
    rivals = [await rig.ask(f"rival{n}", 500_000, 200_000) for n in range(4)]
    await asyncio.gather(*(rig.replica.deliver(one) for one in (*rivals, asked)))
    assert asked.data.lease_id in [one.lease_id for one in await rig.facts("b0", BudgetGranted)]


async def test_a_sleeper_that_cannot_be_paid_wakes_when_money_comes_back(rig: BudgetRig) -> None:
    await sleepers(rig, 400_000, ["b0"])
    due = (await rig.account()).period.start + timedelta(minutes=61)
    rig.restart()
    await rig.tick(due)
    assert await woken(rig) == []
    assert await rig.waiting(PendingKind.SLEEPER) == ["b0"]
    await rig.deliver(rig.request(AccountToppedUp(account_id="ada", amount_microusd=450_000), "ada"))
    assert await woken(rig) == ["b0"]


async def test_unpaid_sleepers_do_not_hide_those_who_can_be_paid(rig: BudgetRig, monkeypatch) -> None:
    monkeypatch.setattr("nightshift.budget.usecases.wake_scheduler.BATCH", 3)
    await sleepers(rig, DAY, [*BUILDS, "z"])
    await rig.deliver(await rig.add("z", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    await rig.add("rich", accepted("rich"))
    due = (await rig.account()).period.start + timedelta(hours=1)
    await rig.sleep("rich", wake_at=due + timedelta(seconds=1), reason="provider")
    for second in range(4):
        await rig.tick(due + timedelta(minutes=1, seconds=second))
    assert await woken(rig, [*BUILDS, "rich"]) == ["rich"]


async def test_a_deadline_wakes_a_build_that_cannot_be_paid(rig: BudgetRig) -> None:
    """It costs nothing: the build fails at its deadline instead of sleeping past it."""
    await rig.granted("holder", DAY)
    deadline = (await rig.account()).period.start + timedelta(minutes=10)
    await rig.add("b0", accepted("b0", deadline=deadline))
    await rig.granted("b0", 500_000, 400_000)
    await rig.sleep("b0", wake_at=deadline)
    await rig.tick(deadline - timedelta(seconds=1))
    assert await woken(rig) == []
    await rig.tick(deadline + timedelta(seconds=1))
    assert await woken(rig) == ["b0"]
    assert await rig.facts("b0", BudgetGranted) == []


async def test_a_person_cannot_wake_a_build_that_cannot_be_paid(rig: BudgetRig) -> None:
    await sleepers(rig, 400_000, ["b0"])
    with pytest.raises(Refused, match="0 microdollars left") as refused:
        await rig.deliver(rig.request(BuildWakeAsked(build_id="b0"), "b0"))
    assert "top-up ada" in (refused.value.hint or "")
    assert await rig.waiting(PendingKind.SLEEPER) == ["b0"]


async def test_a_provider_sleeper_wakes_with_the_money_of_the_failed_call(rig: BudgetRig) -> None:
    asked = await rig.granted("b0", 500_000, 100_000)
    await rig.call("b0", asked.data.lease_id, reserve=350_000, answered=False)
    start = (await rig.account()).period.start
    await rig.sleep("b0", wake_at=start + timedelta(seconds=30), reason="provider")
    await rig.granted("other", 400_000, 1)
    await rig.tick(start + timedelta(seconds=31))
    assert await woken(rig, ["b0"]) == []  # 250,000 are left: enough for its last request, not for this call
    await rig.deliver(await rig.add("other", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    await rig.look()
    assert await woken(rig, ["b0"]) == ["b0"]


async def test_a_restarted_replica_wakes_sleepers_for_released_money(rig: BudgetRig) -> None:
    await sleepers(rig, 400_000, ["b0"])
    await rig.deliver(await rig.add("holder", BuildCancelled(reason="enough", cost_microusd=0, turns=1)))
    rig.restart()
    await rig.look()
    assert await woken(rig) == ["b0"]


async def waits_for_budget(rig: BudgetRig, build: str, minimum: int, *, kind: str = "day_limit") -> None:
    """A build whose next call costs more than a day has, and that asked a person about it."""
    await rig.add(build, accepted(build))
    await rig.granted(build, minimum, minimum)
    escalation = uuid4()
    raised = EscalationRaised(escalation_id=escalation, kind=kind, detail="…", options=("continue", "end"))
    waiting = BuildWaiting(reason="escalation", question_id=str(escalation))
    await rig.deliver(await rig.add(build, raised, waiting))


def budget_of(day: int) -> AccountBudgetSet:
    return AccountBudgetSet(account_id="ada", period_budget_microusd=day * 30, period_days=30)


async def test_a_raised_budget_wakes_builds_that_no_day_could_pay(rig: BudgetRig) -> None:
    await waits_for_budget(rig, "b0", 2 * DAY)
    await waits_for_budget(rig, "b1", 5 * DAY)
    await waits_for_budget(rig, "b2", 2 * DAY, kind="repetition")
    await rig.look()
    assert await woken(rig) == []
    await rig.deliver(rig.request(budget_of(3 * DAY), "ada"))
    assert await woken(rig) == ["b0"]
    await rig.deliver(rig.request(AccountToppedUp(account_id="ada", amount_microusd=4 * DAY), "ada"))
    assert await woken(rig) == ["b0", "b1"]
    assert await rig.waiting(PendingKind.WAITING) == ["b2"]


async def test_a_build_that_asks_after_the_budget_was_raised_goes_on(rig: BudgetRig) -> None:
    """Its denial, and the message about its wait, can come later than the budget."""
    await rig.granted("other", 1)
    await rig.deliver(rig.request(budget_of(3 * DAY), "ada"))
    await waits_for_budget(rig, "b0", 2 * DAY)
    assert await woken(rig) == ["b0"]


async def test_a_restarted_service_wakes_what_a_raised_budget_can_pay(rig: BudgetRig) -> None:
    await waits_for_budget(rig, "b0", 2 * DAY)
    rig.replica.wakes.limit_waits.wake_account = lambda account_id: asyncio.sleep(0)  # type: ignore[method-assign]
    await rig.deliver(rig.request(budget_of(3 * DAY), "ada"))
    assert await woken(rig) == []
    rig.restart()
    await rig.look()
    assert await woken(rig) == ["b0"]


async def test_a_wait_noted_by_a_replica_that_is_gone_is_found(rig: BudgetRig) -> None:
    """The note of another replica is gone with it: after a change of the group all waiting builds are read."""
    await waits_for_budget(rig, "b0", 2 * DAY)
    limit_waits = rig.replica.wakes.limit_waits
    await limit_waits.look()
    limit_waits._next_days.clear()
    limit_waits.wake_account = lambda account_id: asyncio.sleep(0)  # type: ignore[method-assign]
    await rig.deliver(rig.request(budget_of(3 * DAY), "ada"))
    await limit_waits.look()
    assert await woken(rig) == []
    limit_waits.look_at_all()
    await limit_waits.look()
    assert await woken(rig) == ["b0"]


async def test_a_look_that_fails_is_repeated(rig: BudgetRig, monkeypatch) -> None:
    await waits_for_budget(rig, "b0", 2 * DAY)
    limit_waits = rig.replica.wakes.limit_waits
    await limit_waits.look()
    limit_waits._next_days["ada"] = await rig.replica.wakes._ledger.now() - timedelta(seconds=1)
    with monkeypatch.context() as patched:
        patched.setattr(limit_waits, "wake_account", AsyncMock(side_effect=Unavailable("away")))
        with pytest.raises(Unavailable):
            await limit_waits.look()
    assert "ada" in limit_waits._next_days
