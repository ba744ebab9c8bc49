"""A record is sent or an error is raised: none is skipped."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from nightshift.bus.port import TopicPartition
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import Row
from nightshift.relay.adapters.batch_producer import BatchProducer
from nightshift.relay.domain.records import Record


class FullBatch:
    """A record batch that takes no record."""

    def append(self, **_fields):
        return None

    def close(self):
        return None


async def test_a_record_that_fits_in_no_batch_is_a_fault(monkeypatch):
    producer = BatchProducer(KafkaSettings(kafka_bootstrap="127.0.0.1:9"), ack_timeout_s=1)
    monkeypatch.setattr(producer._producer, "create_batch", FullBatch)
    row = Row(0, 1, "build-b1", 1, uuid4(), "t", 1, "{}", "b1", uuid4(), "relay", None, datetime.now(UTC))
    record = Record(TopicPartition("t", 0), b"b1", b"{}", [], row)
    with pytest.raises(Fault, match=str(row.event_id)):
        producer._builders([record])
    await producer.close()
