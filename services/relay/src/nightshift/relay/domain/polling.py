"""How long to wait before asking the log again: short while events flow, longer the longer nothing came."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between polls. `busy` after a find; doubling to `quiet`, or to `hinted` when hints of writers arrive."""

    busy: float = 0.002
    quiet: float = 0.05
    hinted: float = 0.25

    def following(self, wait: float, *, found: bool, hints: bool) -> float:
        """The wait after one of `wait` seconds, given what the poll found and whether a hint would wake us."""
        if found:
            return self.busy
        return min(max(wait, self.busy) * 2, self.hinted if hints else self.quiet)
