"""The network between an in-memory adapter and its simulated server. Only the simulation has one."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wire(Protocol):
    """Delays calls, loses requests before they are executed, and loses answers afterwards."""

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `call` over the network. Raises Unavailable when it was lost; it may have been executed."""


async def called(wire: Wire | None, what: str, work: Callable[[], T]) -> T:
    """Return the result of `work`, over the wire when there is one."""

    async def call() -> T:
        return work()

    return await call() if wire is None else await wire.remote(what, call)
