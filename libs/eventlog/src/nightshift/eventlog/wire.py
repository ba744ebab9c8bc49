"""The way from a client to a server that is elsewhere, for adapters in memory that a simulation makes remote."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wire(Protocol):
    """Takes its time, and loses a request before or an answer after it was done."""

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Raises Unavailable, whether `call` was made or not."""
        ...


async def called(wire: Wire | None, what: str, work: Callable[[], T]) -> T:
    """What `work` answers, over the wire where there is one; without, at once."""

    async def call() -> T:
        return work()

    return await call() if wire is None else await wire.remote(what, call)
