"""Spaces the model calls of one replica while the provider has too many calls. All builds that use the key share the
pace.

The replicas share the pace through the port ProviderKey, and each replica adopts what the others have learned. While
calls are spaced, a replica asks this port before each call whether the call may start.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSettings:
    """The settings of a pace, in seconds.

    When the provider asks for a longer pause than `longest_pause_s`, one call asks again after that time.
    """

    first_interval_s: float = 0.25
    longest_interval_s: float = 10.0
    shortest_interval_s: float = 0.05  # with a shorter interval, calls are not spaced
    longest_pause_s: float = 300.0
    default_pause_s: float = 1.0  # after a refusal that names no time


@dataclass(slots=True)
class CallPace:
    """Decides when the next call may start. A refusal doubles the interval between calls, an answer shortens it by a
    fifth.

    A refused call that started before the interval was last doubled does not double it again. Calls in flight at the
    same time are refused together, for one reason.
    """

    settings: PaceSettings = field(default_factory=PaceSettings)
    interval_s: float = 0.0
    paused_until: datetime | None = None
    _next: datetime | None = None
    _slowed_at: datetime | None = None

    def turn(self, now: datetime) -> datetime:
        """Return `now` if a call may start now, and the caller must start it. Else return the time to ask again."""
        at = max(now, self.paused_until or now, self._next or now)
        if at <= now:
            self._next = now + timedelta(seconds=self.interval_s)
        return at

    def refused(self, started_at: datetime, now: datetime, *, retry_after_s: float | None) -> None:
        """Pause all calls for `retry_after_s`, the wait that the provider asked for, and double the interval between
        later calls.

        When the provider asked for no wait, the pause is `default_pause_s`. A call that started before the interval was
        last doubled does not double it again.
        """
        pause = self.settings.default_pause_s if retry_after_s is None else max(retry_after_s, 0.0)
        self.pause_until(now + timedelta(seconds=min(pause, self.settings.longest_pause_s)), now)
        if self._slowed_at is not None and started_at <= self._slowed_at:
            return
        self._slowed_at = now
        doubled = max(self.interval_s * 2, self.settings.first_interval_s)
        self.interval_s = min(doubled, self.settings.longest_interval_s)

    def answered(self) -> None:
        """Make the interval between calls shorter by a fifth, because a call was answered."""
        self.interval_s *= 0.8
        if self.interval_s < self.settings.shortest_interval_s:
            self.interval_s = 0.0

    def adopt(self, interval_s: float, pause_s: float, now: datetime) -> None:
        """Take over the pace that all replicas with this key share.

        From `now` no call starts for `pause_s` seconds. Then calls start `interval_s` seconds apart.
        """
        self.interval_s = interval_s
        self.pause_until(now + timedelta(seconds=pause_s), now)

    def wait_until(self, at: datetime) -> None:
        """Start no call of this replica before `at`, because another replica starts a call first."""
        self._next = at

    def pause_until(self, until: datetime, now: datetime) -> None:
        """Start no call before `until`. The pause is never longer than `longest_pause_s`."""
        until = min(until, now + timedelta(seconds=self.settings.longest_pause_s))
        self.paused_until = max(self.paused_until or until, until)
