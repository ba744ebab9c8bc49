"""Deterministic simulation on a virtual clock.

One seed decides the schedule, the latencies, the faults and the crashes. Run it with `python -m nightshift.simulation`.
It tests ports and pure cores. Real adapters use sockets and threads, which cannot run on a simulated loop; they are
tested on real servers.
"""

from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.run import Outcome, Scenario, SimulationFailed, simulate
from nightshift.simulation.world import SimulatedProcess, Violation, World

__all__ = [
    "FaultProfile",
    "Outcome",
    "Scenario",
    "SimulatedProcess",
    "SimulationFailed",
    "Violation",
    "World",
    "simulate",
]
