"""Runs scenarios under many seeds: `python -m nightshift.simulation --seeds 500 [scenario…]`.

A scenario is a name from scenarios/ or an import string `module:function`. For a failing seed it prints the fault
profile and the end of the trace. `--seed N SCENARIO` repeats one run and prints its whole trace if it fails.
"""

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat

import structlog

from nightshift.simulation.run import Outcome, Scenario, SimulationFailed, simulate
from nightshift.simulation.scenarios import SCENARIOS

#: How many lines of a failed run's trace are printed when many seeds are tried.
TAIL = 25
#: How many seeds are submitted together when the time is limited.
_AT_ONCE = 40


@dataclass(frozen=True, slots=True)
class Failure:
    """The report of a failed seed. It contains only plain data, because a worker process returns it."""

    seed: int
    text: str


def load(name: str) -> Scenario:
    """Returns the scenario with this name or import string. Exits with a list of the names when there is none."""
    module, _, function = SCENARIOS.get(name, name).partition(":")
    try:
        scenario: Scenario = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(sorted(SCENARIOS))
        sys.exit(f"error: no scenario {name!r}: {error}\nhint: use one of {known}, or module:function")
    return scenario


def attempt(name: str, seed: int, tail: int | None = TAIL) -> Outcome | Failure:
    """Runs one seed of a scenario. A Failure has the last `tail` lines of the trace, or with None the whole trace."""
    try:
        return simulate(load(name), seed)
    except SimulationFailed as failed:
        drawn = ", ".join(f"{option} {value:g}" for option, value in asdict(failed.profile).items())
        lines = failed.trace if tail is None else failed.trace[-tail:]
        where = f"…{len(failed.trace) - len(lines)} earlier lines\n" if len(lines) < len(failed.trace) else ""
        return Failure(seed, f"{failed}\ndrew: {drawn}\n{where}" + "\n".join(lines))


def replay(name: str, seed: int) -> int:
    """Runs one seed and prints the whole trace if it fails. Returns the exit code of the process."""
    match attempt(name, seed, tail=None):
        case Failure(text=text):
            write(text)
            return 1
        case Outcome() as outcome:
            write(f"{name}: seed {seed} broke no invariant; trace {outcome.digest[:16]}")
            return 0


def explore(names: Sequence[str], *, seeds: range, jobs: int, within_s: float | None = None) -> int:
    """Runs every seed of every scenario, in `jobs` worker processes, and prints one line for each scenario. Returns the
    exit code of the process.

    When seeds of a scenario fail, prints the report of the first and the numbers of the others. A scenario starts no
    more seeds after `within_s` seconds.
    """
    failed = 0
    with ProcessPoolExecutor(jobs) as workers:
        for name in names:
            started = time.monotonic()
            until = None if within_s is None else started + within_s
            results = list(results_until(until, workers, name, seeds))
            write(f"{summary(name, results)}, {time.monotonic() - started:.1f} s")
            if len(results) < len(seeds):
                write(f"{name}: the time was up before the other {len(seeds) - len(results)} seeds")
            failures = [result for result in results if isinstance(result, Failure)]
            if failures:
                failed = 1
                write(f"\n{name} failed: {failures[0].text}\n")
                write(f"also failing: {[other.seed for other in failures[1:]]}")
                write(f"repeat it: {command(name, failures[0].seed)}\n")
    return failed


def results_until(
    until: float | None, workers: Executor, name: str, seeds: range
) -> Iterator[Outcome | Failure]:
    """Yields the results in the order of the seeds. Submits no more seeds after the monotonic time `until`."""
    step = _AT_ONCE if until is not None else max(len(seeds), 1)
    for first in range(0, len(seeds), step):
        if until is not None and time.monotonic() >= until:
            return
        yield from workers.map(attempt, repeat(name), seeds[first : first + step], chunksize=10)


def summary(name: str, results: Sequence[Outcome | Failure]) -> str:
    """Returns one line for the log: seeds, simulated minutes, faults and failures."""
    runs = [result for result in results if isinstance(result, Outcome)]
    minutes = sum(run.virtual_seconds for run in runs) / 60
    faults = sum(run.faults for run in runs)
    return (
        f"{name}: {len(results)} seeds, {minutes:.0f} simulated minutes, {faults} faults, "
        f"{len(results) - len(runs)} failures"
    )


def write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(name: str, seed: int) -> str:
    """Returns the shell command that repeats the run of this scenario and seed."""
    return f"python -m nightshift.simulation --seed {seed} {name}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m nightshift.simulation", description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=sorted(SCENARIOS), metavar="scenario")
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to try (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first seed (default: 0)")
    parser.add_argument(
        "--within", type=float, metavar="S", help="start no more seeds of a scenario after S seconds"
    )
    parser.add_argument("--seed", type=int, help="run only this seed, and print its whole trace if it fails")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="number of worker processes (default: 2)",
    )
    options = parser.parse_args()
    # The code under test would log every fault that the simulation causes.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in options.scenarios:
        load(name)
    if options.seed is not None:
        return max(replay(name, options.seed) for name in options.scenarios)
    seeds = range(options.first, options.first + options.seeds)
    return explore(options.scenarios, seeds=seeds, jobs=options.jobs, within_s=options.within)


def fix_hashes() -> None:
    """Restarts Python with fixed string hashes, so that sets have the same order when a run is repeated."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


if __name__ == "__main__":
    fix_hashes()
    sys.exit(main())
