"""The workarounds for the embedded broker are loaded for that broker only."""

import subprocess
import sys

import pytest

_CONSUMERS = """
import asyncio, sys
from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.objects.memory import MemoryObjectStore

async def main(adaptive):
    settings = KafkaSettings(kafka_bootstrap="127.0.0.1:1", **adaptive)
    subscription = Subscription(settings.topics.requests, "g", {BuildRequested: None})
    producer = KafkaProducer(settings)
    KafkaConsumers(settings, [subscription], producer=producer, objects=MemoryObjectStore())
    print([name for name in sys.modules if "bus.kafka.embedded" in name])

asyncio.run(main(ADAPTIVE))
"""


@pytest.mark.parametrize(("adaptive", "loaded"), [("{}", False), ("{'kafka_adaptive_fetch': True}", True)])
def test_workarounds_are_loaded_for_the_embedded_broker_only(adaptive: str, loaded: bool) -> None:
    script = _CONSUMERS.replace("ADAPTIVE", adaptive)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("fetch_throttle" in done.stdout) is loaded, done.stdout
    assert (done.stdout.strip() == "[]") is not loaded
