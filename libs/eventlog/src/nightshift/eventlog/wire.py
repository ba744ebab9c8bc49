"""The simulated network between an in-memory adapter and its server. Only the simulation uses one."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wire(Protocol):
    """A simulated network: delays calls, and loses requests or their answers."""

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `call` over the simulated network. `what` names the call.

        Raises Unavailable when the request or its answer was lost; after a lost answer `call` was executed.
        """

    async def instant(self, what: str, work: Callable[[], T]) -> T:
        """Do the same with `work`, which the server does in one step."""


async def called(wire: Wire | None, what: str, work: Callable[[], T]) -> T:
    """Run `work` and return its result.

    With `wire`, the call goes over a simulated network, which shows it as `what`.
    """
    return work() if wire is None else await wire.instant(what, work)
