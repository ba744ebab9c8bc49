"""Each scenario finds the faults that a test plants in it, and the command prints how to repeat a failing run."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from nightshift.simulation import SimulationFailed, Violation, simulate
from nightshift.simulation.__main__ import results_until
from nightshift.simulation.scenarios import SCENARIOS, bus, leases, log

SEEDS = 100


def violations(scenario, seeds: int = SEEDS, *, enough: int = SEEDS) -> list[str]:
    """Returns the violations, one per failing seed, and stops after `enough` of them.

    Raises when a run fails otherwise than by a violation: then the scenario itself is broken.
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


def test_a_stale_owners_step_is_found_without_fences():
    found = violations(partial(leases.scenario, fenced=False), enough=5)
    assert len(found) >= 5
    assert violations(leases.scenario) == []


# A run that never ends is found after 1,800 virtual seconds, which take many real ones on a busy machine.
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
    """Returns the import string of a scenario that fails for some seeds."""
    (tmp_path / "faulty_scenario.py").write_text(
        "from nightshift.simulation import Violation\n"
        "async def scenario(world):\n"
        "    world.note('checks')\n"
        "    if world.draws.random() < 0.3:\n"
        "        raise Violation('it broke')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "faulty_scenario:scenario"


def test_a_failing_seed_is_printed_with_trace_and_command(faulty_module):
    done = run("--seeds", "40", faulty_module)
    assert done.returncode == 1
    assert "failed: seed " in done.stdout
    assert "Violation: it broke" in done.stdout
    assert "drew: slowness " in done.stdout
    assert "checks" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("repeat it: "))
    again = run(*line.split("nightshift.simulation ")[1].split())
    assert again.returncode == 1
    assert "Violation: it broke" in again.stdout


def test_two_processes_run_a_seed_the_same_way():
    first, second = run("--seed", "11"), run("--seed", "11")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) == len(SCENARIOS)


def test_an_unknown_scenario_names_the_known_ones():
    done = run("--seeds", "1", "nonsense")
    assert done.returncode == 1
    assert "use one of " in done.stderr
    assert "leases" in done.stderr


def test_no_seed_is_tried_after_the_time_is_up() -> None:
    with ThreadPoolExecutor(1) as workers:
        assert list(results_until(time.monotonic() - 1, workers, "leases", range(3))) == []
        tried = list(results_until(time.monotonic() + 60, workers, "leases", range(3)))
        assert [result.seed for result in tried] == [0, 1, 2]
        assert tried == list(results_until(None, workers, "leases", range(3)))
