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
    `exhausted_until` is set when the provider says that nothing is left of a rate limit until then.
    """

    usage: Usage | None = None
    under_way: bool = False
    exhausted_until: datetime | None = None


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


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """Why the provider refuses a key since `since`. `kind` is one of REFUSED_KEY, `status` the HTTP status.

    It refuses the key for `model` only, or for every model when that is None.
    """

    kind: str
    status: int | None
    detail: str
    since: datetime
    model: str | None = None

    def in_words(self) -> str:
        """Return the kind, the status and the provider's reason as one line."""
        status = "" if self.status is None else f" (status {self.status})"
        return f"{self.kind}{status}: {self.detail}"


@dataclass(frozen=True, slots=True)
class SharedPace:
    """How far apart the calls of all replicas start, in seconds, and the seconds until the next may start at all."""

    interval_s: float = 0.0
    pause_s: float = 0.0


class ProviderKey(Protocol):
    """What all replicas with one key know about it. The fake and the real adapter pass the same conformance suite.

    A refusal is for one model, or for every model when `model` is None. Each has incidents and probes of its own.
    """

    @property
    def key_id(self) -> str:
        """A hash that names the key. Never the key itself."""
        ...

    async def refused(self) -> Sequence[RefusedKey]:
        """Return for what the provider refuses the key, and why. Returns none while it does not."""
        ...

    async def refuse(self, refused: RefusedKey) -> bool:
        """Note that the provider refuses the key. Returns True for the first note of the incident only.

        Each further note makes the wait before the next probe longer, up to a bound.
        """
        ...

    async def take_probe(self, model: str | None = None) -> bool:
        """Return True to one caller over all replicas when it is time to try the refused key again."""
        ...

    async def return_probe(self, model: str | None = None) -> None:
        """Return a probe that was not made, so that another one may be made at once."""
        ...

    async def accepted(self, model: str | None = None) -> bool:
        """Note that the provider accepts the key. Returns True for the note that ends the incident only."""
        ...

    async def pace(self) -> SharedPace:
        """Return the pace of the calls with this key."""
        ...

    async def slow_down(self, started_at: datetime, pause_s: float, *, spaced: bool) -> SharedPace:
        """Start no call for `pause_s` seconds. With `spaced`, start later calls at twice the interval, too.

        A call that started before the interval was last doubled does not double it again.
        """
        ...

    async def quicken(self) -> SharedPace:
        """Shorten the interval by a fifth, because a call was answered."""
        ...

    async def take_turn(self) -> float:
        """Return 0.0 when a call may start now; the caller must then start it. Else return the seconds to wait."""
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


class Projects(Protocol):
    """Knows the account of each project. The fake and the real adapter pass the same conformance suite."""

    async def claim(self, project_id: str, account_id: str) -> str:
        """Return the account of the project. A project without one belongs to `account_id` from now on."""
        ...


class UnownedBuilds(Protocol):
    """Finds builds that no orchestrator runs."""

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        """Return the ids of builds that an orchestrator should run now and that have no live lease.

        First the builds that have started, the oldest first. Builds that sleep are not among them, and those that wait
        for a person or a provider only when their wait is due. Then the queued builds of the accounts with the fewest
        active builds. An account has at most `per_account` active builds, or as many as its policy says: builds that
        have started, not ended, and do not wait for a person. Within an account the tier `priority` comes first.
        """
        ...

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        """Return the ids of builds that wait for the provider and have no live lease, the longest waiting first."""
        ...
