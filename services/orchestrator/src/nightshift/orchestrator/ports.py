"""What the runner needs from outside, beside the log and the leases of the runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.domain.commands import Answer, CallFailed


@dataclass(slots=True)
class Meter:
    """What the provider has told of a call's tokens so far. Read when a call is stopped before its end.

    `under_way`: the request may have left. Before that a call costs nothing.
    """

    usage: Usage | None = None
    under_way: bool = False


class CallError(Exception):
    """A model call ended without an answer; `failure` says how."""

    def __init__(self, failure: CallFailed) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


class Model(Protocol):
    """Thinks. Never tries again by itself: an attempt is a fact of the log. Cancelling stops the call at the provider.

    The fake and the real one pass the same conformance suite.
    """

    async def answer(self, body: bytes, meter: Meter) -> Answer:
        """Send this request body and hear its stream to the end. Raises CallError."""
        ...


class ClosingModel(Model, Protocol):
    """A model that holds connections."""

    async def close(self) -> None:
        """Close them."""
        ...


class BuildNumbers(Protocol):
    """Counts the builds of a project that got ready."""

    async def number(self, project_id: str, build_id: str) -> int:
        """The number of this build in its project: 1, 2, 3… The same build gets the same number again."""
        ...


class Unowned(Protocol):
    """Finds builds that somebody should be running."""

    async def unowned(self, *, limit: int) -> Sequence[str]:
        """Ids of builds that have not ended, are not asleep, and have no live lease; the longest waiting first."""
        ...
