"""Each scenario finds the fault it is there for when that fault is planted, and the runner says how to see it again."""

import subprocess
import sys
from functools import partial

import pytest

from nightshift.simulation import SimulationFailed, Violation, simulate
from nightshift.simulation.scenarios import SCENARIOS, bus, leases, log

SEEDS = 100


def violations(scenario, seeds: int = SEEDS, *, enough: int = SEEDS) -> list[str]:
    """What the checkers said, one per failing seed, until there are `enough`: a run without an end is a long one.

    Anything but a verdict of theirs is a broken scenario.
    """
    found: list[str] = []
    for seed in range(seeds):
        if len(found) >= enough:
            break
        try:
            simulate(scenario, seed)
        except SimulationFailed as failed:
            if not isinstance(failed.__cause__, Violation):
                raise
            found.append(str(failed.__cause__))
    return found


def test_without_fences_a_stale_owners_step_is_found():
    found = violations(partial(leases.scenario, fenced=False), enough=5)
    assert len(found) >= 5
    assert violations(leases.scenario) == []


# What never ends is seen at the end of 1,800 virtual seconds: many true ones where the machine has much else to do.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["drawn_ids", "any_version", "late_rows", "cursor_first"])
def test_a_fault_around_the_log_is_found(fault):
    assert violations(partial(log.scenario, fixture=log.Fixture(**{fault: True})), seeds=60, enough=1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["no_wrapper", "no_poller", "drawn_result"])
def test_a_fault_around_the_bus_is_found(fault):
    assert violations(partial(bus.scenario, fixture=bus.Fixture(**{fault: True})), seeds=30, enough=1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nightshift.simulation", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def faulty_module(tmp_path, monkeypatch):
    """A module on the path with a scenario that fails for some seeds only."""
    (tmp_path / "faulty_scenario.py").write_text(
        "from nightshift.simulation import Violation\n"
        "async def scenario(world):\n"
        "    world.note('looks')\n"
        "    if world.draws.random() < 0.3:\n"
        "        raise Violation('it broke')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "faulty_scenario:scenario"


def test_the_runner_prints_seed_draws_trace_and_how_to_see_it_again(faulty_module):
    done = run("--seeds", "40", faulty_module)
    assert done.returncode == 1
    assert "failed: seed " in done.stdout
    assert "Violation: it broke" in done.stdout
    assert "drawn: slowness " in done.stdout
    assert "looks" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("see it again: "))
    again = run(*line.split("nightshift.simulation ")[1].split())
    assert again.returncode == 1
    assert "Violation: it broke" in again.stdout


def test_two_processes_run_the_same_seed_the_same_way():
    first, second = run("--seed", "11"), run("--seed", "11")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) == len(SCENARIOS)


def test_an_unknown_scenario_is_an_error_that_names_the_known_ones():
    done = run("--seeds", "1", "nonsense")
    assert done.returncode == 1
    assert "there are " in done.stderr
    assert "leases" in done.stderr
