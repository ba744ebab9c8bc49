"""Deterministic simulation: code runs on a virtual clock; one seed draws the schedule, latencies, faults and crashes.

Run it with `python -m nightshift.simulation`. It tests the ports and the pure cores. The real adapters use sockets and
threads, which cannot run on a simulated loop; they have tests on real servers.
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
