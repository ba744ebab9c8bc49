"""The private parts of aiokafka 0.14 that the workarounds for the embedded broker change.

A test fails when aiokafka changes one of them.
"""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from nightshift.bus.kafka.embedded.fetch_throttle import FetchThrottle


def set_fetch_wait(consumer: AIOKafkaConsumer, milliseconds: int) -> None:
    """Set how long this consumer's next fetches wait at the broker. aiokafka itself accepts it at construction only.

    Raises AttributeError when this version of aiokafka keeps the value elsewhere, because setting it would do nothing.
    """
    fetcher = consumer._fetcher
    if not isinstance(fetcher._fetch_max_wait_ms, int):
        raise AttributeError("aiokafka's fetcher keeps its wait elsewhere now")  # noqa: TRY004 - what is missing is the attribute
    fetcher._fetch_max_wait_ms = milliseconds


def throttle_fetches(consumer: AIOKafkaConsumer, throttle: FetchThrottle) -> None:
    """Let `throttle` delay this consumer's fetches. The embedded broker is one node, so one fetch runs at a time.

    aiokafka leaves out partitions whose records it has not returned yet. A fetch without some partitions is not
    delayed.
    """
    fetcher = consumer._fetcher
    fetch = fetcher._proc_fetch_request

    def covers_all(assignment: Any, request: Any) -> bool:
        fetchable = sum(not assignment.state_value(each).paused for each in assignment.tps)
        return sum(len(partitions) for _, partitions in request.topics) == fetchable

    def missed(assignment: Any, request: Any) -> bool:
        # True when a partition ends beyond the fetched offset but returned no records. aiokafka keeps fetched records
        # in `_records`; right after a fetch no poll can have taken them.
        asked = (
            (TopicPartition(topic, partition), offset)
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        )
        return any(
            (assignment.state_value(each).highwater or 0) > offset and each not in fetcher._records
            for each, offset in asked
        )

    async def throttled(assignment: Any, node_id: int, request: Any) -> bool:
        whole = covers_all(assignment, request)
        try:
            if whole:
                await throttle.pause()
            await throttle.rest()
        except asyncio.CancelledError:
            return False  # revoked or closing: aiokafka returns False then, too
        if whole and covers_all(assignment, request):  # no partition was resumed meanwhile
            throttle.fetching()
        throttle.leaving()
        brought = bool(await fetch(assignment, node_id, request))
        if assignment.active:
            throttle.fetched(found=brought, missed=missed(assignment, request))
        return brought

    fetcher._proc_fetch_request = throttled


def leave_any_generation(consumer: AIOKafkaConsumer) -> None:
    """Let a consumer leave its group even in generation 0. Call this before the consumer stops.

    aiokafka takes generation 0 for "never joined" and does not leave, but the embedded broker counts from 0. Its group
    would then wait for the consumer until the session times out.
    """
    coordinator = consumer._coordinator
    if coordinator.member_id and coordinator.generation == 0:
        coordinator.generation = 1


async def ask_coordinator(consumer: AIOKafkaConsumer, request: Any) -> Any:
    """Send a request about another group to the broker that coordinates this consumer's group. Raises KafkaError."""
    await consumer._coordinator.ensure_coordinator_known()
    return await consumer._coordinator._send_req(request)
