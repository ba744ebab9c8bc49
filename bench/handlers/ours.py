"""A handler called by the services' own consumer, with their settings. Arguments and output: as of `bare.py`."""

import asyncio
import sys
import time

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.events.build import AgentSteered
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.eventlog.postgres import log_database
from nightshift.servicekit import logs
from nightshift.servicekit.service import run_loop


async def main(bootstrap: str, topic: str, count: int, dsn: str) -> None:
    logs.configure(level="warning", format="console")
    settings = KafkaSettings(kafka_bootstrap=bootstrap, kafka_idempotence=False, kafka_adaptive_fetch=True)
    got: list[tuple[str, float]] = []
    done = asyncio.Event()

    async def handle(event: RecordedEvent) -> None:
        got.append((str(event.event_id), time.time()))
        if len(got) == count:
            done.set()

    handled = Subscription(topic, "bench", {AgentSteered: handle})
    database = log_database(PgConfig(dsn=dsn))
    async with (
        KafkaProducer(settings) as producer,
        KafkaConsumers(
            settings, [handled], producer=producer, objects=MemoryObjectStore(), database=database
        ) as consumers,
    ):
        while not consumers.assigned:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await done.wait()
    await database.close()
    for name, at in got:
        print(name, repr(at))


run_loop(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
