"""`nightshift import`: reads the archive of a build into this installation, as history."""

from pathlib import Path

import cyclopts

from nightshift.cli.archive import Archive, read_archive
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.output import progress, write_result
from nightshift.cli.queries import open_database
from nightshift.contracts.registry import encode
from nightshift.devstack.parts import SUPERUSER
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.orchestrator.usecases.replay import state_after

app = cyclopts.App(name="import")

_IMPORT = "SELECT nightshift.import_stream($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


@app.default
async def import_(archive: Path, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Read an archive of `nightshift export` into this installation, with its versions, ids and times.

    The build is history here: no service runs it, and nothing is published. Replay, verify, compare or fork it. Its
    snapshots can be restored when both installations have the same snapshot key.

    NIGHTSHIFT_POSTGRES_DSN must name the owner of the schema, as for `nightshift db migrate`.

    For example:

        nightshift import night.nightshift.zip

    Args:
        archive: The file that `nightshift export` wrote.
    """
    read = read_archive(archive)
    if read.redacted:
        raise Refused(
            f"{archive.name} is redacted, so it is no complete build",
            hint="`nightshift replay`, `verify` and `compare` read it as a file",
        )
    state_after(read.events)  # raises an error with the position when the events cannot be folded
    objects = await _put_objects(read, home)
    async with open_database(home, role=SUPERUSER) as database:
        await _insert(read, database)
    sent = {"build_id": read.build_id, "events": len(read.events), "objects": objects}
    write_result(sent, f"{read.build_id}: {len(read.events)} events, {objects} objects", as_json=json)


async def _put_objects(read: Archive, home: Path) -> int:
    """Stores the archive's objects under their keys and returns their number.

    Called before the events are inserted, so that no event refers to a missing object.
    """
    if not read.keys:
        return 0
    async with S3ObjectStore(settings_for(ObjectStoreSettings, home)) as store:
        for number, key in enumerate(read.keys, start=1):
            await store.put_if_absent(key, read.object(key))
            progress(f"{number} of {len(read.keys)} objects")
    return len(read.keys)


async def _insert(read: Archive, database: Database) -> None:
    events = read.events
    await database.fetch(
        _IMPORT,
        events[0].stream_id,
        [one.event_id for one in events],
        [one.data.type for one in events],
        [one.data.version for one in events],
        [encode(one.data) for one in events],
        [one.correlation_id for one in events],
        [one.causation_id for one in events],
        [one.actor for one in events],
        [one.traceparent for one in events],
        [one.recorded_at for one in events],
    )
