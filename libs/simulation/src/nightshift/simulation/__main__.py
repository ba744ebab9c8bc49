"""`python -m nightshift.simulation --seeds 500 [scenario…]`: tries every scenario under many seeds.

A scenario is a name from scenarios/ or an import string `module:function`. A failing seed is printed with what it drew
and the end of its trace; `--seed N SCENARIO` shows the same run again, with the whole trace.
"""

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat

import structlog

from nightshift.simulation.run import Outcome, Scenario, SimulationFailed, simulate
from nightshift.simulation.scenarios import SCENARIOS

#: Lines of a failed run's trace that are shown when many seeds are tried.
TAIL = 25


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of a failed seed; strings only, so that it can leave the worker that found it."""

    seed: int
    text: str


def load(name: str) -> Scenario:
    """The scenario of that name or import string. Exits with the names there are when there is none."""
    module, _, function = SCENARIOS.get(name, name).partition(":")
    try:
        scenario: Scenario = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(sorted(SCENARIOS))
        sys.exit(f"error: no scenario {name!r}: {error}\nhint: there are {known}, or give module:function")
    return scenario


def attempt(name: str, seed: int, tail: int | None = TAIL) -> Outcome | Failure:
    """One seed of one scenario."""
    try:
        return simulate(load(name), seed)
    except SimulationFailed as failed:
        drawn = ", ".join(f"{option} {value:g}" for option, value in asdict(failed.profile).items())
        lines = failed.trace if tail is None else failed.trace[-tail:]
        where = f"…{len(failed.trace) - len(lines)} earlier lines\n" if len(lines) < len(failed.trace) else ""
        return Failure(seed, f"{failed}\ndrawn: {drawn}\n{where}" + "\n".join(lines))


def replay(name: str, seed: int) -> int:
    """Run one seed and print what happened in it."""
    match attempt(name, seed, tail=None):
        case Failure(text=text):
            say(text)
            return 1
        case Outcome() as outcome:
            say(f"{name}: seed {seed} keeps every promise; trace {outcome.digest[:16]}")
            return 0


def explore(names: Sequence[str], *, seeds: range, jobs: int) -> int:
    """Run every seed of every scenario; print a line per scenario, and the first failing seed of each in full."""
    failed = 0
    with ProcessPoolExecutor(jobs) as workers:
        for name in names:
            started = time.monotonic()
            results = list(workers.map(attempt, repeat(name), seeds, chunksize=10))
            say(f"{summary(name, results)}, {time.monotonic() - started:.1f} s")
            failures = [result for result in results if isinstance(result, Failure)]
            if failures:
                failed = 1
                say(f"\n{name} failed: {failures[0].text}\n")
                say(f"also failing: {[other.seed for other in failures[1:10]]}")
                say(f"see it again: {command(name, failures[0].seed)}\n")
    return failed


def summary(name: str, results: Sequence[Outcome | Failure]) -> str:
    """What was tried and how it went, for the log of a CI run."""
    runs = [result for result in results if isinstance(result, Outcome)]
    minutes = sum(run.virtual_seconds for run in runs) / 60
    faults = sum(run.faults for run in runs)
    return (
        f"{name}: {len(results)} seeds, {minutes:.0f} simulated minutes, {faults} faults, "
        f"{len(results) - len(runs)} failures"
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(name: str, seed: int) -> str:
    """How a person repeats this run."""
    return f"python -m nightshift.simulation --seed {seed} {name}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m nightshift.simulation", description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=sorted(SCENARIOS), metavar="scenario")
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to try (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--seed", type=int, help="only this one, with its whole trace when it fails")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)"
    )
    options = parser.parse_args()
    # What the code under test logs is expected here: faults are what it is given.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in options.scenarios:
        load(name)
    if options.seed is not None:
        return max(replay(name, options.seed) for name in options.scenarios)
    seeds = range(options.first, options.first + options.seeds)
    return explore(options.scenarios, seeds=seeds, jobs=options.jobs)


def fix_hashes() -> None:
    """Start again with fixed string hashes: the order of a set must not differ between a run and its replay."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


if __name__ == "__main__":
    fix_hashes()
    sys.exit(main())
