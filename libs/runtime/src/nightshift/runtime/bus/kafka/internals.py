"""The private parts of aiokafka 0.14 that we touch, all of them, each with its reason. A test fails when one moves."""

from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from nightshift.runtime.bus.kafka.look import Look


def set_fetch_wait(consumer: AIOKafkaConsumer, milliseconds: int) -> None:
    """How long the next fetches wait at the broker; aiokafka takes it at construction only.

    Raises AttributeError when aiokafka keeps it elsewhere: then nothing would happen, silently.
    """
    fetcher = consumer._fetcher
    if not isinstance(fetcher._fetch_max_wait_ms, int):
        raise AttributeError("aiokafka's fetcher keeps its wait elsewhere now")  # noqa: TRY004 - what is missing is the attribute
    fetcher._fetch_max_wait_ms = milliseconds


def hear_fetches(consumer: AIOKafkaConsumer, look: Look) -> None:
    """Tell `look` what came of each fetch; aiokafka says it to nobody.

    A fetch missed something when a partition ends beyond where it was read and gave no records. aiokafka puts the
    records that it got aside in `_records`, from where nobody can have taken them before we look.
    """
    fetcher = consumer._fetcher
    fetch = fetcher._proc_fetch_request

    async def heard(assignment: Any, node_id: int, request: Any) -> bool:
        found = bool(await fetch(assignment, node_id, request))
        if assignment.active:
            asked = [
                (TopicPartition(topic, partition), offset)
                for topic, partitions in request.topics
                for partition, offset, _ in partitions
            ]
            missed = any(
                (assignment.state_value(each).highwater or 0) > offset and each not in fetcher._records
                for each, offset in asked
            )
            look.fetched(found=found, missed=missed)
        return found

    fetcher._proc_fetch_request = heard


def check_coordination(consumer: AIOKafkaConsumer) -> None:
    """Raise the error that the group's coordination waits to hand over, as each poll does.

    Our poll does not return while nothing comes, and until the error is taken the coordination stands still. Raises
    KafkaError; `coordination_ended` tells whether it goes on afterwards.
    """
    consumer._coordinator.check_errors()


def coordination_ended(consumer: AIOKafkaConsumer) -> bool:
    """Whether the task that keeps the membership is over while the consumer believes to run."""
    return bool(consumer._coordinator._coordination_task.done())


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
