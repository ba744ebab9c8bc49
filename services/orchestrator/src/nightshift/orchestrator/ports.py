"""What the use cases need from outside, beside the event log and the leases."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.build import ApprovalResolved, ToolCallAnswered, Usage
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.commands import Answer, CallFailed, Command, ForkBase, RequestCommand
from nightshift.orchestrator.domain.state import BuildState


@dataclass(slots=True)
class UsageMeter:
    """The tokens that the provider has stated for a model call so far. The runner reads it when it stops the call.

    `under_way` is true once the request may have left the process. Before that the call costs nothing.
    """

    usage: Usage | None = None
    under_way: bool = False


class CallError(Exception):
    """A model call ended without an answer. `failure` holds the kind, the detail and what may be billed."""

    def __init__(self, failure: CallFailed) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


class Model(Protocol):
    """A language model. It never retries by itself, because each attempt is an event of the log.

    The fake and the real adapter pass the same conformance suite.
    """

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """Send this request body and read the streamed answer to its end. Raises CallError when there is none.

        Cancelling the task closes the connection, which stops the call at the provider.
        """
        ...

    async def count(self, body: bytes) -> int:
        """Return the tokens of the prompt in this request body. Costs nothing. Raises CallError when there is none."""
        ...


class ClosingModel(Model, Protocol):
    """A model that holds connections."""

    async def close(self) -> None:
        """Close the connections."""
        ...


class CannotFold(Fault):
    """`evolve` raised for an event of the log. `event_id` names the event."""

    def __init__(self, event: RecordedEvent, error: Exception) -> None:
        super().__init__(f"{event.data.type} at version {event.version} of {event.stream_id}: {error!r}")
        self.event_id = event.event_id


class BuildRepository(Protocol):
    """Loads builds from their streams, and appends what `decide` returns."""

    async def load(self, build_id: str) -> BuildState:
        """Return the build's state. Returns INITIAL when the build does not exist. Raises CannotFold."""
        ...

    async def catch_up(self, build_id: str, state: BuildState) -> BuildState:
        """Return the state after the events that were appended since `state`. Raises CannotFold."""
        ...

    async def attachments(self, state: BuildState) -> tuple[dict[str, Any], ...]:
        """Return the attachments of the build as content blocks. Raises BadMessage when one is gone or another one."""
        ...

    async def commit(self, build_id: str, state: BuildState, command: Command, now: datetime) -> BuildState:
        """Decide, append the events at the state's version, and return the state after them.

        Raises VersionConflict, EventIdReused or StreamClosed when `state` is not the newest: call `catch_up` and
        decide again.
        """
        ...

    async def commit_at_any_version(self, build_id: str, command: Command, now: datetime) -> None:
        """Append a decision that is the same in every state, such as a person's message.

        Raises StreamClosed when the build has ended, and EventIdReused when the id exists with other content.
        """
        ...

    async def has_recorded(self, build_id: str, command: RequestCommand) -> bool:
        """Return whether the log has what this command leads to. False when its id was used for something else."""
        ...

    async def fork_base(self, build_id: str, turn: int) -> ForkBase:
        """Return the build at the end of a turn, as a fork starts from it.

        Raises NotFound when there is no such build, and BadMessage when the turn has not ended or has no snapshot.
        """
        ...

    async def decision_about(
        self, build_id: str, call_id: str
    ) -> tuple[ApprovalResolved | None, ToolCallAnswered | None]:
        """Return the approval or denial of a tool call, and its result unless the sandbox-gateway gave that."""
        ...

    async def exists(self, build_id: str) -> bool:
        """Return whether the log has an event of this build."""
        ...


class AccountPolicies(Protocol):
    """Reads the policies of accounts."""

    async def newest(self, account_id: str) -> AccountPolicyChanged | None:
        """Return the newest policy of the account. Returns None when none was ever set."""
        ...


class BuildNumbers(Protocol):
    """Numbers the builds of a project that got ready."""

    async def number(self, project_id: str, build_id: str) -> int:
        """Return the number of this build in its project: 1, 2, 3… The same build gets the same number again."""
        ...


class UnownedBuilds(Protocol):
    """Finds builds that no orchestrator runs."""

    async def unowned(self, *, limit: int) -> Sequence[str]:
        """Return the ids of builds that have not ended, do not sleep and have no live lease, oldest first.

        A build that waits for a person or a provider is among them only when its wait is due.
        """
        ...
