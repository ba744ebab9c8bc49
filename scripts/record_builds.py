"""Records builds of this release as fixtures: `.venv/bin/python scripts/record_builds.py`, once before each release.

Later releases fold and verify them in CI, so a change that a sleeping build would not survive is seen before it ships.
The builds come from the simulation: with errors, sleeps, questions, pauses, cancels and crashes, always the same.
"""

import json
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import structlog

_ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(_ROOT))

from tests.memory.deployment.scenario import scenario  # noqa: E402
from tests.support.long_build import long_build  # noqa: E402

from nightshift.cli.event_lines import event_json  # noqa: E402
from nightshift.eventlog.port import RecordedEvent  # noqa: E402
from nightshift.orchestrator.usecases.replay import verify  # noqa: E402
from nightshift.simulation import World, simulate  # noqa: E402

FOLDER = _ROOT / "tests/unit/orchestrator/recorded"
#: Seeds whose builds are tried, and the number of builds that are kept: each adds a type of event or of end.
_SEEDS, _KEPT = 40, 10


def main() -> None:
    """Writes one file for each build below the folder of this release."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder = FOLDER / version("nightshift-orchestrator")
    folder.mkdir(parents=True, exist_ok=True)
    builds = [long_build(3), *_various(_simulated())]
    for number, events in enumerate(builds, start=1):
        lines = "".join(json.dumps(event_json(one), sort_keys=True) + "\n" for one in events)
        (folder / f"{number:02}-{events[-1].data.type}.jsonl").write_text(lines, encoding="utf-8")
    print(f"{len(builds)} builds in {folder}")


def _simulated() -> list[Sequence[RecordedEvent]]:
    found: list[Sequence[RecordedEvent]] = []

    async def collect(world: World) -> None:
        deployment = await scenario(world)
        builds = filter(None, map(deployment.recorded, deployment.build_ids))
        # The fixtures are verified with the default settings, which the simulation does not have.
        found.extend(one for one in builds if verify(one).difference is None)

    for seed in range(_SEEDS):
        simulate(collect, seed)
    return found


def _various(builds: Sequence[Sequence[RecordedEvent]]) -> list[Sequence[RecordedEvent]]:
    """Returns the builds that together have the most kinds of events, each adding some."""
    kept: list[Sequence[RecordedEvent]] = []
    seen: set[str] = set()
    while len(kept) < _KEPT and (best := max(builds, key=lambda one: len(_kinds(one) - seen))):
        if not _kinds(best) - seen:
            break
        kept.append(best)
        seen |= _kinds(best)
    return kept


def _kinds(events: Sequence[RecordedEvent]) -> set[str]:
    """Returns the types of a build's events, each with its reason or kind, and the pairs that follow each other."""
    names = [
        " ".join(str(one.data.__dict__.get(name, "")) for name in ("reason", "kind", "to_phase", "purpose"))
        + one.data.type
        for one in events
    ]
    return {*names, *(f"{one} {two}" for one, two in pairwise(names))}


if __name__ == "__main__":
    main()
