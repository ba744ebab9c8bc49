"""Detects a message that ends the process each time it is handled, and sends it to the dead letters.

A process that dies cannot report why. So each start at an offset is counted at the broker before its message is
handled. After two starts without progress the partition is handled carefully: one message at a time in the whole
process, each marked before its handler runs. A death then names its message.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from nightshift.bus.port import Inbound, TopicPartition, offset_after
from nightshift.eventlog.errors import Fault, Transient

_log = structlog.get_logger(__name__)

CAREFUL_AT_START: Final = 3
DEATHS: Final = 2  # of processes that handled the same message carefully
_CAREFUL_MESSAGES: Final = 1000  # more than a process handles between two commits


class ProcessEnded(Fault):
    """The process ended each time it handled this message."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """The processes that started at this offset, and those that ended while they handled its message."""

    offset: int
    starts: int = 0
    deaths: int = 0


class AttemptStore(Protocol):
    """Where attempts outlive the process: the broker."""

    async def read_attempts(self, partition: TopicPartition) -> Attempts | None:
        """Return what was written last, or None. Raises Transient."""
        ...

    async def write_attempts(self, partition: TopicPartition, attempts: Attempts) -> None:
        """Commit `attempts.offset` and keep the attempts. Raises Transient."""
        ...


class RestartGuard:
    """Guards one partition after its assignment. `over` is set when no earlier process ended at its messages."""

    def __init__(self, store: AttemptStore, partition: TopicPartition, alone: asyncio.Lock) -> None:
        """The guards of a process share the lock `alone`, so that it handles one message carefully at a time."""
        self._store = store
        self._partition = partition
        self._alone = alone
        self._known: Attempts | None = None
        self._careful_until: int | None = None
        self.over = False

    async def call(self, message: Inbound, handle: Callable[[Inbound], Awaitable[None]]) -> None:
        """Call `handle` and raise what it raises.

        Raises ProcessEnded instead of calling it when it ended the process before.
        """
        if self._known is None:
            await self._begin(message.offset)
        if self._careful_until is None or message.offset >= self._careful_until:
            self.over = True
            await handle(message)
            return
        async with self._alone:
            await self._call_marked(message, handle)

    async def _begin(self, offset: int) -> None:
        """Count this start. A broker that does not answer leaves it uncounted."""
        self._known = Attempts(offset, starts=1)
        try:
            known = await self._store.read_attempts(self._partition)
            if known is not None and known.offset == offset:
                self._known = replace(known, starts=min(known.starts + 1, CAREFUL_AT_START))
            await self._store.write_attempts(self._partition, self._known)
        except Transient as error:
            _log.warning("start.not_counted", error=str(error))
        if self._known.starts >= CAREFUL_AT_START or self._known.deaths:
            self._careful_until = offset + _CAREFUL_MESSAGES
            _log.warning("partition.handled_carefully", starts=self._known.starts, deaths=self._known.deaths)

    async def _call_marked(self, message: Inbound, handle: Callable[[Inbound], Awaitable[None]]) -> None:
        known = self._known
        if known is None or known.offset != message.offset:
            known = Attempts(message.offset, starts=1)
        if known.deaths >= DEATHS:
            raise ProcessEnded(f"the process ended {known.deaths} times while it handled this message")
        await self._write(replace(known, deaths=known.deaths + 1))
        try:
            await handle(message)
        except Exception:
            await self._write(known)
            raise
        await self._write(Attempts(offset_after(message)))

    async def _write(self, attempts: Attempts) -> None:
        """Write the attempts. When the broker does not accept them, this attempt is not counted."""
        self._known = attempts
        try:
            await self._store.write_attempts(self._partition, attempts)
        except Transient as error:
            _log.warning("attempt.not_counted", error=str(error))
