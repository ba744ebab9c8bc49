"""`nightshift gc`: deletes snapshots that no retention rule keeps, and stored contents that no snapshot needs."""

from collections.abc import Mapping
from typing import Annotated, Any

import cyclopts
from cyclopts.validators import Number

from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.snapshots.garbage import Beaten, Collector
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.retention import RetentionRules, keep, keys_of

app = cyclopts.App(name="gc")

_COLUMNS = ("project", "doomed", "spared", "rewritten", "deleted", "deleted_bytes")


@app.default
async def gc(
    *,
    keep_last: Annotated[int, cyclopts.Parameter(validator=Number(gte=0))] = 10,
    keep_for: Annotated[tuple[str, ...], cyclopts.Parameter("--keep", negative=())] = (),
    dry_run: Annotated[bool, cyclopts.Parameter(negative=())] = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Delete old snapshots, and contents that no snapshot needs. One run marks them, and a run a day later deletes.

    A running build keeps everything, and snapshots from which forks start are kept. A finished build keeps its
    newest --keep-last snapshots, and always the last one. Run it once a day. It may run during builds, and several
    times at once.

    For example:

        nightshift gc --dry-run

        nightshift gc --keep-last 5 --keep acme=50

    Args:
        keep_last: The number of newest snapshots that a finished build keeps.
        keep_for: Another number for an account, such as acme=50. May be given several times.
        dry_run: Only print what the run would do.
    """
    rules = RetentionRules(keep_last, dict(map(_account_rule, keep_for)))
    rows, unknown = [], set[str]()
    async with open_builds(home) as builds, S3ObjectStore(settings_for(ObjectStoreSettings, home)) as objects:
        stored = await _stored_builds(objects)
        # Read after the store, so that every build whose manifest was listed is in the log.
        known = {build_id: keys_of(await builds.events(build_id)) for build_id in await builds.accepted()}
        for project, build_ids in sorted(stored.items()):
            unknown |= build_ids - known.keys()
            collector = Collector(objects, ProjectKey(project, b""), keep(known, rules))
            try:
                done = await collector.collect(dry_run=dry_run)
            except Beaten:
                note(f"{project}: another collection runs; left to it")
                continue
            counts = {name: len(getattr(done, name)) for name in ("doomed", "spared", "rewritten", "deleted")}
            rows.append({"project": project, **counts, "deleted_bytes": done.deleted_bytes})
    if unknown:
        note(f"kept, because the log does not know their builds: {', '.join(sorted(unknown)[:20])}")
    _print(rows, dry_run=dry_run, json=json)


def _print(rows: list[dict[str, Any]], *, dry_run: bool, json: bool) -> None:
    if json:
        write_json({"dry_run": dry_run, "projects": rows})
        return
    titles = [name.replace("_", " ").upper() for name in _COLUMNS]
    write_table(titles, [[row[name] for name in _COLUMNS] for row in rows])
    if dry_run:
        note("nothing was changed: this was a dry run")


def _account_rule(text: str) -> tuple[str, int]:
    account, _, number = text.rpartition("=")
    if not account or not number.isdecimal():
        raise WrongUsage(f"--keep {text}: not an account and a number", hint="such as --keep acme=50")
    return account, int(number)


async def _stored_builds(objects: ObjectStore) -> Mapping[str, set[str]]:
    """Returns project → the builds that have manifests in the object store."""
    found: dict[str, set[str]] = {}
    async for one in objects.list("projects/"):
        parts = one.key.split("/")
        builds = found.setdefault(parts[1], set())
        if len(parts) == 5 and parts[2] == "builds":
            builds.add(parts[3])
    return found
