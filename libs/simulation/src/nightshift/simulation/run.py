"""Runs one scenario under one seed, and reports the outcome or the failure."""

import hashlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.world import World

#: Starts processes in a world, waits until they finish, and checks the result. Raises Violation when an invariant does
#: not hold.
Scenario = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run without a failure. `digest` is the SHA-256 of the trace; the same seed always gives the same digest."""

    seed: int
    virtual_seconds: float
    steps: int
    faults: int
    digest: str


class SimulationFailed(Exception):
    """A run failed. `seed` reproduces the run, and `trace` lists what happened."""

    def __init__(
        self, *, seed: int, profile: FaultProfile, trace: tuple[str, ...], cause: BaseException
    ) -> None:
        super().__init__(f"seed {seed}: {type(cause).__name__}: {cause}")
        self.seed = seed
        self.profile = profile
        self.trace = trace


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """Runs the scenario in a world created from the seed. Raises SimulationFailed when the scenario raises."""
    # Seeded, because the code under test draws jitter from Python's shared random generator.
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
