"""A whole small service for the tests: notes each build request in the log, as slowly as it is told.

It says `begun <build>` and `noted <build>` on stdout.
"""

import asyncio
import sys

from pydantic import SecretStr

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.contracts.events.build import BuildPhaseChanged
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, RecordedEvent
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.servicekit import service
from nightshift.servicekit.settings import Settings


class NotingSettings(Settings):
    hold_s: float = 0.0
    group: str = "noting"
    provider_key: SecretStr = SecretStr("")


async def start(running: service.Service[NotingSettings]) -> None:
    settings = running.settings
    database = log_database(PgConfig(dsn=settings.postgres_dsn.get_secret_value(), patience=0.0))
    running.on_stop(database.close)
    log = PostgresEventLog(database, actor="noting", hint=False)

    async def on_build_requested(event: RecordedEvent) -> None:
        print("begun", event.subject, flush=True)
        await asyncio.sleep(settings.hold_s)
        note = BuildPhaseChanged(from_phase="queued", to_phase="starting")
        await log.append(event.stream_id, [NewEvent(note, event.event_id)])
        print("noted", event.subject, flush=True)

    producer = await running.enter(KafkaProducer(settings))
    subscription = Subscription(
        settings.topics.requests, settings.group, {BuildRequested: on_build_requested}
    )
    consumers = await running.enter(
        KafkaConsumers(
            settings, [subscription], producer=producer, objects=MemoryObjectStore(), ground=database.answers
        )
    )
    running.ready_when("consumers", lambda: consumers.assigned)
    running.ready_when("database", database.answers)
    running.fail_when(consumers.failed, "a consumer makes no progress")


if __name__ == "__main__":
    sys.exit(service.run("noting", NotingSettings.load, start))
