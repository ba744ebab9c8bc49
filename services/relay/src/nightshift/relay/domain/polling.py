"""How long to wait before asking the log again: short while events flow, longer the longer nothing came."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PollInterval:
    """Seconds between polls: from the first of a pair after a find, doubling to the second while nothing comes.

    `alone` is the pair without the notifications of writers; where notifications wake the relay, a poll only finds what has none.
    """

    alone: tuple[float, float] = (0.002, 0.05)
    notified: tuple[float, float] = (0.01, 0.25)

    def following(self, wait: float, *, found: bool, notifications: bool) -> float:
        """The wait after one of `wait` seconds, given what the poll found and whether a hint would wake us."""
        shortest, longest = self.notified if notifications else self.alone
        return shortest if found else min(max(wait, shortest) * 2, longest)
