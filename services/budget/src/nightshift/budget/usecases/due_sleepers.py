"""Finds the sleeping builds, called sleepers, whose moment has come.

The moment is their due time, plus a delay that depends on the sleeper's id. All sleepers of one midnight are due at the
same time, and the delay (jitter) spreads them. Due sleepers are kept in memory, sorted by moment. Otherwise sleepers
whose moment has not come could fill the first read of the log and hide the others.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.port import EventLog, PendingItem

#: Rows of one read of the log, and the most reads of one look.
_PAGE, _PAGES = 1000, 20
#: The time between two complete reads while more sleepers are due than one page holds.
_PASS = timedelta(seconds=30)


@dataclass(slots=True)
class _Due:
    item: PendingItem
    moment: datetime
    taken: bool = False


@dataclass(eq=False, slots=True)
class DueSleepers:
    """The sleepers whose due time had passed when the log was last read."""

    log: EventLog
    _: KW_ONLY
    jitter_s: float
    _known: dict[str, _Due] = field(default_factory=dict, init=False)
    _order: list[tuple[datetime, str]] = field(default_factory=list, init=False)
    _after: tuple[datetime, str] | None = field(default=None, init=False)  # the last row of the pass
    _pass_at: datetime | None = field(default=None, init=False)
    _seen: set[str] | None = field(default=None, init=False)  # keys of the pass that is under way

    async def take(self, now: datetime, limit: int) -> Sequence[PendingItem]:
        """Return up to `limit` sleepers whose moment has come, the earliest first.

        The next call returns a sleeper again when it still sleeps, unless `put_back` has delayed it.
        """
        await self._look(now)
        taken: list[PendingItem] = []
        while self._order and self._order[0][0] <= now and len(taken) < limit:
            moment, key = heapq.heappop(self._order)
            due = self._known.get(key)
            if due is not None and due.moment == moment and not due.taken:
                due.taken = True
                taken.append(due.item)
        return taken

    def put_back(self, key: str, moment: datetime) -> None:
        """Let `take` return the sleeper with this key again, but not before `moment`. An unknown key is ignored."""
        if (due := self._known.get(key)) is not None:
            self._schedule(due, moment)

    def moment_of(self, item: PendingItem) -> datetime | None:
        """Return when to wake this sleeper, or None when it waits only for money or a person and not for a time."""
        if item.due_at is None:
            return None
        draw = int.from_bytes(hashlib.blake2s(item.key.encode(), digest_size=4).digest()) / 2**32
        return item.due_at + timedelta(seconds=self.jitter_s * draw)

    async def _look(self, now: datetime) -> None:
        """Read due sleepers from the log: always the first ones, because new ones are usually among them.

        When the log has more of them than one read returns, also read some of those behind the last one that was read.
        """
        first = await self.log.pending(PendingKind.SLEEPER, due_before=now, limit=_PAGE)
        self._note(first, now)
        if len(first) < _PAGE:
            self._keep(item.key for item in first)
            self._after = self._seen = self._pass_at = None
            return
        if self._after is None or (self._pass_at is not None and now >= self._pass_at):
            self._after, self._seen, self._pass_at = (
                _place(first[-1]),
                {item.key for item in first},
                now + _PASS,
            )
        for _ in range(_PAGES):
            due_at, key = self._after
            page = await self.log.pending(
                PendingKind.SLEEPER, due_before=now, limit=_PAGE, after_due=due_at, after_key=key
            )
            self._note(page, now)
            if self._seen is not None:
                self._seen.update(item.key for item in page)
            if page:
                self._after = _place(page[-1])
            if len(page) < _PAGE:
                if self._seen is not None:
                    self._keep(self._seen)
                    self._seen = None
                return

    def _note(self, items: Iterable[PendingItem], now: datetime) -> None:
        for item in items:
            due = self._known.get(item.key)
            moment = self.moment_of(item)
            if moment is None:
                continue
            if due is None or due.item.version != item.version:
                self._known[item.key] = due = _Due(item, moment)
                self._schedule(due, moment)
            elif due.taken:
                self._schedule(due, now)

    def _schedule(self, due: _Due, moment: datetime) -> None:
        due.moment, due.taken = moment, False
        heapq.heappush(self._order, (moment, due.item.key))

    def _keep(self, keys: Iterable[str]) -> None:
        """Forget all sleepers except those with these keys, because the others are no longer in the log."""
        self._known = {key: self._known[key] for key in keys if key in self._known}
        if len(self._order) > 2 * len(self._known) + _PAGE:
            self._order = sorted((due.moment, key) for key, due in self._known.items() if not due.taken)


def _place(item: PendingItem) -> tuple[datetime, str]:
    assert item.due_at is not None  # noqa: S101 - a row that is due has a time
    return item.due_at, item.key
