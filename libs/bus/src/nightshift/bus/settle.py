"""Settles one message: skipped, handled, or parked. The only place where a handler's errors are caught and judged."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from nightshift.bus import metrics
from nightshift.bus.dispatch import SKIPS, Dispatcher
from nightshift.bus.lane import Lane
from nightshift.bus.letters import Failure
from nightshift.bus.parking import Parking
from nightshift.bus.policy import Branch, RetryPolicy, branch_of, is_ground_away, reason_of
from nightshift.bus.port import Gate, GroundProbe, Inbound
from nightshift.contracts.envelope import peek

_log = structlog.get_logger(__name__)

#: Failures of messages that were in hand when their partition went away are remembered for its return, up to so many.
_REMEMBERED = 10_000


class Settler:
    """One subscription's judgement over its messages."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        parking: Parking,
        retry: RetryPolicy,
        *,
        topic: str,
        group: str,
        gate: Gate | None = None,
        ground: GroundProbe | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._parking = parking
        self._retry = retry
        self._topic = topic
        self._group = group
        self._gate = gate
        self._ground = ground
        self._failures: dict[tuple[str, int, int], Failure] = {}
        self._handled = metrics.HANDLED.labels(topic, group)
        # Most messages are skipped, and to find the counter would be most of the skipping.
        self._skipped = {why: metrics.SKIPPED.labels(topic, group, why) for why in SKIPS}
        self._said = 0.0
        self.settled = 0

    async def settle(self, message: Inbound, lane: Lane) -> None:
        """Returns when the message needs no more. Never raises but for cancellation."""
        why = self._dispatcher.skip(message)
        if why is not None:
            self._skipped[why].inc()
        else:
            await self._handle(message, lane)
        self.settled += 1

    async def _handle(self, message: Inbound, lane: Lane) -> None:
        away = 0
        # The lane's task handles nothing else: cleared and bound, at a fifth of what a binding for a block costs.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            topic=message.topic, partition=message.partition, offset=message.offset
        )
        while True:
            await self._room(lane)
            try:
                await self._call(message, lane)
            except Exception as error:  # noqa: BLE001 - the one boundary: the error's branch decides
                if is_ground_away(error) and not await self._ground_answers():
                    # Not this message's fault: whatever it was suspected of is forgotten.
                    self._failures.pop(_place(message), None)
                    away += 1
                    await self._wait(lane, self._retry.ground_delay(away), "ground", error)
                    continue
                failure = self._remember(message, error)
                if self._may_try_again(failure):
                    await self._wait(lane, self._retry.delay(failure.attempts), "transient", error)
                    continue
                await self._park(message, lane, failure)
            else:
                self._handled.inc()
            if self._failures:
                self._failures.pop(_place(message), None)
            return

    async def _call(self, message: Inbound, lane: Lane) -> None:
        if lane.guard is None:
            await self._dispatcher.handle(message)
            return
        await lane.guard.call(message, self._dispatcher.handle)
        if lane.guard.over:
            lane.guard = None

    def _may_try_again(self, failure: Failure) -> bool:
        if branch_of(failure.error) is not Branch.TRANSIENT:
            return False
        if is_ground_away(failure.error):
            return (
                failure.last_failed_at - failure.first_failed_at
            ).total_seconds() < self._retry.ground_doubt_s
        return failure.attempts < self._retry.attempts

    async def _room(self, lane: Lane) -> None:
        if self._gate is not None and self._gate.full:
            lane.waiting = True
            try:
                await self._gate.room()
            finally:
                lane.waiting = False

    async def _ground_answers(self) -> bool:
        """Without a probe the ground is believed to be away as long as a handler says so."""
        return self._ground is not None and await self._ground()

    async def _wait(self, lane: Lane, seconds: float, why: str, error: Exception) -> None:
        metrics.RETRIED.labels(self._topic, self._group, why).inc()
        if why != "ground" or time.monotonic() - self._said > self._retry.say_every_s:
            self._said = time.monotonic()
            _log.warning(
                "message waits", why=why, error=f"{type(error).__name__}: {error}", seconds=round(seconds, 3)
            )
        lane.waiting = True
        try:
            await asyncio.sleep(seconds)
        finally:
            lane.waiting = False

    async def _park(self, message: Inbound, lane: Lane, failure: Failure) -> None:
        fault = branch_of(failure.error) is Branch.FAULT
        _log.error(
            "message parked",
            reason=failure.reason,
            error=f"{type(failure.error).__name__}: {failure.error}",
            subject=peek(message.headers).subject,
            attempts=failure.attempts,
            exc_info=failure.error if fault else None,
        )
        lane.waiting = True
        try:
            await self._parking.park(message, failure, group=self._group)
        finally:
            lane.waiting = False

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
