"""`nightshift redrive`: repeats the recorded tool calls of a build in a fresh sandbox, without a model."""

import tempfile
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, progress, write_json, write_line
from nightshift.cli.recordings import Source, recorded_events
from nightshift.cli.snapshot_store import snapshot_store
from nightshift.contracts.events.build import BuildAccepted
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandbox_gateway.adapters.redrive import Redrive, RedrivenCall, RedrivenTree
from nightshift.sandboxes.settings import SandboxSettings, make_driver

app = cyclopts.App(name="redrive")

#: Marks the sandboxes of this command, so that gateways leave them alone.
_OWNER = "nightshift-redrive"


@app.default
async def redrive(build: Source, *, home: Home = DEFAULT_HOME, json: Json = False) -> int:
    """Run the recorded tool calls of a build in a fresh sandbox, and name the first difference. No model is called.

    Durations, ports, addresses, process ids and temporary paths are not compared; a note says where that
    mattered. After each turn the files are compared with their snapshot. The sandbox has no network. Exit code 9 says
    that something differs. Dead letters are another matter: `nightshift dlq redrive`.

    For example:

        nightshift redrive build-4f1c2a
    """
    events = await recorded_events(home, build, whole=True)
    accepted = events[0].data
    if not isinstance(accepted, BuildAccepted):
        raise Refused(f"{events[0].subject} does not begin with its acceptance")
    async with snapshot_store(home, accepted.project_id) as store:
        if store is None:
            note(
                "the snapshots cannot be read, so files are not compared: NIGHTSHIFT_SNAPSHOT_KEY is not known"
            )
        with tempfile.TemporaryDirectory(prefix="nightshift-redrive-") as folder:
            settings = SandboxSettings.load(
                s3_bucket="unused", home=home.absolute(), sandbox_dir=Path(folder), sandbox_owner=_OWNER
            )
            driver = await make_driver(settings)
            return await _report(events, Redrive(events, driver, store, settings.driver_name), as_json=json)


async def _report(events: list[RecordedEvent], run: Redrive, *, as_json: bool) -> int:
    calls = trees = 0
    first: RedrivenCall | RedrivenTree | None = None
    left_out: set[str] = set()
    skipped = 0
    async for one in run.run():
        calls += isinstance(one, RedrivenCall)
        trees += isinstance(one, RedrivenTree)
        skipped += isinstance(one, RedrivenCall) and one.skipped is not None
        left_out |= one.normalised
        progress(f"turn {one.turn}: {calls} calls, {trees} trees compared")
        if as_json:
            write_json(_as_json(one))
        if one.difference is not None and first is None:
            first = one
            if not as_json:
                what = f"call {one.call_id} ({one.tool})" if isinstance(one, RedrivenCall) else "files"
                write_line(f"turn {one.turn}, version {one.version}: {what} differ: {one.difference}")
    if left_out:
        note(f"left out of the comparison: {', '.join(sorted(left_out))}")
    note(
        f"{calls} calls ({skipped} not run) and {trees} trees: {'the first difference is above' if first else 'equal'}"
    )
    return Exit.OK if first is None else Exit.DIFFERS


def _as_json(one: RedrivenCall | RedrivenTree) -> dict[str, object]:
    shown = {name: getattr(one, name) for name in one.__slots__}
    kind = "call" if isinstance(one, RedrivenCall) else "tree"
    return {"kind": kind, **shown, "normalised": sorted(one.normalised), "difference": one.difference}
