"""`nightshift compare`: shows builds side by side, for example a build and its forks."""

from collections.abc import Sequence
from typing import Any

import cyclopts

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import write_json, write_table
from nightshift.cli.recordings import Source, recorded_events
from nightshift.cli.text import dollars, short
from nightshift.contracts.events.build import BuildForked
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="compare")

#: Field of the comparison → its column.
_COLUMNS = {
    "build_id": "BUILD",
    "forked_from": "FORKED FROM",
    "status": "STATUS",
    "model": "MODEL",
    "turns": "TURNS",
    "tool_calls": "CALLS",
    "cost": "COST",
    "seconds": "SECONDS",
    "files": "FILES",
    "bytes": "BYTES",
    "same_files_as": "SAME FILES AS",
    "outcome": "OUTCOME",
}


@app.default
async def compare(*builds: Source, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Compare builds: outcome, cost, turns, files. The cost and the time of a fork are its own.

    For example:

        nightshift compare build-4f1c2a build-77aa01 build-77aa02

        nightshift compare before.nightshift.zip build-4f1c2a --json
    """
    if len(builds) < 2:
        raise WrongUsage("give two builds or more", hint="`nightshift builds` lists them")
    rows = [compared(await recorded_events(home, one)) for one in builds]
    _mark_same_files(rows)
    if json:
        write_json(rows)
        return
    shown = [{**row, "cost": dollars(int(row["cost_microusd"] or 0))} for row in rows]
    write_table(list(_COLUMNS.values()), [[row.get(name) for name in _COLUMNS] for row in shown])


def compared(events: Sequence[RecordedEvent]) -> dict[str, Any]:
    """Returns the row of one build in the comparison: outcome, cost, turns, files."""
    status, fork, saved = BuildStatus(events[0].subject), None, None
    for event in events:
        status = evolve(status, event)
        if isinstance(event.data, BuildForked):
            fork = event.data
        elif isinstance(event.data, SnapshotSaved):
            saved = event.data
    outcome = status.reason
    if status.proof is not None:
        outcome = f"{status.proof.tests_executed} tests executed" if status.proof.tests_executed else "proven"
    return {
        "build_id": status.build_id,
        "forked_from": None if fork is None else f"{fork.base_build_id} turn {fork.at_turn}",
        "status": status.state,
        "model": status.model,
        "turns": status.turns,
        "tool_calls": status.tool_calls,
        "cost_microusd": status.cost,
        "seconds": round((events[-1].recorded_at - events[0].recorded_at).total_seconds(), 1),
        "files": None if saved is None else saved.files,
        "bytes": None if saved is None else saved.bytes,
        "tree_digest": None if saved is None else saved.tree_digest,
        "outcome": None if outcome is None else short(outcome, 60),
        "build_version": status.build_version,
    }


def _mark_same_files(rows: Sequence[dict[str, Any]]) -> None:
    """Sets `same_files_as` of each row to another build whose newest snapshot has the same files, or to None."""
    for row in rows:
        same = [
            other["build_id"]
            for other in rows
            if other is not row and row["tree_digest"] and other["tree_digest"] == row["tree_digest"]
        ]
        row["same_files_as"] = same[0] if same else None
