"""Skips, handles or dead-letters one message.

This is the only place that catches the errors of handlers. The branch of an error decides what follows.
"""

import asyncio
import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from nightshift.bus import metrics
from nightshift.bus.dead_letter_codec import Failure
from nightshift.bus.dead_letter_publisher import DeadLetterPublisher
from nightshift.bus.dispatch import SKIPS, Dispatcher
from nightshift.bus.partition_worker import PartitionWorker
from nightshift.bus.policy import Branch, RetryPolicy, branch_of, is_dependency_unavailable, reason_of
from nightshift.bus.port import DependencyProbe, Gate, Inbound
from nightshift.contracts.envelope import peek

_log = structlog.get_logger(__name__)

#: The number of messages whose failures are remembered, so that their attempts count on when a partition comes back.
_REMEMBERED = 10_000


class MessageProcessor:
    """Processes the messages of one subscription: retries transient errors and dead-letters messages that cannot be
    handled.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        dead_letters: DeadLetterPublisher,
        retry: RetryPolicy,
        *,
        topic: str,
        group: str,
        gate: Gate | None = None,
        dependencies: DependencyProbe | None = None,
    ) -> None:
        """Create the processor. `dependencies` returns whether the dependencies answer; it is called after each
        Unavailable.

        If it is None, the dependencies count as unavailable each time.
        """
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters
        self._retry = retry
        self._topic = topic
        self._group = group
        self._gate = gate
        self._dependencies = dependencies
        self._failures: dict[tuple[str, int, int], Failure] = {}
        self._handled = metrics.HANDLED.labels(topic, group)
        # Most messages are skipped. Looking the counter up by its labels each time would cost more than the skip
        # itself.
        self._skipped = {why: metrics.SKIPPED.labels(topic, group, why) for why in SKIPS}
        self._logged = 0.0
        self.settled = 0

    async def process(self, message: Inbound, worker: PartitionWorker) -> None:
        """Skip, handle or dead-letter the message, and return after that. Raises only CancelledError."""
        why = self._dispatcher.skip(message)
        if why is not None:
            self._skipped[why].inc()
        else:
            await self._handle(message, worker)
        self.settled += 1

    async def _handle(self, message: Inbound, worker: PartitionWorker) -> None:
        unavailable = 0
        # Only this task uses its log context. Clear and bind cost a fifth of a context manager that restores the old
        # values.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            topic=message.topic, partition=message.partition, offset=message.offset
        )
        while True:
            await self._room(worker)
            try:
                await self._call(message, worker)
            except Exception as error:  # noqa: BLE001 - the one boundary: the error's branch decides
                if is_dependency_unavailable(error) and not await self._dependencies_answer():
                    # The message did not cause this error, so its failures so far do not count.
                    self._failures.pop(_place(message), None)
                    unavailable += 1
                    delay = self._retry.dependency_backoff.delay(unavailable, jitter=_jitter())
                    await self._wait(worker, delay, "dependency", error)
                    continue
                failure = self._remember(message, error)
                if self._may_try_again(failure):
                    delay = self._retry.backoff.delay(failure.attempts, jitter=_jitter())
                    await self._wait(worker, delay, "transient", error)
                    continue
                await self._dead_letter(message, worker, failure)
            else:
                self._handled.inc()
            if self._failures:
                self._failures.pop(_place(message), None)
            return

    async def _call(self, message: Inbound, worker: PartitionWorker) -> None:
        if worker.guard is None:
            await self._dispatcher.handle(message)
            return
        await worker.guard.call(message, self._dispatcher.handle)
        if worker.guard.over:
            worker.guard = None

    def _may_try_again(self, failure: Failure) -> bool:
        if branch_of(failure.error) is not Branch.TRANSIENT:
            return False
        if is_dependency_unavailable(failure.error):
            failed_for = failure.last_failed_at - failure.first_failed_at
            return failed_for.total_seconds() < self._retry.dependency_doubt_s
        return failure.attempts < self._retry.attempts

    async def _room(self, worker: PartitionWorker) -> None:
        if self._gate is not None and self._gate.full:
            worker.waiting = True
            try:
                await self._gate.room()
            finally:
                worker.waiting = False

    async def _dependencies_answer(self) -> bool:
        return self._dependencies is not None and await self._dependencies()

    async def _wait(self, worker: PartitionWorker, seconds: float, why: str, error: Exception) -> None:
        metrics.RETRIED.labels(self._topic, self._group, why).inc()
        if why != "dependency" or time.monotonic() - self._logged > self._retry.log_every_s:
            self._logged = time.monotonic()
            _log.warning("message.delayed", why=why, error=_described(error), seconds=round(seconds, 3))
        worker.waiting = True
        try:
            await asyncio.sleep(seconds)
        finally:
            worker.waiting = False

    async def _dead_letter(self, message: Inbound, worker: PartitionWorker, failure: Failure) -> None:
        fault = branch_of(failure.error) is Branch.FAULT
        _log.error(
            "message.dead_lettered",
            reason=failure.reason,
            error=_described(failure.error),
            subject=peek(message.headers).subject,
            attempts=failure.attempts,
            exc_info=failure.error if fault else None,
        )
        worker.waiting = True
        try:
            await self._dead_letters.publish(message, failure, group=self._group)
        finally:
            worker.waiting = False

    def _remember(self, message: Inbound, error: Exception) -> Failure:
        now, place = datetime.now(UTC), _place(message)
        known = self._failures.get(place)
        if known is None:
            while len(self._failures) >= _REMEMBERED:
                del self._failures[next(iter(self._failures))]
            known = Failure(reason_of(error), error, 0, now, now)
        failure = replace(
            known, reason=reason_of(error), error=error, attempts=known.attempts + 1, last_failed_at=now
        )
        self._failures[place] = failure
        return failure


def _place(message: Inbound) -> tuple[str, int, int]:
    return message.topic, message.partition, message.offset


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads load, guards nothing
