"""Money on a real database: many builds at once, repeats, expiry, and accounts that can be rebuilt from the log."""

import asyncio
from datetime import timedelta

import pytest
from tests.support.budget_rig import DAY, BudgetRig

from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled, WakeRequested
from nightshift.contracts.events.build import SleepRequested
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Refused


async def test_parallel_builds_never_reserve_more_than_the_day(rig: BudgetRig) -> None:
    asked = [await rig.ask(f"b{n}", 90_000, 40_000) for n in range(16)]
    await asyncio.gather(*(rig.deliver(event) for event in asked))
    granted = [fact for n in range(16) for fact in await rig.facts(f"b{n}", BudgetGranted)]
    denied = [fact for n in range(16) for fact in await rig.facts(f"b{n}", BudgetDenied)]
    assert sum(fact.amount_microusd for fact in granted) == 990_000
    assert len(granted) == 11
    assert len(denied) == 5
    account = await rig.account()
    assert (account.posted, account.pending) == (0, 990_000)


async def test_a_request_delivered_ten_times_to_two_replicas_reserves_once(rig: BudgetRig) -> None:
    event = await rig.ask("b", 100_000)
    await asyncio.gather(*(rig.deliver(event) for _ in range(10)))
    assert len(await rig.facts("b", BudgetGranted)) == 1
    assert (await rig.account()).pending == 100_000


async def test_a_repeated_request_that_was_denied_stays_denied(rig: BudgetRig) -> None:
    await rig.deliver(await rig.ask("rich", DAY))
    late = await rig.ask("b", 100_000)
    await rig.deliver(late)
    await rig.settle("rich")
    await rig.deliver(late)
    assert await rig.facts("b", BudgetGranted) == []
    assert len(await rig.facts("b", BudgetDenied)) == 1
    assert (await rig.account()).pending == 0


async def test_a_denial_tells_when_there_is_money_again(rig: BudgetRig) -> None:
    await rig.deliver(await rig.ask("rich", DAY))
    await rig.deliver(await rig.ask("b", 100_000))
    [denial] = await rig.facts("b", BudgetDenied)
    account = await rig.account()
    assert denial.refresh_at == account.period.start + timedelta(hours=1)
    assert denial.left_today_microusd == 0


async def test_a_new_request_gives_back_what_the_last_one_left(rig: BudgetRig) -> None:
    first = await rig.ask("b", 600_000)
    await rig.deliver(first)
    await rig.call("b", first.data.lease_id, cost=100_000, reserve=500_000, turn=1)
    await rig.deliver(await rig.ask("b", 900_000, 900_000))
    [settled] = await rig.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd, settled.released_microusd) == (
        "posted",
        100_000,
        500_000,
    )
    assert len(await rig.facts("b", BudgetGranted)) == 2
    account = await rig.account()
    assert (account.posted, account.pending) == (100_000, 900_000)


async def test_an_unanswered_call_is_posted_at_its_worst_case_at_expiry(
    rig: BudgetRig,
) -> None:
    rig.restart(grant_lasts=timedelta(milliseconds=1))
    asked = await rig.ask("b", 500_000)
    await rig.deliver(asked)
    await rig.call("b", asked.data.lease_id, cost=30_000, reserve=100_000, turn=1)
    await rig.call("b", asked.data.lease_id, cost=0, reserve=100_000, turn=2, answered=False)
    [item] = await rig.log.pending(PendingKind.RESERVATION)
    await rig.expire(item)
    assert await rig.facts("b", BudgetSettled) == []  # its owner, or the next one, may still end the call
    late = timedelta(hours=1)
    await asyncio.gather(rig.expire(item, late=late), rig.expire(item, late=late))
    [settled] = await rig.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd, settled.released_microusd) == (
        "expired",
        130_000,
        370_000,
    )
    assert settled.estimated_microusd == 100_000
    account = await rig.account()
    assert (account.posted, account.spent_in_period, account.estimated) == (130_000, 130_000, 100_000)


async def test_a_bill_over_the_reservation_is_posted_whole(rig: BudgetRig) -> None:
    asked = await rig.ask("b", 100_000)
    await rig.deliver(asked)
    await rig.call("b", asked.data.lease_id, cost=250_000, reserve=90_000, turn=1)
    await rig.settle("b")
    [settled] = await rig.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd) == ("overrun", 250_000)
    assert (await rig.account()).posted == 250_000


