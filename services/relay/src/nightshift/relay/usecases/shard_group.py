"""One group of shards in this process: stands by until it can lead, leads until it cannot, and stands by again."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from nightshift.contracts.topics import Topics
from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import SHARDS
from nightshift.relay.domain.errors import BrokerLost, Diverged, LeadershipLost
from nightshift.relay.domain.polling import PollInterval
from nightshift.relay.domain.records import shards_of
from nightshift.relay.ports import (
    AppendListener,
    AppendNotifications,
    BrokerConnector,
    LeaderSession,
    LeaderSessions,
    LogReader,
)
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.check import BrokerCheck, note_loss
from nightshift.relay.usecases.encode import RecordEncoder
from nightshift.relay.usecases.publish import BatchLimits, LeaderSignals, Publisher

_log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=0.05, cap_s=2.0)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. A leader proves itself every `heartbeat`; a stand-by tries every `stand_by`."""

    heartbeat: float = 1.0
    stand_by: float = 0.25
    lag: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """What all groups of shards have in common. `groups` is their number."""

    topics: Topics
    groups: int
    inline_bytes: int
    accept_divergence: str | None
    limits: BatchLimits
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPorts:
    """What a group of shards works with. `ensure_topics` raises Unavailable while a topic is missing."""

    sessions: LeaderSessions
    brokers: BrokerConnector
    notifications: AppendListener
    log: LogReader
    objects: ObjectStore
    ensure_topics: Callable[[], Awaitable[None]]


class ShardGroup:
    """Leads one group of shards, or waits to lead it."""

    def __init__(self, number: int, ports: GroupPorts, config: GroupConfig) -> None:
        self.name = str(number)
        self._shards = shards_of(number, config.groups, SHARDS)
        self._sessions = ports.sessions
        self._brokers = ports.brokers
        self._notifications = ports.notifications
        self._log_reader = ports.log
        self._ensure_topics = ports.ensure_topics
        self._timings = config.timings
        self._signals = LeaderSignals()
        encoder = RecordEncoder(config.topics, ports.objects, inline_bytes=config.inline_bytes)
        self._check = BrokerCheck(
            ports.log, encoder, group=self.name, accept_divergence=config.accept_divergence
        )
        self._publish = Publisher(
            ports.log,
            encoder,
            self._signals,
            group=self.name,
            interval=PollInterval(),
            limits=config.limits,
        )
        self.connected = False

    def stop(self) -> None:
        """End after the batch in flight."""
        self._signals.stopping = True

    async def run(self) -> None:
        """Until told to stop. Raises what waiting cannot mend: Diverged, ConfigurationError, UnknownType."""
        retry = RetryDelay(_BACKOFF, random.random)
        metrics.LEADER.labels(self.name).set(0)
        while not self._signals.stopping:
            # A stand-by asks the log nothing else: that the server is away, or back, is said here.
            await self._log_reader.answers()
            try:
                async with self._sessions.open(self._shards) as session:
                    self.connected = True
                    retry.reset()
                    if await self._stand_by(session):
                        await self._lead(session)
            except Diverged as error:
                _log.error("log.diverged", group=self.name, error=str(error), hint=error.hint)
                raise
            except (LeadershipLost, Unavailable) as error:
                _log.warning("relay.stands_by", group=self.name, why=str(error))
                await asyncio.sleep(retry.after_failure())
            finally:
                self.connected = False
                for gauge in (metrics.LEADER, metrics.LAG_EVENTS, metrics.LAG_SECONDS):
                    gauge.labels(self.name).set(0)

    async def _stand_by(self, session: LeaderSession) -> bool:
        while not self._signals.stopping:
            if await session.lead():
                return True
            await asyncio.sleep(self._timings.stand_by)
        return False

    async def _lead(self, session: LeaderSession) -> None:
        _log.info("relay.leads", group=self.name, shards=len(self._shards))
        metrics.LEADER.labels(self.name).set(1)
        self._signals.newest_loss = 0
        async with self._notifications.listen(self._shards) as notifications:
            await _first_to_end(
                self._publish_on(session, notifications), self._heartbeat(session), self._measure()
            )
        _log.info("relay.stops_leading", group=self.name)

    async def _publish_on(self, session: LeaderSession, notifications: AppendNotifications) -> None:
        retry = RetryDelay(_BACKOFF, random.random)
        while not self._signals.stopping:
            try:
                await self._ensure_topics()
                async with self._brokers.connect() as broker:
                    cursors, acknowledged = await self._check.run(session, broker)
                    retry.reset()
                    try:
                        await self._publish.run(session, broker, notifications, cursors, acknowledged)
                    except BrokerLost as error:
                        await note_loss(session, str(error), seen=cursors.newest_loss, group=self.name)
            except Unavailable as error:
                # Whatever failed, the next session begins at the cursor: nothing later of a build has overtaken.
                _log.warning("relay.waits", group=self.name, why=str(error))
                await asyncio.sleep(retry.after_failure())

    async def _heartbeat(self, session: LeaderSession) -> None:
        while True:
            self._signals.newest_loss = await session.alive()
            await asyncio.sleep(self._timings.heartbeat)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                events, seconds = await self._log_reader.lag(self._shards)
            except Unavailable:
                events, seconds = -1, 0.0
            if events >= 0:
                metrics.LAG_EVENTS.labels(self.name).set(events)
                metrics.LAG_SECONDS.labels(self.name).set(seconds)
            # Counting a long backlog takes its time: at most a twentieth of ours.
            await asyncio.sleep(max(self._timings.lag, 20 * (loop.time() - began)))


async def _first_to_end(*works: Coroutine[Any, Any, None]) -> None:
    """Run them side by side until one ends, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
