"""`nightshift drain`: lets the replicas of a service finish their work and take no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.operations import RunningReplica, running_replicas
from nightshift.cli.output import note, report_error, write_json
from nightshift.devstack.parts import SUPERUSER
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.postgres import log_database
from nightshift.eventlog.settings import PostgresSettings
from nightshift.servicekit import logs
from nightshift.servicekit.replicas import EVERY_S

app = App(name="drain")

#: The services that hold work. Another relay or budget service takes over at once when one stops.
_DRAINABLE = ("orchestrator", "sandbox-gateway", "snapshotter")
_LOOK_S = 0.5
#: Each replica has reported its work once more after so many seconds, and knows of the drain.
_REPORTED_S = 2 * EVERY_S


@app.default
async def drain(
    service: str,
    *,
    off: Annotated[bool, Parameter(negative=())] = False,
    timeout: float = 600.0,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int:
    """Let all replicas of a service finish the work in hand and take no more, and wait until they hold none.

    Builds and calls wait meanwhile; nothing is lost. The drain lasts until --off, across restarts.
    NIGHTSHIFT_POSTGRES_DSN must name a role that may migrate. For example:

        nightshift drain orchestrator

        nightshift drain orchestrator --off

    Args:
        service: orchestrator, sandbox-gateway or snapshotter.
        off: End the drain: the replicas take work again.
        timeout: Seconds to wait for the work in hand. The drain goes on afterwards.
    """
    if service not in _DRAINABLE:
        raise WrongUsage(f"{service} cannot be drained", hint=f"known are {', '.join(_DRAINABLE)}")
    async with _administrator(home) as database:
        await database.fetch("SELECT nightshift.set_drained($1, $2)", service, not off)
        held = [] if off else await _wait(database, service, timeout)
    busy = [one.replica for one in held]
    if json:
        write_json({"service": service, "drained": not off, "busy": busy})
    elif not busy:
        note(f"{service} takes work again" if off else f"{service} is drained and holds no work")
    if busy:
        report_error(
            f"{service} still holds work: {', '.join(busy)}", "it finishes; run the command again to wait"
        )
        return Exit.TIMED_OUT
    return Exit.OK


@asynccontextmanager
async def _administrator(home: Path) -> AsyncIterator[Database]:
    logs.configure(level="warning", format="console")  # stdout is for data
    dsn = settings_for(PostgresSettings, home, role=SUPERUSER).postgres_dsn.get_secret_value()
    database = log_database(PgConfig(dsn=dsn, application_name="nightshift-drain"))
    try:
        yield database
    finally:
        await database.close()


async def _wait(database: Database, service: str, timeout: float) -> list[RunningReplica]:
    """Wait until no replica of the service has work. Returns the replicas that still have work after `timeout`
    seconds.
    """
    loop = asyncio.get_running_loop()
    until, begun = loop.time() + timeout, loop.time()
    while True:
        held = [
            one
            for one in await running_replicas(database)
            if one.service == service and (one.held or not one.drained)
        ]
        # A replica learns of the drain with its next report.
        settled = loop.time() - begun > _REPORTED_S
        if loop.time() >= until or (settled and not held):
            return held
        await asyncio.sleep(_LOOK_S)
