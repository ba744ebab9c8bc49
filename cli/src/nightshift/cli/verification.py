"""Verifies many builds in parallel processes, and formats the differences."""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nightshift.cli.recordings import recorded_events
from nightshift.cli.text import short
from nightshift.contracts.model import Event
from nightshift.contracts.registry import encode
from nightshift.eventlog.errors import NightshiftError
from nightshift.orchestrator.usecases.replay import Difference, Kind, Verification, state_after, verify

#: How many builds a process verifies before it reports them. Each report updates the progress.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying one build. `error` is the reason why its events could not be read or folded, or None."""

    build_id: str
    mode: str = ""
    turn: int = 0
    events: int = 0
    decisions: int = 0
    difference: dict[str, Any] | None = None
    tolerated: dict[str, int] | None = None
    unchecked: dict[str, int] | None = None
    error: str | None = None

    @property
    def differs(self) -> bool:
        return self.difference is not None or self.error is not None

    def as_json(self) -> dict[str, Any]:
        """Returns the result in the form of `--json`."""
        return {name: getattr(self, name) for name in self.__slots__} | {"differs": self.differs}


async def verify_one(home: Path, source: str, kinds: frozenset[Kind]) -> Verified:
    """Verifies one build. Events that cannot be folded give a result with an error. Raises NotFound and Unavailable."""
    events = await recorded_events(home, source, whole=True)
    try:
        return _verified(verify(events, kinds=kinds), state_after(events))
    except NightshiftError as error:
        return Verified(events[0].subject, events=len(events), error=str(error))


def verify_many(home: Path, builds: Sequence[str], kinds: frozenset[Kind]) -> Iterator[Verified]:
    """Verifies builds on all processors. Yields the results as they become available, in no fixed order."""
    if not builds:
        return
    workers = min(os.cpu_count() or 1, -(-len(builds) // _BATCH))
    # Spawned and not forked, because this process has an event loop and threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_batch, home, list(some), kinds) for some in _batches(builds)]
        for job in as_completed(jobs):
            yield from job.result()


def _batches(builds: Sequence[str]) -> Iterator[Sequence[str]]:
    return (builds[start : start + _BATCH] for start in range(0, len(builds), _BATCH))


def _batch(home: Path, builds: list[str], kinds: frozenset[Kind]) -> list[Verified]:
    async def each() -> list[Verified]:
        found = []
        for build in builds:
            try:
                found.append(await verify_one(home, build, kinds))
            except NightshiftError as error:
                found.append(Verified(build, error=str(error)))
        return found

    return asyncio.run(each())


def _verified(found: Verification, state: Any) -> Verified:
    return Verified(
        found.build_id,
        state.mode.value,
        state.conversation.turn,
        found.version,
        found.decisions,
        None if found.difference is None else difference_json(found.difference),
        {str(kind): count for kind, count in found.tolerated.items()},
        dict(found.unchecked),
    )


def difference_json(found: Difference) -> dict[str, Any]:
    """Returns a difference as JSON values: the event in the log, and the event that this release decides."""
    return {
        "version": found.version,
        "kind": found.kind,
        "command": found.command,
        "fields": list(found.fields),
        "recorded": _side(found.recorded),
        "decided": _side(found.decided),
    }


def _side(event: Event | None) -> dict[str, Any] | None:
    return None if event is None else {"type": event.type, "data": json.loads(encode(event))}


def difference_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields lines that show a difference: where it is, then both values of each field that differs."""
    recorded, decided = found["recorded"], found["decided"]
    yield f"version {found['version']}, {found['command']}: {found['kind']} differs"
    if recorded is None or decided is None or recorded["type"] != decided["type"]:
        yield f"  recorded  {_shown(recorded)}"
        yield f"  decided   {_shown(decided)}"
        return
    for name in found["fields"]:
        yield f"  {recorded['type']} {name}"
        yield f"    recorded  {short(json.dumps(recorded['data'].get(name)), 200)}"
        yield f"    decided   {short(json.dumps(decided['data'].get(name)), 200)}"


def _shown(side: dict[str, Any] | None) -> str:
    return "nothing" if side is None else f"{side['type']} {short(json.dumps(side['data']), 160)}"
