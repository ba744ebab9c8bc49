"""Spaces the model calls of one replica while its provider has too many of them. All builds of the key share it.

The replicas share the pace through the port ProviderKey: each adopts what the others have learned, and asks it for the
turn of each call while calls are spaced.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSettings:
    """Times in seconds. The provider may ask for a longer pause than `longest_pause_s`; then one call asks again."""

    first_interval_s: float = 0.25
    longest_interval_s: float = 10.0
    shortest_interval_s: float = 0.05  # below it calls are not spaced
    longest_pause_s: float = 300.0
    default_pause_s: float = 1.0  # after a refusal that names no time


@dataclass(slots=True)
class CallPace:
    """The time of the next call. Refusals double the interval between calls, answers shorten it by a fifth.

    A refused call that started before the last change of the interval changes nothing: calls that were in flight
    together are refused together, for one reason.
    """

    settings: PaceSettings = field(default_factory=PaceSettings)
    interval_s: float = 0.0
    paused_until: datetime | None = None
    _next: datetime | None = None
    _slowed_at: datetime | None = None

    def turn(self, now: datetime) -> datetime:
        """Return `now` when a call may start; the caller must then start it. Else return when to ask again."""
        at = max(now, self.paused_until or now, self._next or now)
        if at <= now:
            self._next = now + timedelta(seconds=self.interval_s)
        return at

    def refused(self, started_at: datetime, now: datetime, *, retry_after_s: float | None) -> None:
        """Pause all calls for as long as the provider asked, and double the interval between calls after that."""
        pause = self.settings.default_pause_s if retry_after_s is None else max(retry_after_s, 0.0)
        self.pause_until(now + timedelta(seconds=min(pause, self.settings.longest_pause_s)), now)
        if self._slowed_at is not None and started_at <= self._slowed_at:
            return
        self._slowed_at = now
        doubled = max(self.interval_s * 2, self.settings.first_interval_s)
        self.interval_s = min(doubled, self.settings.longest_interval_s)

    def answered(self) -> None:
        """Shorten the interval between calls."""
        self.interval_s *= 0.8
        if self.interval_s < self.settings.shortest_interval_s:
            self.interval_s = 0.0

    def adopt(self, interval_s: float, pause_s: float, now: datetime) -> None:
        """Take over the pace that the replicas of the key share."""
        self.interval_s = interval_s
        self.pause_until(now + timedelta(seconds=pause_s), now)

    def wait_until(self, at: datetime) -> None:
        """Start no call of this replica before `at`: another one has the turn."""
        self._next = at

    def pause_until(self, until: datetime, now: datetime) -> None:
        """Start no call before `until`, or before the longest pause is over."""
        until = min(until, now + timedelta(seconds=self.settings.longest_pause_s))
        self.paused_until = max(self.paused_until or until, until)
