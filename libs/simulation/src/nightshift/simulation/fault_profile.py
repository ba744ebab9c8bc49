"""What a seed draws for one run: how slow, how lossy and how deadly the world is.

Every kind of fault is off in some runs: a fault that is always there can hide what another one would show.
"""

import random
from dataclasses import dataclass

#: Seconds of latency that every call of a simulated port takes, each way. A window of no width is never hit.
SHORTEST, LONGEST = 0.001, 2.0


@dataclass(frozen=True, slots=True)
class FaultProfile:
    """Chances per call, from 0 to 1; faults stop after `faults_end_after` virtual seconds, so that what must end can end."""

    slowness: float  # seconds: most calls take less, few take up to LONGEST
    lost_requests: float
    lost_answers: float
    redeliveries: float
    crashes: float
    faults_end_after: float

    @classmethod
    def draw(cls, draws: random.Random) -> "FaultProfile":
        def chance(most: float) -> float:
            return draws.choice((0.0, most / 4, most))

        return cls(
            slowness=draws.choice((0.005, 0.05, 0.5)),
            lost_requests=chance(0.1),
            lost_answers=chance(0.2),
            redeliveries=chance(0.3),
            crashes=chance(0.08),
            faults_end_after=draws.choice((10.0, 60.0)),
        )

    def latency(self, draws: random.Random) -> float:
        """Seconds that one way takes."""
        return min(LONGEST, SHORTEST + draws.expovariate(1 / self.slowness))