async def test_a_top_up_is_credited_once_and_wakes_its_sleepers(
    rig: BudgetRig,
) -> None:
    await rig.deliver(await rig.ask("b", DAY))
    far = (await rig.account()).period.start + timedelta(hours=1)
    for build, account in (("b", "ada"), ("c", "somebody-else")):
        await rig.add(build, SleepRequested(reason="budget", account_id=account, wake_at=far))
    asked = AccountToppedUp(account_id="ada", amount_microusd=70_000)
    event = rig.request(asked, "ada")
    await rig.deliver(event, event)
    assert (await rig.account()).left_today == 70_000
    [woken] = await rig.facts("b", WakeRequested)
    assert woken.reason == "top_up"
    assert await rig.facts("c", WakeRequested) == []


async def test_released_money_wakes_the_oldest_sleepers_it_suffices_for(
    rig: BudgetRig,
) -> None:
    holder = await rig.ask("holder", DAY)
    await rig.deliver(holder)
    for build, least in (("first", 400_000), ("second", 300_000), ("third", 500_000)):
        await rig.deliver(await rig.ask(build, DAY, least))
        assert await rig.facts(build, BudgetDenied)
        await _sleeps(rig, build)
    await rig.look()
    assert await _woken(rig) == []
    await rig.call("holder", holder.data.lease_id, cost=50_000, reserve=90_000, turn=1)
    await rig.settle("holder")
    await rig.look()
    assert await _woken(rig) == ["first", "second"]


async def test_a_sleeper_that_cannot_be_paid_stays_asleep(
    rig: BudgetRig,
) -> None:
    await rig.deliver(await rig.ask("first", DAY, DAY + 1))
    await rig.look()
    await _sleeps(rig, "first")
    for _ in range(3):
        await rig.look()
    assert await _woken(rig) == []


async def test_money_released_between_a_denial_and_its_sleep_is_found(rig: BudgetRig) -> None:
    await rig.deliver(await rig.ask("holder", DAY))
    await rig.deliver(await rig.ask("first", DAY, 400_000))
    await rig.settle("holder")
    await rig.look()
    await _sleeps(rig, "first")
    await rig.look()
    assert await _woken(rig) == ["first"]


async def _sleeps(rig: BudgetRig, build: str) -> None:
    await rig.sleep(build, wake_at=(await rig.account()).period.start + timedelta(hours=1))


async def _woken(rig: BudgetRig) -> list[str]:
    return [build for build in ("first", "second", "third") if await rig.facts(build, WakeRequested)]


async def test_a_sleeper_is_woken_once_whoever_comes_first(rig: BudgetRig) -> None:
    start = (await rig.ask("b", 1)).recorded_at
    await rig.add("b", SleepRequested(reason="budget", account_id="ada", wake_at=start))
    [item] = await rig.log.pending(PendingKind.SLEEPER, due_before=start + timedelta(seconds=1))
    asked = asyncio.gather(
        rig.deliver(rig.request(BuildWakeAsked(build_id="b"), "b")), return_exceptions=True
    )
    await asyncio.gather(*(rig.replica.wakes.wake_due([item], item.due_at) for _ in range(4)))
    [answer] = await asked
    # A person who comes after another waker is told that there is nothing to wake, as below.
    assert answer is None or isinstance(answer, Refused)
    assert len(await rig.facts("b", WakeRequested)) == 1
    assert await rig.log.pending(PendingKind.SLEEPER) == []
    with pytest.raises(Refused, match="not asleep"):
        await rig.deliver(rig.request(BuildWakeAsked(build_id="b"), "b"))


async def test_the_books_can_be_made_again_from_the_log(rig: BudgetRig) -> None:
    for turn, build in enumerate(("a", "b", "c", "a", "b")):
        asked = await rig.ask(build, 150_000)
        await rig.deliver(asked)
        await rig.call(build, asked.data.lease_id, cost=11_000 * (turn + 1), reserve=120_000, turn=turn)
    await rig.settle("c")
    posted = reserved = 0
    for build in ("a", "b", "c"):
        settled = await rig.facts(build, BudgetSettled)
        posted += sum(fact.posted_microusd for fact in settled)
        reserved += sum(fact.amount_microusd for fact in await rig.facts(build, BudgetGranted))
        reserved -= sum(fact.reserved_microusd for fact in settled)
    account = await rig.account()
    assert (account.posted, account.pending) == (posted, reserved)
    assert posted == 66_000
