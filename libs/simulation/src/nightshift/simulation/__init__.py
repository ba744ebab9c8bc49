"""Deterministic simulation: our code on a virtual clock; schedule, latencies, faults and crashes come from one seed.

Run it with `python -m nightshift.simulation`. What is under test are the ports and the pure cores; the real
adapters (sockets, threads) cannot live inside a simulated loop and have tests of their own on real servers.
"""

from nightshift.simulation.run import Outcome, Scenario, SimulationFailed, simulate
from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.world import SimulatedProcess, Violation, World

__all__ = [
    "Outcome",
    "SimulatedProcess",
    "Scenario",
    "SimulationFailed",
    "Violation",
    "FaultProfile",
    "World",
    "simulate",
]
