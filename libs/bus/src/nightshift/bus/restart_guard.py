"""Detects a message whose handling ends the whole process, so that it becomes a dead letter.

A process that dies cannot report why. So a guard records at the broker that it starts at an offset, before it handles
the first message. When the third process starts at the same offset, the guard suspects a message. It then handles one
message at a time in the whole process and records each before its handler runs. After the next death the record names
the message.
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
DEATHS: Final = 2  # a message that ended so many processes, alone and marked, is dead-lettered
# How many messages are handled one by one: more than are handled between two commits.
_CAREFUL_MESSAGES: Final = 1000


class ProcessEnded(Fault):
    """The process ended each time it handled this message."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many processes started to read at `offset` (`starts`), and how many ended while handling that message
    (`deaths`).
    """

    offset: int
    starts: int = 0
    deaths: int = 0


class AttemptStore(Protocol):
    """Keeps Attempts at the broker, where they outlive the process."""

    async def read_attempts(self, partition: TopicPartition) -> Attempts | None:
        """Return the attempts written last for this partition, or None when there are none.

        Raises Transient when the broker does not answer.
        """
        ...

    async def write_attempts(self, partition: TopicPartition, attempts: Attempts) -> None:
        """Store the attempts of this partition and commit `attempts.offset`.

        Raises Transient when the broker does not accept them.
        """
        ...


class RestartGuard:
    """Guards one partition after its assignment, until none of its messages is suspected to end the process.

    Then `over` is True, and the worker can call the handler without the guard.
    """

    def __init__(self, store: AttemptStore, partition: TopicPartition, alone: asyncio.Lock) -> None:
        """Create the guard of one partition. All guards of a process share the lock `alone`.

        A guard holds the lock while it handles a suspicious message, so that only this message can end the process.
        """
        self._store = store
        self._partition = partition
        self._alone = alone
        self._known: Attempts | None = None
        self._careful_until: int | None = None
        self.over = False

    async def call(self, message: Inbound, handle: Callable[[Inbound], Awaitable[None]]) -> None:
        """Call `handle` with the message and raise its errors.

        Raises ProcessEnded, and does not call `handle`, when this message has already ended two processes.
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
        """Record that a process starts at this offset. When the broker does not answer, the start is not counted."""
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
        """Store the attempts at the broker. When the broker does not accept them, this attempt is not counted."""
        self._known = attempts
        try:
            await self._store.write_attempts(self._partition, attempts)
        except Transient as error:
            _log.warning("attempt.not_counted", error=str(error))
