"""Decides how long the relay waits before it reads the log again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PollInterval:
    """Seconds between reads: the shortest after a read that found events, then doubling up to the longest.

    `alone` is (shortest, longest) while no notification arrives. `notified` applies while notifications arrive: polling
    then only finds what was appended without one.
    """

    alone: tuple[float, float] = (0.002, 0.05)
    notified: tuple[float, float] = (0.01, 0.25)

    def following(self, wait: float, *, found: bool, listening: bool) -> float:
        """Return the next wait after one of `wait` seconds.

        `found`: the read found events. `listening`: notifications arrive.
        """
        shortest, longest = self.notified if listening else self.alone
        return shortest if found else min(max(wait, shortest) * 2, longest)
