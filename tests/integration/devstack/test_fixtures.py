"""The fixtures that all integration tests stand on."""

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from tests.support.stack import Database

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address


async def test_each_test_has_a_database_of_its_own(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn())
    try:
        await connection.execute("CREATE TABLE mine (n int)")
        assert await connection.fetchval("SELECT current_database()") == database.name
    finally:
        await connection.close()


async def test_the_other_test_sees_nothing_of_it(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn())
    try:
        assert await connection.fetchval("SELECT to_regclass('mine')") is None
    finally:
        await connection.close()


@pytest.mark.kafka
async def test_topics_take_and_give_records(kafka: KafkaAddress, topics: Topics) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, enable_idempotence=kafka.idempotence, acks="all"
    )
    consumer = AIOKafkaConsumer(
        topics.build, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    async with producer, consumer:
        await producer.send_and_wait(topics.build, b"value", key=b"key")
        record = await consumer.getone()
    assert (record.key, record.value) == (b"key", b"value")


def test_the_bucket_is_there(s3: S3Address) -> None:
    assert s3.endpoint.startswith("http://127.0.0.1:")
    assert s3.bucket == "nightshift"


def test_markers_come_from_the_top_folder(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("integration") is not None
