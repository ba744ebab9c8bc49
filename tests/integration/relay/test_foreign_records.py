"""What others put on a topic of facts does not stop the relay from reading back its own records."""

import pytest
from tests.support.bus_suite import fact
from tests.support.record_batches import batch, produce, with_field

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing, TopicPartition
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.relay.adapters.kafka_session import KafkaConnector

pytestmark = pytest.mark.kafka


async def test_undecodable_record_does_not_stop_the_read_back(kafka: KafkaAddress, topics: Topics) -> None:
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_idempotence=kafka.idempotence, topic_prefix=topics.prefix
    )
    partition = TopicPartition(topics.build, 0)
    async with KafkaProducer(settings) as producer:
        await producer.send([_to(partition, 1)])
        error = await produce(
            kafka.bootstrap, *partition, bytes(with_field(batch((b"k", b"v", ())), attributes=3))
        )
        if error:
            pytest.skip(f"this broker refuses it: error {error}")
        await producer.send([_to(partition, 2)])
    async with KafkaConnector(settings, ack_timeout_s=10).connect() as session:
        read = [record async for record in session.read({partition: (0, 3)})]
    assert [(record.offset, "ce_id" in record.headers) for record in read] == [
        (0, True),
        (1, False),
        (2, True),
    ]


def _to(partition: TopicPartition, version: int) -> Outgoing:
    message = fact("b1", version)
    return Outgoing(partition.topic, message.key, message.value, message.headers, partition.partition)
