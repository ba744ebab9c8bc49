"""A channel whose agent gives one prepared answer, whatever is asked."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nightshift.sandboxes.answers import ByteSource
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.port import HostTraffic


class ScriptedChannel:
    """Implements Channel."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def sandbox(self) -> AgentSandbox:
        return AgentSandbox("scripted", "local", self)

    @asynccontextmanager
    async def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[ByteSource]:
        source = asyncio.StreamReader()
        source.feed_data(self._answer)
        source.feed_eof()
        yield source

    async def open_port(self, port: int) -> str:
        raise NotImplementedError

    async def take_traffic(self) -> Sequence[HostTraffic]:
        return []

    async def pause(self) -> None: ...

    async def kill(self) -> None: ...

    async def alive(self) -> bool:
        return True
