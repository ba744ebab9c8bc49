"""The simulated network between an in-memory adapter and its server. Only the simulation uses one."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wire(Protocol):
    """A simulated network: delays calls, and loses requests or their answers."""

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `call` over the simulated network and return its result. `what` names the call.

        Raises Unavailable when the request or its answer was lost. If only the answer was lost, `call` was executed.
        """

    async def instant(self, what: str, work: Callable[[], T]) -> T:
        """Call `work` on the simulated server, without interruption by other calls, and return its result. `what` names
        the call.

        Raises Unavailable as `remote` does.
        """


async def called(wire: Wire | None, what: str, work: Callable[[], T]) -> T:
    """Run `work` and return its result.

    If `wire` is given, the call goes over that simulated network under the name `what`.
    """
    return work() if wire is None else await wire.instant(what, work)
