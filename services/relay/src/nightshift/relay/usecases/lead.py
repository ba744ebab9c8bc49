"""One group of shards in this process: stands by until it can lead, leads until it cannot, and stands by again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from nightshift.eventlog.errors import Unavailable
from nightshift.relay.domain.errors import BrokerLost, Diverged, LeadershipLost
from nightshift.relay.ports import Brokers, Hints, HintSource, Session, Sessions, Source
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.check import Check, note_loss
from nightshift.relay.usecases.publish import Publish, Watch

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. A leader proves itself every `heartbeat`; a stand-by tries every `stand_by`."""

    heartbeat: float = 1.0
    stand_by: float = 0.25
    lag: float = 5.0


class Group:
    """Leads, or waits to lead, one group of shards."""

    def __init__(
        self,
        *,
        name: str,
        shards: Sequence[int],
        sessions: Sessions,
        brokers: Brokers,
        hints: HintSource,
        source: Source,
        check: Check,
        publish: Publish,
        watch: Watch,
        ensure_topics: Callable[[], Awaitable[None]],
        times: Times,
    ) -> None:
        self.name = name
        self._shards = shards
        self._sessions = sessions
        self._brokers = brokers
        self._hints = hints
        self._source = source
        self._check = check
        self._publish = publish
        self._watch = watch
        self._ensure_topics = ensure_topics
        self._times = times
        self.connected = False

    def stop(self) -> None:
        """End after the batch in flight."""
        self._watch.stopping = True

    async def run(self) -> None:
        """Until told to stop. Raises what waiting cannot mend: Diverged, ConfigurationError, UnknownType."""
        pause = _FIRST_PAUSE
        metrics.LEADER.labels(self.name).set(0)
        while not self._watch.stopping:
            # A stand-by asks the source nothing else: that the server is away, or back, is said here.
            await self._source.answers()
            try:
                async with self._sessions.open(self._shards) as session:
                    self.connected, pause = True, _FIRST_PAUSE
                    if await self._stand_by(session):
                        await self._lead(session)
            except Diverged as error:
                _log.error("log.diverged", group=self.name, error=str(error), hint=error.hint)
                raise
            except (LeadershipLost, Unavailable) as error:
                _log.warning("relay.stands_by", group=self.name, why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            finally:
                self.connected = False
                for gauge in (metrics.LEADER, metrics.LAG_EVENTS, metrics.LAG_SECONDS):
                    gauge.labels(self.name).set(0)

    async def _stand_by(self, session: Session) -> bool:
        while not self._watch.stopping:
            if await session.lead():
                return True
            await asyncio.sleep(self._times.stand_by)
        return False

    async def _lead(self, session: Session) -> None:
        _log.info("relay.leads", group=self.name, shards=len(self._shards))
        metrics.LEADER.labels(self.name).set(1)
        self._watch.newest_loss = 0
        async with self._hints.listen(self._shards) as hints:
            await _first_to_end(self._publish_on(session, hints), self._heartbeat(session), self._measure())
        _log.info("relay.stops_leading", group=self.name)

    async def _publish_on(self, session: Session, hints: Hints) -> None:
        pause = _FIRST_PAUSE
        while not self._watch.stopping:
            try:
                await self._ensure_topics()
                async with self._brokers.connect() as broker:
                    cursors, acknowledged = await self._check.run(session, broker)
                    pause = _FIRST_PAUSE
                    try:
                        await self._publish.run(session, broker, hints, cursors, acknowledged)
                    except BrokerLost as error:
                        await note_loss(session, str(error), seen=cursors.newest_loss, group=self.name)
            except Unavailable as error:
                # Whatever failed, the next session begins at the cursor: nothing later of a build has overtaken.
                _log.warning("relay.waits", group=self.name, why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _heartbeat(self, session: Session) -> None:
        while True:
            self._watch.newest_loss = await session.alive()
            await asyncio.sleep(self._times.heartbeat)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                events, seconds = await self._source.lag(self._shards)
            except Unavailable:
                events, seconds = -1, 0.0
            if events >= 0:
                metrics.LAG_EVENTS.labels(self.name).set(events)
                metrics.LAG_SECONDS.labels(self.name).set(seconds)
            # Counting a long backlog takes its time: at most a twentieth of ours.
            await asyncio.sleep(max(self._times.lag, 20 * (loop.time() - began)))


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
