"""Commits the offsets of settled messages: one commit holds all that was settled since the last."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.errors import Transient

_log = structlog.get_logger(__name__)


class CommitTarget(Protocol):
    """Keeps committed offsets."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the offset of the next message per partition.

        Raises Transient when the commit should be tried again. Returns when another member has the partitions now.
        """
        ...


class OffsetCommitter:
    """Commits one subscription's offsets in a task of its own, at most once in `every_s` seconds."""

    def __init__(self, target: CommitTarget, group: str, *, every_s: float) -> None:
        self._target: CommitTarget | None = target
        self._group = group
        self._every_s = every_s
        self._settled: dict[TopicPartition, int] = {}
        self._dirty = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"commit {group}")

    def settled(self, partition: TopicPartition, next_offset: int) -> None:
        """Note that everything before `next_offset` is settled."""
        self._settled[partition] = next_offset
        self._dirty.set()

    def forget(self, partition: TopicPartition) -> None:
        """Commit nothing more of this partition."""
        self._settled.pop(partition, None)

    async def commit(self) -> None:
        """Commit what is settled. Offsets that the broker rejects are committed with the next call."""
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
        """Stop without a further commit."""
        self._target = None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            await self.commit()
            await asyncio.sleep(self._every_s)
