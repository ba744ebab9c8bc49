"""Runs one scenario under one seed and reports its outcome or its failure."""

import hashlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.world import World

#: Starts processes in a world, waits for them and checks the result. Raises Violation when a promise was broken.
Scenario = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run without a violation. `digest` is the SHA-256 of the trace; equal seeds give equal digests."""

    seed: int
    virtual_seconds: float
    steps: int
    faults: int
    digest: str


class SimulationFailed(Exception):
    """A run that raised. Holds the seed, which reproduces the run, and the trace."""

    def __init__(
        self, *, seed: int, profile: FaultProfile, trace: tuple[str, ...], cause: BaseException
    ) -> None:
        super().__init__(f"seed {seed}: {type(cause).__name__}: {cause}")
        self.seed = seed
        self.profile = profile
        self.trace = trace


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """Runs the scenario in a world made from the seed. Raises SimulationFailed when the scenario raises."""
    # The code under test draws jitter from the shared generator.
    state = random.getstate()
    random.seed(seed)
    world = World(seed)
    try:
        world.loop.run_until_complete(scenario(world))
    except Exception as error:
        raise SimulationFailed(
            seed=seed, profile=world.profile, trace=tuple(world.trace), cause=error
        ) from error
    finally:
        world.close()
        random.setstate(state)
    return Outcome(
        seed=seed,
        virtual_seconds=world.loop.time(),
        steps=len(world.trace),
        faults=world.faults,
        digest=hashlib.sha256("\n".join(world.trace).encode()).hexdigest(),
    )
