"""One run of one scenario under one seed, and what is said when it fails."""

import hashlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.world import World

#: Sets up its world, lets it run, and judges what happened: raises Violation, or anything else that went wrong.
Scenario = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that kept every promise. `digest` is that of its whole trace: equal for equal seeds."""

    seed: int
    virtual_seconds: float
    steps: int
    faults: int
    digest: str


class SimulationFailed(Exception):
    """A run that did not. It says what is needed to see it again."""

    def __init__(self, *, seed: int, profile: FaultProfile, trace: tuple[str, ...], cause: BaseException) -> None:
        super().__init__(f"seed {seed}: {type(cause).__name__}: {cause}")
        self.seed = seed
        self.profile = profile
        self.trace = trace


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """Run the scenario in the world of this seed. Raises SimulationFailed."""
    # Code under test may draw from the shared generator, such as for jitter.
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
