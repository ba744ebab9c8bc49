"""Stores Attempts as committed offsets of a second consumer group, because the embedded broker discards commit
metadata.
"""

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from nightshift.bus.kafka.embedded import patches
from nightshift.bus.port import TopicPartition
from nightshift.bus.restart_guard import Attempts
from nightshift.eventlog.errors import Unavailable


class GroupAttempts:
    """Stores, for each partition of a group, how often the handling of its current message was tried.

    The number is committed as an offset of the group `<group>.attempts`. Its upper bits are the message's offset. Four
    bits count how often the handling started, and four how often the process died during it.
    """

    def __init__(self, group: str) -> None:
        self._group = f"{group}.attempts"

    def metadata(self, partition: TopicPartition, offset: int) -> str:
        """Return an empty text, because the embedded broker would discard metadata."""
        return ""

    async def read(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> Attempts | None:
        """Return the Attempts (see RestartGuard) committed for this partition, or None when there are none.

        Raises Unavailable when the broker does not answer.
        """
        request = OffsetFetchRequest(self._group, [(partition.topic, [partition.partition])])
        ((_, ((_, packed, *_),)),) = (await _answer(consumer, request)).topics
        return Attempts(packed >> 8, packed >> 4 & 15, packed & 15) if packed >= 0 else None

    async def write(self, consumer: AIOKafkaConsumer, partition: TopicPartition, attempts: Attempts) -> None:
        """Commit the Attempts (see RestartGuard) of this partition in the second group.

        Raises Unavailable when the broker does not answer.
        """
        packed = attempts.offset << 8 | min(attempts.starts, 15) << 4 | min(attempts.deaths, 15)
        commits = [(partition.topic, [(partition.partition, packed, "")])]
        await _answer(consumer, OffsetCommitRequest(self._group, -1, "", -1, commits))


async def _answer(consumer: AIOKafkaConsumer, request: Any) -> Any:
    try:
        return await patches.ask_coordinator(consumer, request)
    except (KafkaError, OSError) as error:
        raise Unavailable(f"the broker does not keep attempts: {error!r}") from error
