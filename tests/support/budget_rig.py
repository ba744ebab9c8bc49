"""A budget service on a real database, with builds and an account's owner that the test plays itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.domain.ledger import Account
from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.budget.handlers import Handlers
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.accounts import Accounts
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wake_scheduler import WakeScheduler
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    ModelCallResponded,
    ModelCallStarted,
    SleepRequested,
    Usage,
)
from nightshift.contracts.model import Event, PendingKind
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.port import NewEvent, PendingItem, RecordedEvent, account_stream, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

E = TypeVar("E", bound=Event)

DAY = 1_000_000
POLICY = BudgetPolicy(
    default_period_budget=DAY * 30,
    default_period_days=30,
    default_time_zone="UTC",
    grant_lasts=timedelta(hours=1),
    day_seconds=3600.0,
)


class Replica:
    """One process of the budget service: what it keeps in memory dies with it."""

    def __init__(self, log: PostgresEventLog, ledger: PostgresLedger, policy: BudgetPolicy) -> None:
        days = AccountDays(policy)
        self.wakes = Wakes(log, ledger, days)
        self.grants = Grants(log, ledger, days, on_released=self.wakes.note_money)
        self.handlers = Handlers(self.grants, Accounts(log, ledger, days, self.wakes), self.wakes)
        self.scheduler = WakeScheduler(log, self.grants, self.wakes, wake_jitter_s=0)

    async def deliver(self, event: RecordedEvent) -> None:
        """Hand a message to its handler, as the bus does."""
        handlers = {**self.handlers.on_requests(), **self.handlers.on_builds()}
        await handlers[type(event.data)](event)


@dataclass
class BudgetRig:
    """The log as the budget's role and as the orchestrator's, the ledger, and one replica."""

    log: PostgresEventLog
    builds: PostgresEventLog
    ledger: PostgresLedger
    replica: Replica
    database: Database

    def restart(self, **policy: Any) -> Replica:
        """A new process in place of the old one."""
        self.replica = Replica(self.log, self.ledger, replace(POLICY, **policy))
        return self.replica

    async def deliver(self, *events: RecordedEvent) -> None:
        for event in events:
            await self.replica.deliver(event)

    async def add(self, build: str, *facts: Event) -> RecordedEvent:
        """Append facts of the orchestrator to the build's stream; the last one as recorded."""
        appended = await self.builds.append(build_stream(build), [NewEvent(fact, uuid4()) for fact in facts])
        async for event in self.builds.read_stream(build_stream(build), from_version=appended.version):
            return event
        raise AssertionError("what was appended is in the log")

    async def ask(self, build: str, amount: int, minimum: int = 1) -> RecordedEvent:
        """Append a request for money, unanswered."""
        fact = BudgetRequested(
            lease_id=uuid4(), account_id="ada", amount_microusd=amount, minimum_microusd=minimum
        )
        return await self.add(build, fact)

    async def granted(self, build: str, amount: int, minimum: int = 1) -> RecordedEvent:
        """A request that was delivered."""
        asked = await self.ask(build, amount, minimum)
        await self.deliver(asked)
        return asked

    async def call(
        self, build: str, lease: UUID, *, reserve: int, cost: int = 0, turn: int = 1, answered: bool = True
    ) -> None:
        """A model call of the build under its lease."""
        common = {"turn": turn, "attempt": 1, "model": "scripted-1"}
        await self.add(build, ModelCallStarted(**common, lease_id=lease, reserve_microusd=reserve))
        if answered:
            await self.answer_call(build, cost=cost, turn=turn)

    async def answer_call(self, build: str, *, cost: int, turn: int = 1) -> None:
        """The provider's answer to the call of this turn."""
        answer = ModelCallResponded(
            turn=turn,
            attempt=1,
            model="scripted-1",
            message_id="m",
            content=(),
            stop_reason="end_turn",
            usage=Usage(),
            price_version="1",
            cost_microusd=cost,
            latency_ms=1,
            first_token_ms=1,
        )
        await self.add(build, answer)

    async def sleep(
        self, build: str, *, wake_at: datetime | None = None, reason: Any = "budget"
    ) -> RecordedEvent:
        """The build falls asleep; the message is delivered."""
        slept = await self.add(build, SleepRequested(reason=reason, account_id="ada", wake_at=wake_at))
        await self.deliver(slept)
        return slept

    async def settle(self, build: str) -> None:
        """End all that the build has reserved by now."""
        *_, last = await self.events(build_stream(build))
        await self.replica.grants.settle_build(build, granted_before=last.version + 1)

    async def look(self) -> None:
        """The periodic look at accounts that got money back."""
        await self.replica.wakes.wake_for_released_money()

    async def tick(self, now: datetime) -> None:
        """One turn of the scheduler at this time."""
        await self.replica.scheduler.tick(now)

    def request(self, data: Event, subject: str) -> RecordedEvent:
        """A message of the requests topic."""
        stream = account_stream(subject) if data.stream == "account" else build_stream(subject)
        return RecordedEvent(uuid4(), stream, 0, data, subject, uuid4(), "test", None, datetime.now(UTC))

    async def facts(self, build: str, kind: type[E]) -> list[E]:
        return [e.data async for e in self.log.read_stream(build_stream(build)) if isinstance(e.data, kind)]

    async def events(self, stream: str) -> list[RecordedEvent]:
        return [event async for event in self.log.read_stream(stream)]

    async def expire(self, item: PendingItem, *, late: timedelta = timedelta()) -> None:
        """The scheduler looks at an expired reservation, `late` after its time."""
        assert item.due_at is not None
        await self.replica.grants.expire(item, item.due_at + late)

    async def later(self, time: timedelta, name: str = "ada") -> None:
        """Move the account's days into the past: it is so much later now."""
        await self.database.fetch(
            "UPDATE nightshift.accounts SET period_start = period_start - $2::interval WHERE account_id = $1",
            name,
            time,
        )

    async def account(self, name: str = "ada") -> Account:
        account = await self.ledger.account(name)
        assert account is not None
        return account

    async def waiting(self, kind: PendingKind) -> list[str]:
        """Keys of what waits."""
        return [item.key for item in await self.log.pending(kind)]


def accepted(build: str, *, deadline: datetime | None = None) -> BuildAccepted:
    return BuildAccepted(
        build_id=build,
        project_id="p",
        account_id="ada",
        idea_brief="a shop",
        model="scripted-1",
        turn_limit=10,
        tool_call_limit=10,
        deadline=deadline,
    )


@asynccontextmanager
async def budget_rig(database: Any) -> AsyncIterator[BudgetRig]:
    pools = [
        log_database(PgConfig(dsn=database.dsn(role), max_connections=8))
        for role in ("nightshift_budget", "nightshift_orchestrator")
    ]
    log, builds = (PostgresEventLog(pool, actor="test", notify=False) for pool in pools)
    ledger = PostgresLedger(pools[0], log)
    try:
        yield BudgetRig(log, builds, ledger, Replica(log, ledger, POLICY), pools[0])
    finally:
        for pool in pools:
            await pool.close()
