"""The periodic work: wakes sleepers that are due, ends expired grants, and answers requests whose message was lost.

Any number of replicas may run it, because the pending rows of the log say what is due.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from prometheus_client import Histogram

from nightshift.budget.usecases.due_sleepers import DueSleepers
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem
from nightshift.servicekit.membership import GroupMembership

_log = structlog.get_logger(__name__)

_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_DELAY = Histogram(
    "nightshift_wake_delay_seconds",
    "From the time of a sleeper to its wake, with the jitter.",
    buckets=_BUCKETS,
)
_LATENESS = Histogram(
    "nightshift_wake_lateness_seconds",
    "From the moment that the jitter gave a sleeper to its wake.",
    buckets=_BUCKETS,
)

#: Seconds between two searches for due work, so that a sleeper wakes within a second of its time.
TICK = 0.5
#: Seconds between two searches for requests whose message was lost.
SWEEP = 60.0
#: Seconds between these searches until the process has joined its consumer groups, because no message arrives before.
UNTIL_JOINED = 1.0
#: Seconds between two searches for sleepers of accounts with released money. Each search reads all sleepers.
RELEASED = 2.0
#: How long to leave an expired reservation under which a model call runs.
LATER = timedelta(seconds=10)
#: The most due rows that one search takes.
BATCH = 500


_utc_now = partial(datetime.now, UTC)


@dataclass(eq=False, slots=True)
class WakeScheduler:
    """Searches for due work twice a second while the service runs.

    - `wake_jitter_s`: builds that are due at the same moment wake at different times within so many seconds.
    - `membership`: until the consumer groups are joined, unanswered requests are searched for every second. They are
      also searched for whenever partitions move, because their messages may have reached a process that has died.
    """

    log: EventLog
    grants: Grants
    wakes: Wakes
    _: KW_ONLY
    wake_jitter_s: float
    clock: Callable[[], datetime] = _utc_now
    membership: GroupMembership | None = None
    _sleepers: DueSleepers = field(init=False)
    _in_flight: dict[str, datetime] = field(
        default_factory=dict, init=False
    )  # expired reservations under which a model call runs → when to look again

    def __post_init__(self) -> None:
        self._sleepers = DueSleepers(self.log, jitter_s=self.wake_jitter_s)

    async def run(self) -> None:
        """Search for due work until cancelled. When the database does not answer, log a warning and try again.

        The searches run at the same time, because a search through all sleepers must not delay a wake.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._tick, TICK))
            group.create_task(self._repeat(self._wake_for_released_money, RELEASED))
            group.create_task(self._sweep_forever())

    async def _repeat(self, search: Callable[[], Awaitable[bool]], every_s: float) -> None:
        """Call `search` at once, and then every `every_s` seconds. When it returns True, call it again without a pause.

        True means that more work is due.
        """
        while True:
            more = False
            try:
                more = await search()
            except Transient as error:
                _log.warning("wake_scheduler.tick_failed", error=str(error))
            await asyncio.sleep(0 if more else every_s)

    async def _tick(self) -> bool:
        return await self.tick(self.clock())

    async def _wake_for_released_money(self) -> bool:
        await self.wakes.wake_for_released_money()
        return False

    async def _sweep_forever(self) -> None:
        changed = asyncio.Event() if self.membership is None else self.membership.watch()
        while True:
            changed.clear()
            joined = self.membership is None or self.membership.joined
            pause = SWEEP if joined else UNTIL_JOINED
            try:
                await self.sweep()
            except Transient as error:
                _log.warning("wake_scheduler.sweep_failed", error=str(error))
                pause = TICK
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()
                    self.wakes.limit_waits.look_at_all()

    async def tick(self, now: datetime) -> bool:
        """Wake the sleeping builds that are due, the longest due first, and settle expired reservations.

        Returns whether more builds may be due.
        """
        due = await self._sleepers.take(now, BATCH)
        unpaid = await self.wakes.wake_due(due, now)
        for key, again in unpaid.items():
            # By the database's clock the next day may not have begun yet.
            self._sleepers.put_back(key, max(again, now + timedelta(seconds=TICK)))
        self._measure([item for item in due if item.key not in unpaid])
        await self._expire(now)
        return len(due) == BATCH

    def _measure(self, woken: Sequence[PendingItem]) -> None:
        """Add to the metrics how long after its time each build was woken."""
        now = self.clock()
        for item in woken:
            moment = self._sleepers.moment_of(item)
            if moment is not None and item.due_at is not None:
                _DELAY.observe(max((now - item.due_at).total_seconds(), 0.0))
                _LATENESS.observe(max((now - moment).total_seconds(), 0.0))

    async def _expire(self, now: datetime) -> None:
        limit = BATCH + len(self._in_flight)
        items = await self.log.pending(PendingKind.RESERVATION, due_before=now, limit=limit)
        self._in_flight = {
            item.key: self._in_flight[item.key] for item in items if item.key in self._in_flight
        }
        for item in items:
            if self._in_flight.get(item.key, now) <= now and not await self.grants.expire(item, now):
                self._in_flight[item.key] = now + LATER

    async def sweep(self) -> None:
        """Answer the requests for money whose messages were lost."""
        after = ""
        while items := await self.log.pending(PendingKind.BUDGET_REQUEST, after_key=after):
            after = items[-1].key
            for item in items:
                async for event in self.log.read_stream(
                    item.stream_id, from_version=item.version, to_version=item.version
                ):
                    if isinstance(event.data, BudgetRequested):
                        await self.grants.answer(event, event.data)
