"""An aiokafka consumer that survives records which do not decode.

It checks every fetched batch before aiokafka decodes it. After any error it reads again all records that it has not
returned.
"""

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.protocol.fetch import FetchRequest

from nightshift.bus.kafka.record_check import CheckedRecords, check
from nightshift.bus.port import Undecodable

_log = structlog.get_logger(__name__)

#: A batch that arrived damaged in so many fetches is damaged at the broker, not on the way.
_FETCHES_OF_DAMAGED = 3


class CheckedConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An aiokafka consumer that returns an `Undecodable` in place of records that do not decode.

    It uses two private parts of aiokafka 0.14, and a test fails when they change. It wraps the client's `send` to
    check each response before aiokafka's fetcher gets it. It reads positions from the assignment's private state.
    """

    def __init__(self, *topics: str, **arguments: Any) -> None:
        super().__init__(*topics, **{**arguments, "check_crcs": False})
        self._undecodable: dict[TopicPartition, dict[int, Undecodable]] = {}
        # The position of the damaged batch, and how often it arrived damaged.
        self._damaged: dict[TopicPartition, tuple[int, int]] = {}
        # The lowest position fetched during the current poll.
        self._fetched_from: dict[TopicPartition, int] = {}
        self.handing_over = False  # from the return of records until the next poll
        self._send_unchecked = self._client.send
        self._client.send = self._send_and_check

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord | Undecodable]]:
        """Return the next records of these partitions, as aiokafka does. Raises KafkaError for any failure of
        aiokafka.

        After a failure, sets the positions back to those before the call. Otherwise records could be lost, because
        aiokafka advances its positions before it returns the records.
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
        """The position of each partition. `getmany` has returned all records before that position.

        Empty after `getmany` has returned records, until it is called again: the caller may not have queued these
        records yet.
        """
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
        """Return one partition of a fetch response with only those record batches that decode.

        `answer` is a tuple of partition number, error, high watermark, …, record batches.
        """
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
        """Log a damaged batch. Count this fetch of it only when the damaged batch is the first one.

        Otherwise the batches before it are read first, and the next fetch starts at the damaged batch.
        """
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
        """Set the consumer back to these positions, in the partitions that are still assigned."""
        if assignment is not None and assignment.active:
            for partition, position in positions.items():
                if partition in assignment.tps:
                    self.seek(partition, position)
