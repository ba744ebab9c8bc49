"""The budget service's ledger in memory, for the simulation. It passes the conformance suite of the port."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.budget.domain.shares import BuildShare, on_day
from nightshift.budget.ports import Decide, LedgerChange, LedgerSnapshot
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import VersionConflict
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.wire import Wire, called


@dataclass(slots=True)
class StoredReservation:
    """A row of the table `reservations`. `end` is None until the reservation is settled."""

    reservation: Reservation
    end: Settlement | None = None


@dataclass(slots=True)
class LedgerTables:
    """The tables `accounts` and `reservations` and the account locks. Several ledgers can share them."""

    accounts: dict[str, Account] = field(default_factory=dict)
    reservations: dict[UUID, StoredReservation] = field(default_factory=dict)  # in the order of their grants
    shares: dict[str, BuildShare] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)  # of builds that have ended
    locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


class MemoryLedger:
    """Implements the port Ledger. `log` must write directly to its tables, so that a transaction is atomic.

    With a `wire`, a call takes time and can fail. `between` runs between the read and the write of a transaction:
    there other writers can append to the log, as they can on PostgreSQL.
    """

    def __init__(
        self,
        tables: LedgerTables,
        log: MemoryEventLog,
        *,
        now: Callable[[], datetime],
        wire: Wire | None = None,
        between: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._tables = tables
        self._log = log
        self._now = now
        self._wire = wire
        self._between = between

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        """Decide under the account's lock and write all of the change or nothing."""

        async def transaction() -> LedgerChange | None:
            async with self._tables.locks[account_id]:
                snapshot = self._snapshot(account_id, lease_id)
                if self._between is not None:
                    await self._between()
                change = decide(snapshot)
                if change is None:
                    return None
                if any(self._tables.reservations[lease].end for lease, _ in change.ended):
                    raise VersionConflict("a reservation was settled by another writer meanwhile")
                appended = await self._log.append_all(change.appends)
                if change.appends and not any(one.fresh for one in appended):
                    return None  # the rows were written with these events
                self._write(change)
                return change

        return await (
            transaction() if self._wire is None else self._wire.remote("ledger.transact", transaction)
        )

    async def unsettled(self, build_id: str) -> Sequence[Reservation]:
        """Return the reservations of the build that have not ended, oldest first."""
        return await called(
            self._wire,
            "ledger.unsettled",
            lambda: [
                row.reservation
                for row in self._tables.reservations.values()
                if row.reservation.build_id == build_id and row.end is None
            ],
        )

    async def find(self, lease_id: UUID) -> Reservation | None:
        """Return the reservation that has not ended, or None."""

        def find() -> Reservation | None:
            row = self._tables.reservations.get(lease_id)
            return None if row is None or row.end is not None else row.reservation

        return await called(self._wire, "ledger.find", find)

    async def shares(self, account_id: str) -> Sequence[BuildShare]:
        """Return the shares of the account's builds that have not ended."""
        return await called(self._wire, "ledger.shares", lambda: self._shares(account_id))

    async def stop_waiting(self, build_id: str) -> None:
        """Note that the build does not want money now."""

        def stop() -> None:
            if (share := self._tables.shares.get(build_id)) is not None:
                self._tables.shares[build_id] = replace(share, waits_since=None)

        await called(self._wire, "ledger.stop_waiting", stop)

    async def end_build(self, build_id: str, outcome: str) -> None:
        """Note that the build has ended."""

        def end() -> None:
            if (share := self._tables.shares.get(build_id)) is not None:
                self._tables.shares[build_id] = replace(share, waits_since=None)
                self._tables.outcomes.setdefault(build_id, outcome)

        await called(self._wire, "ledger.end_build", end)

    async def now(self) -> datetime:
        """Return the time of the clock."""
        return await called(self._wire, "ledger.now", self._now)

    async def account(self, account_id: str) -> Account | None:
        """Return the account, or None."""
        return await called(self._wire, "ledger.account", lambda: self._tables.accounts.get(account_id))

    def _snapshot(self, account_id: str, lease_id: UUID | None) -> LedgerSnapshot:
        waits = any(
            kind is PendingKind.BUDGET_REQUEST and key == str(lease_id)
            for kind, key, _ in self._log.tables.pending
        )
        granted = lease_id in self._tables.reservations
        account = self._tables.accounts.get(account_id)
        shares = [] if lease_id is None else self._shares(account_id)
        return LedgerSnapshot(self._now(), account, granted, request_waits=waits, shares=shares)

    def _shares(self, account_id: str) -> list[BuildShare]:
        ended = self._tables.outcomes
        return [
            one
            for one in self._tables.shares.values()
            if one.account_id == account_id and one.build_id not in ended
        ]

    def _write(self, change: LedgerChange) -> None:
        self._tables.accounts[change.account.account_id] = change.account
        if (opened := change.opened) is not None:
            self._tables.reservations[opened.lease_id] = StoredReservation(opened)
        if (given := change.share) is not None:
            known = self._tables.shares.get(given.build_id, replace(given, spent_today=0, spent=0))
            spent = on_day(known, given.day)
            self._tables.shares[given.build_id] = replace(
                given, spent_today=spent.spent_today, spent=spent.spent
            )
        for lease_id, end in change.ended:
            row = self._tables.reservations[lease_id]
            row.end = end
            held = row.reservation
            if (share := self._tables.shares.get(held.build_id)) is not None:
                today = end.posted_amount if held.day == share.day else 0
                self._tables.shares[held.build_id] = replace(
                    share, spent_today=share.spent_today + today, spent=share.spent + end.posted_amount
                )
