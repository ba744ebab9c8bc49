"""`nightshift db`: migrates the event log's database, and shows its migrations."""

from dataclasses import asdict
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, write_json, write_line, write_table
from nightshift.devstack.parts import SUPERUSER
from nightshift.eventlog.migrate import migrate as migrate_database
from nightshift.eventlog.migrate import status as database_status
from nightshift.eventlog.settings import PostgresSettings
from nightshift.servicekit import logs

app = cyclopts.App(name="db", help="Migrate the event log's database, and show its migrations.")


@app.command
async def migrate(*, json: Json = False, home: Home = DEFAULT_HOME) -> None:
    """Migrate the database to this release: roles, tables, functions, event types.

    Several replicas may run it at the same time, and again. NIGHTSHIFT_POSTGRES_DSN must name a superuser, or a role
    that may create roles and schemas. A database of a newer release is not changed.

    For example:

        nightshift db migrate
    """
    applied = await migrate_database(_dsn(home))
    if json:
        write_json({"applied": list(applied)})
        return
    for name in applied:
        write_line(name)
    note(f"{len(applied)} applied" if applied else "nothing to apply")


@app.command
async def status(*, json: Json = False, home: Home = DEFAULT_HOME) -> int:
    """Show each migration: applied, waiting, changed since it was applied, or unknown to this release.

    Exits with 4 unless all migrations of this release are applied unchanged.

    For example:

        nightshift db status --json
    """
    states = await database_status(_dsn(home))
    if json:
        write_json([asdict(one) for one in states])
    else:
        rows = [(one.name, one.state, one.applied_at) for one in states]
        write_table(("MIGRATION", "STATE", "APPLIED"), rows)
    ready = all(one.state in ("applied", "unknown") for one in states)
    return Exit.OK if ready else Exit.CONFIGURATION


def _dsn(home: Path) -> str:
    logs.configure(level="warning", format="console")  # stdout is for data
    return settings_for(PostgresSettings, home, role=SUPERUSER).postgres_dsn.get_secret_value()
