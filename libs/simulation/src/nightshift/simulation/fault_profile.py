"""The latencies and fault probabilities of one run, which are drawn from its seed.

Each kind of fault is missing from some runs, because a fault that always occurs can hide another one.
"""

import random
from dataclasses import dataclass

#: The latency in seconds of one direction of a simulated call. It is never 0, so that a fault can occur in between.
SHORTEST, LONGEST = 0.001, 2.0


@dataclass(frozen=True, slots=True)
class FaultProfile:
    """The mean latency (`slowness`, seconds) and the probability of each kind of fault per call, from 0 to 1.

    Faults end after `faults_end_after` virtual seconds. From then on every process must be able to finish.
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
        """Draws the latency in seconds of one direction of a call."""
        return min(LONGEST, SHORTEST + draws.expovariate(1 / self.slowness))
