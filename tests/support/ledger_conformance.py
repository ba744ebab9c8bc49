"""The behaviour that every adapter of the budget service's port Ledger must have."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from nightshift.budget.domain.calendar import Period, day_at
from nightshift.budget.domain.ledger import Account, Reservation, Settlement, open_account, reserve
from nightshift.budget.ports import Decide, Ledger, LedgerChange, LedgerSnapshot
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted
from nightshift.contracts.events.build import BudgetRequested, BuildCancelled
from nightshift.contracts.ids import event_id
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import StreamClosed, VersionConflict
from nightshift.eventlog.port import Append, EventLog, NewEvent, build_stream

ACCOUNT, BUILD = "ada", "b1"
PERIOD = Period("UTC", datetime(2026, 1, 1, tzinfo=UTC), 30)
BUDGET = 3_000_000


def account_now(now: datetime) -> Account:
    """Returns a new account."""
    return open_account(ACCOUNT, PERIOD, BUDGET, day_at(PERIOD, now))


def grant(lease: UUID, cause: UUID, *, amount: int = 1_000, expected_version: int | None = None) -> Decide:
    """Returns a decision that grants `amount` under `lease` in the build's stream."""

    def decide(snapshot: LedgerSnapshot) -> LedgerChange:
        account, granted = reserve(snapshot.account or account_now(snapshot.now), amount, amount)
        fact = BudgetGranted(
            lease_id=lease,
            account_id=ACCOUNT,
            day=account.day,
            amount_microusd=granted,
            left_today_microusd=account.left_today,
            expires_at=snapshot.now + timedelta(hours=1),
        )
        granted_event = event_id(cause, fact.type)
        opening = Reservation(lease, ACCOUNT, BUILD, account.day, granted, granted_event, fact.expires_at)
        append = Append(build_stream(BUILD), (NewEvent(fact, cause),), expected_version)
        return LedgerChange(account, [append], opening)

    return decide


