"""The latencies and fault probabilities that a seed draws for one run.

Each kind of fault is absent from some runs, because a fault that is always present can hide another one.
"""

import random
from dataclasses import dataclass

#: Seconds of latency of one way to a simulated server. No latency is 0: no fault ever hits a window of no width.
SHORTEST, LONGEST = 0.001, 2.0


@dataclass(frozen=True, slots=True)
class FaultProfile:
    """Probabilities of faults per call, from 0 to 1.

    Faults stop after `faults_end_after` virtual seconds. Then every process must be able to finish.
    """

    slowness: float  # mean latency in seconds
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
        """Draws the seconds that one way to a server takes."""
        return min(LONGEST, SHORTEST + draws.expovariate(1 / self.slowness))
