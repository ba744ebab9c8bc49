"""Wakes builds that wait because no day of their account could pay their next call, as soon as a day can."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from nightshift.budget.domain.calendar import day_at
from nightshift.budget.domain.ledger import most_of_a_day, refresh
from nightshift.budget.ports import Ledger
from nightshift.budget.usecases.bills import newest_first
from nightshift.contracts.events.budget import WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildResumed,
    BuildWaiting,
    BuildWoken,
    EscalationRaised,
)
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import EventIdReused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import EventLog, NewEvent, build_stream

_log = structlog.get_logger(__name__)

#: The event types that decide whether a build waits: it waits when the newest of them in its stream is `build.waiting`.
_GOES_ON = (BuildWaiting, BuildResumed, BuildWoken, WakeRequested)
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class _LimitWait:
    """A build that waits at version `head` of its stream. Its next call costs at most `minimum` microdollars."""

    head: int
    waiting_event: UUID
    account_id: str
    minimum: int


class LimitWaits:
    """Wakes the builds that wait for a larger budget, once some day of their account can pay their next call.

    A wake is the event `wake.requested`, and reserves no money. The build then requests money, and sleeps when only a
    later day can pay.
    """

    def __init__(self, log: EventLog, ledger: Ledger) -> None:
        self._event_log = log
        self._ledger = ledger
        self._every_build = True  # what an earlier process remembered is lost
        #: By account with such builds. A new day may have more money.
        self._next_days: dict[str, datetime] = {}

    async def look(self) -> None:
        """Wake the waiting builds that can continue.

        The first call looks at all waiting builds, and so does the next call after `look_at_all`. Other calls look at
        the builds of an account when its next day has begun.
        """
        if self._every_build:
            async for build_id in self._waiting_builds():
                await self.wake_build(build_id)
            self._every_build = False
        now = await self._ledger.now() if self._next_days else None
        for account_id, begins in list(self._next_days.items()):
            if now is not None and begins <= now:
                await self.wake_account(account_id)
                if self._next_days[account_id] == begins:  # no build noted a later day
                    del self._next_days[account_id]

    def look_at_all(self) -> None:
        """Let the next `look` read all waiting builds, because another replica that noted some of them may be gone."""
        self._every_build = True

    async def wake_account(self, account_id: str) -> None:
        """Wake the account's builds that wait for a larger budget and whose next call one of its days can now pay."""
        for share in await self._ledger.shares(account_id):
            await self.wake_build(share.build_id)

    async def wake_build(self, build_id: str) -> None:
        """Wake this build if it waits for a larger budget and a day of its account can pay its next call.

        Otherwise do nothing. Raises Transient when other writers appended to the build's stream at every attempt.
        """
        stream_id = build_stream(build_id)
        for _ in range(_ATTEMPTS):
            wait = await self._wait(stream_id)
            account = None if wait is None else await self._ledger.account(wait.account_id)
            if wait is None or account is None:
                return
            day = day_at(account.period, await self._ledger.now())
            if wait.minimum > most_of_a_day(refresh(account, day), day):
                self._next_days[account.account_id] = day.refresh_at
                return
            wake = NewEvent(WakeRequested(reason="top_up"), wait.waiting_event)
            try:
                await self._event_log.append(stream_id, [wake], expected_version=wait.head)
            except VersionConflict:
                continue
            except (EventIdReused, StreamClosed) as error:
                _log.info("wake.overtaken", build_id=build_id, reason=type(error).__name__)
            return
        raise Transient(f"{stream_id} changed {_ATTEMPTS} times while the build was being woken")

    async def _waiting_builds(self) -> AsyncIterator[str]:
        after = ""
        while items := await self._event_log.pending(PendingKind.WAITING, after_key=after):
            after = items[-1].key
            for item in items:
                yield item.key

    async def _wait(self, stream_id: str) -> _LimitWait | None:
        """Return how a build waits for a larger budget, or None when it does not wait for one."""
        head, raised = 0, False
        waiting: tuple[UUID, str | None] | None = None
        async for event in newest_first(self._event_log, stream_id):
            head = max(head, event.version)
            match event.data:
                case BuildWaiting() as fact if waiting is None and fact.reason == "escalation":
                    waiting = event.event_id, fact.question_id
                case _ if waiting is None:
                    if event.data.terminal or isinstance(event.data, _GOES_ON):
                        return None
                case EscalationRaised() as fact if str(fact.escalation_id) == waiting[1]:
                    raised = True
                    if fact.kind != "day_limit":
                        return None
                case BudgetRequested() as request:
                    found = _LimitWait(head, waiting[0], request.account_id, request.minimum_microusd)
                    return found if raised else None
                case _:
                    pass
        return None
