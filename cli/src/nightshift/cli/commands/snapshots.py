"""`nightshift snapshots`: lists the snapshots of a build."""

from typing import Any

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.moments import turn_at
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.snapshot import SnapshotSaved

app = cyclopts.App(name="snapshots")

_COLUMNS = {
    "turn": "TURN",
    "version": "VERSION",
    "at": "SAVED",
    "reason": "REASON",
    "consistency": "TREE",
    "files": "FILES",
    "bytes": "BYTES",
    "sent": "SENT",
    "not_saved": "NOT SAVED",
}


@app.default
async def snapshots(build: BuildId, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """List the snapshots of a build, oldest first, with the turn of each and what could not be saved.

    For example:

        nightshift snapshots build-4f1c2a
    """
    async with open_builds(home) as builds:
        events = await builds.events(build)
    rows: list[dict[str, Any]] = [
        {
            "turn": turn_at(events, fact.at_version),
            "version": fact.at_version,
            "at": event.recorded_at,
            "reason": fact.reason,
            "consistency": fact.consistency or "not known",
            "files": fact.files,
            "bytes": fact.bytes,
            "sent": fact.uploaded_bytes,
            "not_saved": fact.skipped_count or 0,
            "key": fact.key,
        }
        for event in events
        if isinstance(fact := event.data, SnapshotSaved)
    ]
    if json:
        write_json(rows)
    elif not rows:
        note(f"{build} has no snapshot yet")
    else:
        shown = [{**row, "at": f"{row['at'].astimezone():%Y-%m-%d %H:%M:%S}"} for row in rows]
        write_table(list(_COLUMNS.values()), [[row[name] for name in _COLUMNS] for row in shown])
