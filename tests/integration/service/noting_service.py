"""A small service for tests: appends an event for each build request, after `hold_s` seconds.

It says `begun <build>` and `noted <build>` on stdout.
"""

import asyncio
import sys

from pydantic import SecretStr

from nightshift.bus.port import Subscription
from nightshift.contracts.events.build import BuildPhaseChanged
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import NewEvent, RecordedEvent
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.servicekit import service
from nightshift.servicekit.application import application
from nightshift.servicekit.connect import connect
from nightshift.servicekit.settings import SettingsWithoutStore


class NotingSettings(SettingsWithoutStore):
    hold_s: float = 0.0
    group: str = "noting"
    provider_key: SecretStr = SecretStr("")


async def start(running: service.Service[NotingSettings]) -> None:
    settings = running.settings
    connections = await connect(running)
    # Without patience, so that the bus retries the handler instead of the handler waiting for the database.
    impatient = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), patience=0.0))
    running.on_stop(impatient.close)
    log = PostgresEventLog(impatient, actor="noting", notify=False)

    async def on_build_requested(event: RecordedEvent) -> None:
        print("begun", event.subject, flush=True)
        await asyncio.sleep(settings.hold_s)
        note = BuildPhaseChanged(from_phase="queued", to_phase="starting")
        await log.append(event.stream_id, [NewEvent(note, event.event_id)])
        print("noted", event.subject, flush=True)

    handlers = {BuildRequested: on_build_requested}
    await connections.consume([Subscription(settings.topics.requests, settings.group, handlers)])


app = application("noting", NotingSettings.load, start)

if __name__ == "__main__":
    sys.exit(service.run("noting", NotingSettings.load, start))
