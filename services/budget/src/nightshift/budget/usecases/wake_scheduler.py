"""Runs the periodic work: wakes due sleepers, ends expired grants, answers requests whose message was lost.

Any number of replicas may run it: the pending rows of the log say what is due.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from prometheus_client import Histogram

from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem

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

#: Seconds between two looks for what is due: a sleeper wakes within a second of its time.
TICK = 0.5
#: Seconds between two looks for requests whose message was lost.
SWEEP = 60.0
#: Seconds between two looks for sleepers of accounts that got money back. Each look reads every sleeper.
RELEASED = 2.0
#: The time between two looks at an expired reservation under which a call runs.
LATER = timedelta(seconds=10)
#: The most due items that one look takes.
BATCH = 500


_utc_now = partial(datetime.now, UTC)


@dataclass(eq=False, slots=True)
class WakeScheduler:
    """Looks for due work twice a second for as long as the service runs.

    `wake_jitter_s` spreads the builds that are due at one moment over so many seconds.
    """

    log: EventLog
    grants: Grants
    wakes: Wakes
    _: KW_ONLY
    wake_jitter_s: float
    clock: Callable[[], datetime] = _utc_now
    _try_again: dict[str, datetime] = field(
        default_factory=dict, init=False
    )  # due sleepers that cannot be paid yet

    _in_flight: dict[str, datetime] = field(
        default_factory=dict, init=False
    )  # expired reservations under which a call runs

    async def run(self) -> None:
        """Look for due work until cancelled. Logs when the database does not answer, and tries again."""
        loop = asyncio.get_running_loop()
        sweep_at = released_at = loop.time()
        while True:
            try:
                await self.tick(self.clock())
                if loop.time() >= released_at:
                    await self.wakes.wake_for_released_money()
                    released_at = loop.time() + RELEASED
                if loop.time() >= sweep_at:
                    await self.sweep()
                    sweep_at = loop.time() + SWEEP
            except Transient as error:
                _log.warning("wake_scheduler.tick_failed", error=str(error))
            await asyncio.sleep(TICK)

    async def tick(self, now: datetime) -> None:
        """Wake the sleepers that are due, the longest due first, and settle the reservations that expired."""
        limit = BATCH + len(self._try_again)  # sleepers that cannot be paid must not crowd out the others
        items = await self.log.pending(PendingKind.SLEEPER, due_before=now, limit=limit)
        waiting = {item.key: self._try_again[item.key] for item in items if item.key in self._try_again}
        due = [item for item in items if self._is_due(item, now) and waiting.get(item.key, now) <= now]
        unpaid = await self.wakes.wake_due(due, now)
        self._try_again = {**waiting, **unpaid}
        self._measure([item for item in due if item.key not in unpaid and item.key not in waiting])
        await self._expire(now)

    def _measure(self, woken: Sequence[PendingItem]) -> None:
        """Observe how long after its time each build was woken."""
        now = self.clock()
        for item in woken:
            if item.due_at is not None:
                delay = (now - item.due_at).total_seconds()
                _DELAY.observe(max(delay, 0.0))
                _LATENESS.observe(max(delay - self._spread(item), 0.0))

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
        """Answer the requests for money whose messages were lost with the broker."""
        after = ""
        while items := await self.log.pending(PendingKind.BUDGET_REQUEST, after_key=after):
            after = items[-1].key
            for item in items:
                async for event in self.log.read_stream(
                    item.stream_id, from_version=item.version, to_version=item.version
                ):
                    if isinstance(event.data, BudgetRequested):
                        await self.grants.answer(event, event.data)

    def _is_due(self, item: PendingItem, now: datetime) -> bool:
        """Whether the item's time has passed, plus a part of the jitter that the build id decides."""
        return item.due_at is not None and item.due_at + timedelta(seconds=self._spread(item)) <= now

    def _spread(self, item: PendingItem) -> float:
        """The seconds by which the jitter puts this wake off."""
        draw = int.from_bytes(hashlib.blake2s(item.key.encode(), digest_size=4).digest()) / 2**32
        return self.wake_jitter_s * draw
