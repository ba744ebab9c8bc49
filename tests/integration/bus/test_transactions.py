"""Messages of other producers' transactions: only committed ones are read, and the markers are committed past."""

import pytest
from aiokafka import AIOKafkaProducer
from tests.integration.bus.conftest import KafkaRig
from tests.support.bus_suite import Seen, request
from tests.support.waiting import eventually

from nightshift.bus.kafka.progress import partition_progress
from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.events.requests import BuildRequested
from nightshift.devstack.parts import KafkaAddress

pytestmark = pytest.mark.kafka


async def test_aborted_transactions_are_not_read(rig: KafkaRig, kafka: KafkaAddress) -> None:
    if not kafka.idempotence:
        pytest.skip("the embedded broker has no transactions")
    group, topic, seen = f"{rig.topics.prefix}.r", rig.topics.requests, Seen()
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{rig.topics.prefix}.t")
    await producer.start()
    try:
        async with rig.consumers(Subscription(topic, group, {BuildRequested: seen})):
            for build, commits in (("kept", True), ("dropped", False)):
                await producer.begin_transaction()
                message = request(build)
                await producer.send_and_wait(
                    topic, message.value, message.key, partition=0, headers=list(message.headers)
                )
                await (producer.commit_transaction() if commits else producer.abort_transaction())
            # Four offsets so far: two messages and two markers.
            await eventually(lambda: rig.committed_at(group, topic, 0, 4), timeout=20)
            (idle, _) = await partition_progress(rig.settings, {group: topic})
            assert (idle.end, idle.unread, idle.waiting_s) == (4, 0, None)
            message = request("after")
            await rig.producer.send(
                [Outgoing(topic, message.key, message.value, message.headers, partition=0)]
            )
            await eventually(lambda: seen.subjects == ["kept", "after"], timeout=20)
    finally:
        await producer.stop()
    assert await rig.dead_letters().list() == []
