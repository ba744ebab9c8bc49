"""Runs one group of shards: stands by until this process leads, and leads until the session is lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import structlog

from nightshift.contracts.topics import Topics
from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import SHARDS
from nightshift.relay.domain.errors import BrokerLost, Diverged, LeadershipLost
from nightshift.relay.domain.records import shards_of
from nightshift.relay.ports import AppendNotifications, Broker, LeaderSession, LogReader
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.broker_check import BrokerCheck, note_loss
from nightshift.relay.usecases.publisher import LeaderSignals, Publisher
from nightshift.relay.usecases.record_encoder import RecordEncoder

_log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=0.05, cap_s=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """The configuration that all groups of shards share. `groups` is their number.

    A batch has at most `max_events` and `max_bytes`. A message over `inline_bytes` has its data in the object store.
    """

    topics: Topics
    groups: int
    inline_bytes: int
    accept_divergence: str | None
    max_events: int
    max_bytes: int
    heartbeat_s: float  # seconds between two heartbeats of a leader
    stand_by_s: float  # seconds between two attempts of a stand-by to become the leader
    lag_s: float = 5.0  # seconds between two measurements of the lag


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPorts:
    """The adapters that a group uses. `ensure_topics` raises Unavailable while a topic is missing."""

    open_session: Callable[[Sequence[int]], AbstractAsyncContextManager[LeaderSession]]
    connect: Callable[[], AbstractAsyncContextManager[Broker]]
    listen: Callable[[Sequence[int]], AbstractAsyncContextManager[AppendNotifications]]
    log: LogReader
    objects: ObjectStore
    ensure_topics: Callable[[], Awaitable[None]]
    database_answers: Callable[[], Awaitable[bool]]


class ShardGroup:
    """Leads one group of shards, or stands by to lead it."""

    def __init__(self, number: int, ports: GroupPorts, config: GroupConfig) -> None:
        self.name = str(number)
        self._shards = shards_of(number, config.groups, SHARDS)
        self._ports = ports
        self._config = config
        self._signals = LeaderSignals()
        encoder = RecordEncoder(config.topics, ports.objects, inline_bytes=config.inline_bytes)
        self._check = BrokerCheck(
            ports.log, encoder, group=self.name, accept_divergence=config.accept_divergence
        )
        self._publisher = Publisher(
            ports.log,
            encoder,
            self._signals,
            group=self.name,
            max_events=config.max_events,
            max_bytes=config.max_bytes,
        )
        self.connected = False

    def stop(self) -> None:
        """Let `run` end after the batch that is being sent."""
        self._signals.stopping = True

    async def run(self) -> None:
        """Run until stopped. Raises Diverged, ConfigurationError or UnknownType when a person must act."""
        retry = RetryDelay(_BACKOFF, random.random)
        metrics.LEADER.labels(self.name).set(0)
        while not self._signals.stopping:
            # A stand-by makes no other call that logs when the database stops or starts to answer.
            await self._ports.database_answers()
            try:
                async with self._ports.open_session(self._shards) as session:
                    self.connected = True
                    retry.reset()
                    if await self._stand_by(session):
                        await self._lead(session)
            except Diverged as error:
                _log.error("log.diverged", group=self.name, error=str(error), hint=error.hint)
                raise
            except (LeadershipLost, Unavailable) as error:
                _log.warning("session.lost", group=self.name, reason=str(error))
                await asyncio.sleep(retry.after_failure())
            finally:
                self.connected = False
                for gauge in (metrics.LEADER, metrics.LAG_EVENTS, metrics.LAG_SECONDS):
                    gauge.labels(self.name).set(0)

    async def _stand_by(self, session: LeaderSession) -> bool:
        """Wait until this session leads, and return True. Returns False when the group is stopped before that."""
        while not self._signals.stopping:
            if await session.lead():
                return True
            await asyncio.sleep(self._config.stand_by_s)
        return False

    async def _lead(self, session: LeaderSession) -> None:
        _log.info("leadership.acquired", group=self.name, shards=len(self._shards))
        metrics.LEADER.labels(self.name).set(1)
        self._signals.newest_loss = 0
        async with self._ports.listen(self._shards) as notifications:
            await _run_until_one_ends(
                self._publish(session, notifications), self._heartbeat(session), self._measure_lag()
            )
        _log.info("leadership.released", group=self.name)

    async def _publish(self, session: LeaderSession, notifications: AppendNotifications) -> None:
        """Publish while this process leads. Opens a broker session, checks the broker, and opens another session after
        each failure.

        Each session starts from the stored cursors, which keeps the events of a build in order after any failure.
        """
        retry = RetryDelay(_BACKOFF, random.random)
        while not self._signals.stopping:
            try:
                await self._ports.ensure_topics()
                async with self._ports.connect() as broker:
                    cursors, acknowledged = await self._check.run(session, broker)
                    retry.reset()
                    try:
                        await self._publisher.run(session, broker, notifications, cursors, acknowledged)
                    except BrokerLost as error:
                        await note_loss(session, str(error), seen=cursors.newest_loss, group=self.name)
            except Unavailable as error:
                _log.warning("publishing.interrupted", group=self.name, reason=str(error))
                await asyncio.sleep(retry.after_failure())

    async def _heartbeat(self, session: LeaderSession) -> None:
        while True:
            self._signals.newest_loss = await session.newest_loss()
            await asyncio.sleep(self._config.heartbeat_s)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                events, seconds = await self._ports.log.lag(self._shards)
            except Unavailable:
                pass
            else:
                metrics.LAG_EVENTS.labels(self.name).set(events)
                metrics.LAG_SECONDS.labels(self.name).set(seconds)
            # Counting a long backlog is slow, so it may take at most a twentieth of the time.
            await asyncio.sleep(max(self._config.lag_s, 20 * (loop.time() - began)))


async def _run_until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines until one ends, and then cancel the others. When the ended one failed, raise its error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
