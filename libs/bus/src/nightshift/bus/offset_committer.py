"""Commits consumer offsets at intervals, many messages with one commit."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.errors import Transient

_log = structlog.get_logger(__name__)


class CommitTarget(Protocol):
    """The client that commits offsets at the broker."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets. Each is the offset of the next message to read in its partition.

        Returns without an error when another member owns the partition by now. Raises Transient when the caller should
        try again.
        """
        ...


class OffsetCommitter:
    """Commits the offsets of one subscription from a task of its own, at most once in `every_s` seconds."""

    def __init__(self, target: CommitTarget, group: str, *, every_s: float) -> None:
        self._target: CommitTarget | None = target
        self._group = group
        self._every_s = every_s
        self._settled: dict[TopicPartition, int] = {}
        self._dirty = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"commit {group}")

    def settled(self, partition: TopicPartition, next_offset: int) -> None:
        """Commit `next_offset` soon: all messages of this partition before it are handled, skipped or dead-lettered."""
        self._settled[partition] = next_offset
        self._dirty.set()

    def forget(self, partition: TopicPartition) -> None:
        """Commit no further offset of this partition, because another member owns it now."""
        self._settled.pop(partition, None)

    async def commit(self) -> None:
        """Commit now all offsets that `settled` has set. When the broker does not accept them, the next commit
        includes them.
        """
        self._dirty.clear()
        offsets, self._settled = self._settled, {}
        if not offsets or self._target is None:
            return
        try:
            await self._target.commit(offsets)
        except Transient as error:
            _log.info("commit.delayed", group=self._group, error=str(error))
            self._settled = {**offsets, **self._settled}
            self._dirty.set()

    async def close(self) -> None:
        """Stop the task that commits, without another commit."""
        self._target = None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            await self.commit()
            await asyncio.sleep(self._every_s)
