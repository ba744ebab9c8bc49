"""Money on a real database: many builds at once, repeats, expiry, and books that can be made again from the log."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.usecases import Budget, Policy
from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    ModelCallResponded,
    ModelCallStarted,
    SleepRequested,
    Usage,
)
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import NewEvent, RecordedEvent, account_stream, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

DAY = 1_000_000
POLICY = Policy(
    default_period_budget=DAY * 30,
    default_period_days=30,
    default_time_zone="UTC",
    grant_lasts=timedelta(hours=1),
    day_seconds=3600.0,
)


class Desk:
    """A budget on a database of its own, and a hand that plays the orchestrator."""

    def __init__(
        self, budget: Budget, ledger: PostgresLedger, log: PostgresEventLog, builds: PostgresEventLog
    ) -> None:
        self.budget, self.ledger, self.log, self.builds = budget, ledger, log, builds

    async def ask(self, build: str, amount: int, minimum: int = 1) -> RecordedEvent:
        """Append a request for money, unanswered."""
        fact = BudgetRequested(
            lease_id=uuid4(), account_id="ada", amount_microusd=amount, minimum_microusd=minimum
        )
        return await self.add(build, fact)

    async def add(self, build: str, fact: object) -> RecordedEvent:
        appended = await self.builds.append(build_stream(build), [NewEvent(fact, uuid4())])
        async for event in self.builds.read_stream(build_stream(build), from_version=appended.version):
            return event
        raise AssertionError

    async def answer(self, event: RecordedEvent) -> None:
        await self.budget.answer(event, event.data)

    async def call(
        self, build: str, lease: UUID, *, cost: int, reserve: int, turn: int, answered: bool = True
    ) -> None:
        """A model call of the build under its lease."""
        common = {"turn": turn, "attempt": 1, "model": "scripted-1"}
        await self.add(build, ModelCallStarted(**common, lease_id=lease, reserve_microusd=reserve))
        if answered:
            await self.add(
                build,
                ModelCallResponded(
                    **common,
                    message_id="m",
                    content=(),
                    stop_reason="end_turn",
                    usage=Usage(),
                    price_version="1",
                    cost_microusd=cost,
                    latency_ms=1,
                    first_token_ms=1,
                ),
            )

    async def facts(self, build: str, kind: type) -> list[object]:
        return [e.data async for e in self.log.read_stream(build_stream(build)) if isinstance(e.data, kind)]

    async def account(self, name: str = "ada"):
        account = await self.ledger.account(name)
        assert account is not None
        return account


@pytest.fixture
async def desk(database) -> AsyncIterator[Desk]:
    pools = [
        log_database(PgConfig(dsn=database.dsn(role), max_connections=8))
        for role in ("nightshift_budget", "nightshift_orchestrator")
    ]
    log, builds = (PostgresEventLog(pool, actor="test", hint=False) for pool in pools)
    ledger = PostgresLedger(pools[0], log)
    yield Desk(Budget(log, ledger, POLICY), ledger, log, builds)
    for pool in pools:
        await pool.close()


async def test_parallel_builds_of_one_account_never_reserve_more_than_its_day(desk: Desk) -> None:
    asked = [await desk.ask(f"b{n}", 90_000, 40_000) for n in range(16)]
    await asyncio.gather(*(desk.answer(event) for event in asked))
    granted = [fact for n in range(16) for fact in await desk.facts(f"b{n}", BudgetGranted)]
    denied = [fact for n in range(16) for fact in await desk.facts(f"b{n}", BudgetDenied)]
    assert sum(fact.amount_microusd for fact in granted) == 990_000
    assert len(granted) == 11
    assert len(denied) == 5
    account = await desk.account()
    assert (account.posted, account.pending) == (0, 990_000)


async def test_a_request_delivered_ten_times_to_two_replicas_reserves_once(desk: Desk) -> None:
    event = await desk.ask("b", 100_000)
    await asyncio.gather(*(desk.answer(event) for _ in range(10)))
    assert len(await desk.facts("b", BudgetGranted)) == 1
    assert (await desk.account()).pending == 100_000


async def test_a_denial_delivered_again_when_there_is_money_is_still_a_denial(desk: Desk) -> None:
    await desk.answer(await desk.ask("rich", DAY))
    late = await desk.ask("b", 100_000)
    await desk.answer(late)
    await desk.budget.settle_build("rich")
    await desk.answer(late)
    assert await desk.facts("b", BudgetGranted) == []
    assert len(await desk.facts("b", BudgetDenied)) == 1
    assert (await desk.account()).pending == 0


async def test_a_denial_tells_when_there_is_money_again(desk: Desk) -> None:
    await desk.answer(await desk.ask("rich", DAY))
    await desk.answer(await desk.ask("b", 100_000))
    [denial] = await desk.facts("b", BudgetDenied)
    account = await desk.account()
    assert denial.refresh_at == account.period.start + timedelta(hours=1)
    assert denial.left_today_microusd == 0


async def test_a_new_request_gives_back_what_the_last_one_left(desk: Desk) -> None:
    first = await desk.ask("b", 600_000)
    await desk.answer(first)
    await desk.call("b", first.data.lease_id, cost=100_000, reserve=500_000, turn=1)
    await desk.answer(await desk.ask("b", 900_000, 900_000))
    [settled] = await desk.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd, settled.released_microusd) == (
        "posted",
        100_000,
        500_000,
    )
    assert len(await desk.facts("b", BudgetGranted)) == 2
    account = await desk.account()
    assert (account.posted, account.pending) == (100_000, 900_000)


async def test_a_call_without_an_answer_is_posted_at_its_worst_case_when_the_grant_expires(
    desk: Desk,
) -> None:
    desk.budget._policy = replace(POLICY, grant_lasts=timedelta(milliseconds=1))
    asked = await desk.ask("b", 500_000)
    await desk.answer(asked)
    await desk.call("b", asked.data.lease_id, cost=30_000, reserve=100_000, turn=1)
    await desk.call("b", asked.data.lease_id, cost=0, reserve=100_000, turn=2, answered=False)
    [item] = await desk.log.pending(PendingKind.RESERVATION)
    await asyncio.gather(desk.budget.expire(item), desk.budget.expire(item))
    [settled] = await desk.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd, settled.released_microusd) == (
        "expired",
        130_000,
        370_000,
    )
    assert (await desk.account()).posted == 130_000


async def test_a_bill_over_the_reservation_is_posted_whole(desk: Desk) -> None:
    asked = await desk.ask("b", 100_000)
    await desk.answer(asked)
    await desk.call("b", asked.data.lease_id, cost=250_000, reserve=90_000, turn=1)
    await desk.budget.settle_build("b")
    [settled] = await desk.facts("b", BudgetSettled)
    assert (settled.outcome, settled.posted_microusd) == ("overrun", 250_000)
    assert (await desk.account()).posted == 250_000


async def test_a_top_up_delivered_twice_is_credited_once_and_wakes_who_sleeps_for_money(desk: Desk) -> None:
    await desk.answer(await desk.ask("b", DAY))
    far = (await desk.account()).period.start + timedelta(hours=1)
    for build, account in (("b", "ada"), ("c", "somebody-else")):
        await desk.add(build, SleepRequested(reason="budget", account_id=account, wake_at=far))
    asked = AccountToppedUp(account_id="ada", amount_microusd=70_000)
    event = RecordedEvent(uuid4(), account_stream("ada"), 0, asked, "ada", uuid4(), "test", None, far)
    for _ in range(2):
        await desk.budget.top_up(event, asked)
    assert (await desk.account()).left_today == 70_000
    [woken] = await desk.facts("b", WakeRequested)
    assert woken.reason == "top_up"
    assert await desk.facts("c", WakeRequested) == []


async def test_money_that_came_back_wakes_as_many_sleepers_as_it_is_enough_for_the_oldest_first(
    desk: Desk,
) -> None:
    holder = await desk.ask("holder", DAY)
    await desk.answer(holder)
    for build, least in (("first", 400_000), ("second", 300_000), ("third", 500_000)):
        await desk.answer(await desk.ask(build, DAY, least))
        assert await desk.facts(build, BudgetDenied)
        await _sleeps(desk, build)
    await desk.budget.wake_for_what_came_back()
    assert await _woken(desk) == []
    await desk.call("holder", holder.data.lease_id, cost=50_000, reserve=90_000, turn=1)
    await desk.budget.settle_build("holder")
    await desk.budget.wake_for_what_came_back()
    assert await _woken(desk) == ["first", "second"]


async def test_a_sleeper_for_whom_it_is_not_enough_is_left_asleep_however_often_it_is_looked_at(
    desk: Desk,
) -> None:
    await desk.answer(await desk.ask("first", DAY, DAY + 1))
    await desk.budget.wake_for_what_came_back()
    await _sleeps(desk, "first")
    for _ in range(3):
        await desk.budget.wake_for_what_came_back()
    assert await _woken(desk) == []


async def test_money_that_came_back_between_a_denial_and_its_sleep_is_not_overlooked(desk: Desk) -> None:
    await desk.answer(await desk.ask("holder", DAY))
    await desk.answer(await desk.ask("first", DAY, 400_000))
    await desk.budget.settle_build("holder")
    await desk.budget.wake_for_what_came_back()
    await _sleeps(desk, "first")
    await desk.budget.wake_for_what_came_back()
    assert await _woken(desk) == ["first"]


async def _sleeps(desk: Desk, build: str) -> None:
    far = (await desk.account()).period.start + timedelta(hours=1)
    slept = SleepRequested(reason="budget", account_id="ada", wake_at=far)
    await desk.add(build, slept)
    desk.budget.note_sleep(slept)


async def _woken(desk: Desk) -> list[str]:
    return [build for build in ("first", "second", "third") if await desk.facts(build, WakeRequested)]


async def test_a_sleeper_is_woken_once_whoever_comes_first(desk: Desk) -> None:
    start = (await desk.ask("b", 1)).recorded_at
    await desk.add("b", SleepRequested(reason="budget", account_id="ada", wake_at=start))
    [item] = await desk.log.pending(PendingKind.SLEEPER, due_before=start + timedelta(seconds=1))
    asked = asyncio.gather(desk.budget.wake_asked("b"), return_exceptions=True)
    await asyncio.gather(*(desk.budget.wake_due(item) for _ in range(4)))
    [answer] = await asked
    # A person who comes after another waker is told that there is nothing to wake, as below.
    assert answer is None or isinstance(answer, Refused)
    assert len(await desk.facts("b", WakeRequested)) == 1
    assert await desk.log.pending(PendingKind.SLEEPER) == []
    with pytest.raises(Refused, match="not asleep"):
        await desk.budget.wake_asked("b")


async def test_the_books_can_be_made_again_from_the_log(desk: Desk) -> None:
    for turn, build in enumerate(("a", "b", "c", "a", "b")):
        asked = await desk.ask(build, 150_000)
        await desk.answer(asked)
        await desk.call(build, asked.data.lease_id, cost=11_000 * (turn + 1), reserve=120_000, turn=turn)
    await desk.budget.settle_build("c")
    posted = reserved = 0
    for build in ("a", "b", "c"):
        settled = await desk.facts(build, BudgetSettled)
        posted += sum(fact.posted_microusd for fact in settled)
        reserved += sum(fact.amount_microusd for fact in await desk.facts(build, BudgetGranted))
        reserved -= sum(fact.reserved_microusd for fact in settled)
    account = await desk.account()
    assert (account.posted, account.pending) == (posted, reserved)
    assert posted == 66_000
