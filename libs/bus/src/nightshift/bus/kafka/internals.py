"""The private parts of aiokafka 0.14 that we touch, all of them, each with its reason. A test fails when one moves."""

import asyncio
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata


class Pacer(Protocol):
    """Decides when a consumer fetches again."""

    async def rest(self) -> None:
        """Returns when a fetch may leave, be it of all partitions or not."""
        ...

    async def pause(self) -> None:
        """Returns when it is time for the next fetch of all partitions."""
        ...

    def leaving(self) -> None:
        """A fetch leaves now."""
        ...

    def fetching(self) -> None:
        """A fetch of all partitions leaves now."""
        ...

    def fetched(self, *, found: bool, missed: bool) -> None:
        """What came of a fetch. `missed`: the broker told of more in a partition than it gave."""
        ...


def set_fetch_wait(consumer: AIOKafkaConsumer, milliseconds: int) -> None:
    """How long the next fetches wait at the broker; aiokafka takes it at construction only.

    Raises AttributeError when aiokafka keeps it elsewhere: then nothing would happen, silently.
    """
    fetcher = consumer._fetcher
    if not isinstance(fetcher._fetch_max_wait_ms, int):
        raise AttributeError("aiokafka's fetcher keeps its wait elsewhere now")  # noqa: TRY004 - what is missing is the attribute
    fetcher._fetch_max_wait_ms = milliseconds


def pace_fetches(consumer: AIOKafkaConsumer, pacer: Pacer) -> None:
    """Have the waiting between fetches done by `pacer` instead of the broker, which has one node.

    Partitions whose records are not taken yet are left out of a fetch: such a fetch is not waited with, and does not
    count for what it left out.
    """
    fetcher = consumer._fetcher
    fetch = fetcher._proc_fetch_request

    def covers_all(assignment: Any, request: Any) -> bool:
        fetchable = sum(not assignment.state_value(each).paused for each in assignment.tps)
        return sum(len(partitions) for _, partitions in request.topics) == fetchable

    def missed(assignment: Any, request: Any) -> bool:
        # A partition ends beyond where it was read and gave no records. aiokafka puts those that it got aside in
        # `_records`, from where nobody can have taken them when a fetch has just returned.
        asked = (
            (TopicPartition(topic, partition), offset)
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        )
        return any(
            (assignment.state_value(each).highwater or 0) > offset and each not in fetcher._records
            for each, offset in asked
        )

    async def paced(assignment: Any, node_id: int, request: Any) -> bool:
        whole = covers_all(assignment, request)
        try:
            if whole:
                await pacer.pause()
            await pacer.rest()
        except asyncio.CancelledError:
            return False  # the partitions go, or the client closes: as aiokafka's own answers it
        if whole and covers_all(assignment, request):  # none was resumed meanwhile
            pacer.fetching()
        pacer.leaving()
        brought = bool(await fetch(assignment, node_id, request))
        if assignment.active:
            pacer.fetched(found=brought, missed=missed(assignment, request))
        return brought

    fetcher._proc_fetch_request = paced


def check_coordination(consumer: AIOKafkaConsumer) -> None:
    """Raise the error that the group's coordination waits to hand over, as each poll does.

    Our poll does not return while nothing comes, and until the error is taken the coordination stands still. Raises
    KafkaError; `coordination_ended` tells whether it goes on afterwards.
    """
    consumer._coordinator.check_errors()


def coordination_ended(consumer: AIOKafkaConsumer) -> bool:
    """Whether the task that keeps the membership is over while the consumer believes to run."""
    return bool(consumer._coordinator._coordination_task.done())


async def committed(consumer: AIOKafkaConsumer, partition: TopicPartition) -> OffsetAndMetadata | None:
    """Return the committed offset with its metadata; `consumer.committed()` drops the metadata. Raises KafkaError."""
    found: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(
        [partition]
    )
    return found.get(partition)


async def ask_coordinator(consumer: AIOKafkaConsumer, request: Any) -> Any:
    """Send a request of another group to the broker that coordinates this consumer's. Raises KafkaError."""
    await consumer._coordinator.ensure_coordinator_known()
    return await consumer._coordinator._send_req(request)


def leave_any_generation(consumer: AIOKafkaConsumer) -> None:
    """Before a stop: let the member leave its group in generation 0 too.

    aiokafka takes 0 for "never joined". The embedded broker counts from 0, so its group would wait for a member that
    is gone until the session ends, three seconds at each restart of a service.
    """
    coordinator = consumer._coordinator
    if coordinator.member_id and coordinator.generation == 0:
        coordinator.generation = 1


async def close_connections(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close the sockets of a client whose orderly stop did not end."""
    await client._client.close() if isinstance(client, AIOKafkaConsumer) else await client.client.close()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> set[int] | None:
    """The partitions of a topic that is not subscribed to, without asking for it by name: some brokers would make it.

    `consumer.topics()` fetches the same and keeps only the names; `partitions_for_topic` knows subscribed topics only.
    """
    cluster = await consumer._client.fetch_all_metadata()
    found: set[int] | None = cluster.partitions_for_topic(topic)
    return found