class LedgerConformance:
    """Needs the fixtures `ledger`, `log` (the budget's) and `builds` (the orchestrator's), on the same tables."""

    async def test_an_unknown_account_or_lease_is_none(self, ledger: Ledger):
        assert await ledger.account(ACCOUNT) is None
        assert await ledger.find(uuid4()) is None
        assert list(await ledger.unsettled(BUILD)) == []

    async def test_a_decision_without_a_change_writes_nothing(self, ledger: Ledger):
        seen: list[LedgerSnapshot] = []
        assert await ledger.transact(ACCOUNT, seen.append) is None
        assert (seen[0].account, seen[0].granted, seen[0].request_waits) == (None, False, False)
        assert seen[0].now.tzinfo is not None
        assert await ledger.account(ACCOUNT) is None

    async def test_a_grant_stores_account_reservation_and_event(self, ledger: Ledger, log: EventLog):
        lease, cause = uuid4(), uuid4()
        change = await ledger.transact(ACCOUNT, grant(lease, cause), lease_id=lease)
        assert change is not None
        assert await ledger.account(ACCOUNT) == change.account
        held = await ledger.find(lease)
        assert held == change.opened
        assert [event.event_id for event in await events(log)] == [held.granted_event]

    async def test_a_repeat_changes_nothing(self, ledger: Ledger, log: EventLog):
        lease, cause = uuid4(), uuid4()
        first = await ledger.transact(ACCOUNT, grant(lease, cause), lease_id=lease)
        assert first is not None
        again = await ledger.transact(ACCOUNT, lambda snapshot: first, lease_id=lease)
        assert again is None
        assert await ledger.account(ACCOUNT) == first.account
        assert len(await events(log)) == 1

    async def test_the_snapshot_shows_the_reservation_of_the_lease(self, ledger: Ledger):
        lease, other = uuid4(), uuid4()
        await ledger.transact(ACCOUNT, grant(lease, uuid4()), lease_id=lease)
        seen: list[LedgerSnapshot] = []
        for asked in (lease, other, None):
            await ledger.transact(ACCOUNT, seen.append, lease_id=asked)
        assert [snapshot.granted for snapshot in seen] == [True, False, False]

    async def test_a_request_waits_until_it_is_answered(self, ledger: Ledger, builds: EventLog):
        lease = uuid4()
        request = BudgetRequested(
            lease_id=lease, account_id=ACCOUNT, amount_microusd=1_000, minimum_microusd=1
        )
        await append(builds, request)
        seen: list[LedgerSnapshot] = []
        await ledger.transact(ACCOUNT, seen.append, lease_id=lease)
        await ledger.transact(ACCOUNT, grant(lease, uuid4()), lease_id=lease)
        await ledger.transact(ACCOUNT, seen.append, lease_id=lease)
        assert [snapshot.request_waits for snapshot in seen] == [True, False]

    async def test_unsettled_are_the_builds_own_oldest_first(self, ledger: Ledger):
        leases = [uuid4() for _ in range(3)]
        for lease in leases:
            await ledger.transact(ACCOUNT, grant(lease, uuid4()), lease_id=lease)
        await ledger.transact(ACCOUNT, settle(leases[1]))
        found = [held.lease_id for held in await ledger.unsettled(BUILD)]
        assert found == [leases[0], leases[2]]
        assert list(await ledger.unsettled("b2")) == []

    async def test_a_reservation_is_settled_once(self, ledger: Ledger):
        lease = uuid4()
        await ledger.transact(ACCOUNT, grant(lease, uuid4()), lease_id=lease)
        await ledger.transact(ACCOUNT, settle(lease))
        before = await ledger.account(ACCOUNT)
        with pytest.raises(VersionConflict):
            await ledger.transact(ACCOUNT, settle(lease, posted=999))
        assert await ledger.account(ACCOUNT) == before
        assert await ledger.find(lease) is None

    async def test_a_refused_append_writes_nothing(self, ledger: Ledger, log: EventLog, builds: EventLog):
        await append(builds, BuildCancelled(reason="no", cost_microusd=0, turns=0))
        for lease, refusal, version in ((uuid4(), StreamClosed, None), (uuid4(), StreamClosed, 7)):
            with pytest.raises((refusal, VersionConflict)):
                await ledger.transact(
                    ACCOUNT, grant(lease, uuid4(), expected_version=version), lease_id=lease
                )
            assert await ledger.find(lease) is None
        assert await ledger.account(ACCOUNT) is None
        assert len(await events(log)) == 1

    async def test_an_overtaken_version_writes_nothing(self, ledger: Ledger, log: EventLog):
        lease = uuid4()
        with pytest.raises(VersionConflict):
            await ledger.transact(ACCOUNT, grant(lease, uuid4(), expected_version=3), lease_id=lease)
        assert (await ledger.find(lease), await ledger.account(ACCOUNT)) == (None, None)
        assert await events(log) == []

    async def test_a_denial_needs_no_reservation(self, ledger: Ledger, log: EventLog):
        def deny(snapshot: LedgerSnapshot) -> LedgerChange:
            account = account_now(snapshot.now)
            fact = BudgetDenied(
                lease_id=uuid4(),
                account_id=ACCOUNT,
                day=account.day,
                left_today_microusd=0,
                refresh_at=snapshot.now,
            )
            return LedgerChange(account, [Append(build_stream(BUILD), (NewEvent(fact, uuid4()),))])

        assert await ledger.transact(ACCOUNT, deny) is not None
        assert [event.data.type for event in await events(log)] == [BudgetDenied.type]

    async def test_grants_at_the_same_time_never_lose_one(self, ledger: Ledger):
        leases = [uuid4() for _ in range(8)]
        await asyncio.gather(
            *(ledger.transact(ACCOUNT, grant(lease, uuid4()), lease_id=lease) for lease in leases)
        )
        account = await ledger.account(ACCOUNT)
        assert account is not None
        assert account.pending == 8 * 1_000
        assert len(await ledger.unsettled(BUILD)) == 8


def settle(lease: UUID, *, posted: int = 10) -> Decide:
    """Returns a decision that settles the reservation without an event."""

    def decide(snapshot: LedgerSnapshot) -> LedgerChange:
        assert snapshot.account is not None
        return LedgerChange(snapshot.account, [], ended=((lease, Settlement("posted", posted, 0)),))

    return decide


async def append(log: EventLog, *facts: Event) -> None:
    await log.append(build_stream(BUILD), [NewEvent(fact, uuid4()) for fact in facts])


async def events(log: EventLog) -> Sequence:
    return [event async for event in log.read_stream(build_stream(BUILD))]
