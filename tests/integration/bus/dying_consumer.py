"""A process that consumes requests and ends by SIGKILL when it handles one for the build `killer`.

Arguments: bootstrap address, topic prefix, idempotence (0 or 1). Prints each build that it has handled.
"""

import asyncio
import os
import signal
import sys

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent


async def handle(event: RecordedEvent) -> None:
    if event.subject == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"handled {event.subject}", flush=True)


async def main(bootstrap: str, prefix: str, idempotence: str) -> None:
    settings = KafkaSettings(
        kafka_bootstrap=bootstrap,
        kafka_idempotence=idempotence == "1",
        kafka_adaptive_fetch=idempotence == "0",
        topic_prefix=prefix,
        kafka_session_timeout_s=6.0 if idempotence == "1" else 1.0,
    )
    subscription = Subscription(settings.topics.requests, f"{prefix}.dying", {BuildRequested: handle})
    async with (
        KafkaProducer(settings) as producer,
        KafkaConsumers(settings, [subscription], producer=producer, objects=MemoryObjectStore()),
    ):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
