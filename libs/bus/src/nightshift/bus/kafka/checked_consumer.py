"""aiokafka's consumer, with every fetched batch checked first and no record counted as read that was not returned."""

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.protocol.fetch import FetchRequest

from nightshift.bus.kafka.record_check import CheckedRecords, check
from nightshift.bus.port import Undecodable

_log = structlog.get_logger(__name__)

#: How often a damaged batch is fetched before it is taken for damaged at the broker.
_FETCHES_OF_DAMAGED = 3


class CheckedConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """Returns an `Undecodable` in the place of records that do not decode.

    Uses two private parts of aiokafka 0.14, which a test guards: the client's `send`, to see each answer before the
    fetcher does, and the assignment's positions.
    """

    def __init__(self, *topics: str, **arguments: Any) -> None:
        super().__init__(*topics, **{**arguments, "check_crcs": False})
        self._undecodable: dict[TopicPartition, dict[int, Undecodable]] = {}
        self._damaged: dict[TopicPartition, tuple[int, int]] = {}  # position, fetches in vain
        self._fetched_from: dict[TopicPartition, int] = {}  # the first position fetched since the poll began
        self.handing_over = False  # records were returned, and the next poll has not begun
        self._send_unchecked = self._client.send
        self._client.send = self._send_and_check

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord | Undecodable]]:
        """Return records as aiokafka does.

        Raises KafkaError when aiokafka fails in any way. Its positions are then set back to where they were, because
        it may have counted records as read that it did not return.
        """
        self._fetched_from.clear()
        self.handing_over = False
        assignment, positions = self._positions()
        try:
            found = await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
        except (asyncio.CancelledError, ConsumerStoppedError):
            raise
        except Exception as error:
            self._set_back(assignment, {**self._fetched_from, **positions})
            if isinstance(error, KafkaError):
                raise
            raise KafkaError(f"the client failed while it decoded records: {error!r}") from error
        self.handing_over = bool(found)
        return self._with_undecodable(found) if self._undecodable else found

    @property
    def returned_to(self) -> dict[TopicPartition, int]:
        """The offset up to which each partition's records were returned. Empty while some are handed over."""
        return {} if self.handing_over else self._positions()[1]

    def _with_undecodable(self, found: dict[TopicPartition, list[Any]]) -> dict[TopicPartition, list[Any]]:
        for partition, records in found.items():
            replaced = self._undecodable.get(partition)
            if replaced:
                found[partition] = [replaced.pop(record.offset, record) for record in records]
        return found

    async def _send_and_check(self, node_id: int, request: Any, **more: Any) -> Any:
        response = await self._send_unchecked(node_id, request, **more)
        if isinstance(request, FetchRequest):
            asked = {
                (topic, partition): position
                for topic, partitions in request.topics
                for partition, position, _ in partitions
            }
            response.topics = [
                (
                    topic,
                    [self._checked(topic, answer, asked.get((topic, answer[0]), 0)) for answer in answers],
                )
                for topic, answers in response.topics
            ]
        return response

    def _checked(self, topic: str, answer: tuple[Any, ...], position: int) -> tuple[Any, ...]:
        """Check one partition of a fetch answer: a tuple of number, error, high watermark, …, record batches."""
        partition, _, end, *_, data = answer
        if not data:
            return answer
        key = TopicPartition(topic, partition)
        self._fetched_from.setdefault(key, position)
        where, fetches = self._damaged.pop(key, (position, 0)) if self._damaged else (position, 0)
        fetches = fetches + 1 if where == position else 1
        found = check(
            topic, partition, data, position=position, end=end, final=fetches >= _FETCHES_OF_DAMAGED
        )
        if found.damaged is not None:
            self._remember_damaged(key, position, fetches, found)
        if found.undecodable or key in self._undecodable:
            self._undecodable[key] = found.undecodable
        return answer if found.data is data else (*answer[:-1], found.data)

    def _remember_damaged(
        self, key: TopicPartition, position: int, fetches: int, found: CheckedRecords
    ) -> None:
        """Log the damage. Count the fetch only when the damaged batch comes first, so nothing can be read before it."""
        _log.warning(
            "batch.damaged",
            topic=key.topic,
            partition=key.partition,
            position=position,
            fetches=fetches,
            problem=found.damaged,
        )
        if not found.data:
            self._damaged[key] = (position, fetches)

    def _positions(self) -> tuple[Any, dict[TopicPartition, int]]:
        subscription = self._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return None, {}
        states = {each: assignment.state_value(each) for each in assignment.tps}
        return assignment, {
            each: state.position for each, state in states.items() if state.has_valid_position
        }

    def _set_back(self, assignment: Any, positions: dict[TopicPartition, int]) -> None:
        """Set the positions of the partitions that are still assigned."""
        if assignment is not None and assignment.active:
            for partition, position in positions.items():
                if partition in assignment.tps:
                    self.seek(partition, position)
