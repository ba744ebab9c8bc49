"""The ports of the use cases: what they need from outside, besides the event log and the leases."""

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

    `under_way` is True once the request may have left the process. Before that the call costs nothing.
    `exhausted_until` is set when the provider says that a rate limit is exhausted until then.
    """

    usage: Usage | None = None
    under_way: bool = False
    exhausted_until: datetime | None = None


class CallError(Exception):
    """A model call ended without an answer. `failure` has the kind, the detail, and what may be billed."""

    def __init__(self, failure: CallFailed) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


class Model(Protocol):
    """A language model. It never retries by itself, because each attempt is an event of the log.

    The fake and the real adapter pass the same conformance tests.
    """

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """Send this request body, and read the streamed answer to its end. Raises CallError when there is no answer.

        `meter` is told the token counts as soon as the provider states them. Cancelling the task closes the connection,
        and so ends the call at the provider.
        """
        ...

    async def count(self, body: bytes) -> int:
        """Return the number of tokens of the prompt in this request body. Raises CallError when there is no count.

        Counting costs nothing.
        """
        ...


class ClosingModel(Model, Protocol):
    """A model that must be closed, because it has connections."""

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """Why the provider refuses a key, and since when. `kind` is one of REFUSED_KEY, and `status` is the HTTP status.

    The provider refuses the key only for `model`, or for every model when `model` is None.
    """

    kind: str
    status: int | None
    detail: str
    since: datetime
    model: str | None = None

    def in_words(self) -> str:
        """Return the kind, the status and the provider's reason on one line."""
        status = "" if self.status is None else f" (status {self.status})"
        return f"{self.kind}{status}: {self.detail}"


@dataclass(frozen=True, slots=True)
class SharedPace:
    """How many seconds apart the calls of all replicas start, and how many seconds pass until the next call may
    start.
    """

    interval_s: float = 0.0
    pause_s: float = 0.0


class ProviderKey(Protocol):
    """What all replicas with the same provider key know about this key.

    A refusal is for one model, or for every model when `model` is None. Incidents and probes are kept apart for each
    model and for None. The fake and the real adapter pass the same conformance tests.
    """

    @property
    def key_id(self) -> str:
        """A hash that identifies the key, and never the key itself."""
        ...

    async def refused(self) -> Sequence[RefusedKey]:
        """Return the refusals of the key that are not over, at most one for each model, with their reasons.

        Returns an empty list while the provider accepts the key.
        """
        ...

    async def refuse(self, refused: RefusedKey) -> bool:
        """Record that the provider refuses the key.

        An incident begins with a refusal and lasts until the provider accepts the key again. Returns True for the first
        record of an incident, else False. Each further record makes the wait before the next probe longer, up to a
        limit.
        """
        ...

    async def take_probe(self, model: str | None = None) -> bool:
        """Return True when it is time to try the refused key again and this caller must do it.

        Returns False before that time, and to all other callers of all replicas.
        """
        ...

    async def return_probe(self, model: str | None = None) -> None:
        """Give back a probe whose call was not made, so that another caller can take the probe at once."""
        ...

    async def accepted(self, model: str | None = None) -> bool:
        """Record that the provider accepts the key.

        Returns True when this ends an incident, and False when no refusal was on record.
        """
        ...

    async def pace(self) -> SharedPace:
        """Return how fast all replicas together may start calls with this key."""
        ...

    async def slow_down(self, started_at: datetime, pause_s: float, *, spaced: bool) -> SharedPace:
        """Let no replica start a call for `pause_s` seconds. If `spaced`, double the interval between later calls.

        `started_at` is the start of the call whose answer or refusal is the reason. A call that started before the
        interval was last doubled does not double it again.
        """
        ...

    async def quicken(self) -> SharedPace:
        """Make the interval between calls shorter by a fifth, because a call was answered."""
        ...

    async def take_turn(self) -> float:
        """Return 0.0 when a model call may start now, and the caller must start it. Else return the seconds to wait."""
        ...


class CannotFold(Fault):
    """`evolve` raised an error for an event of the log. `event_id` identifies the event."""

    def __init__(self, event: RecordedEvent, error: Exception) -> None:
        super().__init__(f"{event.data.type} at version {event.version} of {event.stream_id}: {error!r}")
        self.event_id = event.event_id


class BuildRepository(Protocol):
    """Loads builds from their streams, and appends what `decide` returns."""

    async def load(self, build_id: str) -> BuildState:
        """Return the build's state, or INITIAL when the build does not exist.

        Raises CannotFold when an event of the build cannot be folded.
        """
        ...

    async def catch_up(self, build_id: str, state: BuildState) -> BuildState:
        """Return `state`, continued by the build's events after the version of `state`.

        Raises CannotFold when one of these events cannot be folded.
        """
        ...

    async def attachments(self, state: BuildState) -> tuple[dict[str, Any], ...]:
        """Return the build's attachments as content blocks. Raises BadMessage when one is missing or was replaced."""
        ...

    async def commit(self, build_id: str, state: BuildState, command: Command, now: datetime) -> BuildState:
        """Append the events that `command` leads to after the version of `state`, and return the state after them.

        Raises VersionConflict, EventIdReused or StreamClosed when `state` is not the newest state. The caller then
        calls `catch_up` and decides again.
        """
        ...

    async def commit_at_any_version(self, build_id: str, command: Command, now: datetime) -> None:
        """Append the events of a command that leads to the same events in every state, such as a report.

        Raises StreamClosed when the build has ended. Raises EventIdReused when the log has an event with the same id
        and other content.
        """
        ...

    async def has_recorded(self, build_id: str, command: RequestCommand) -> bool:
        """Return whether the log contains the events that this command leads to.

        Returns False when it does not, or when the events with the command's id as their cause are other ones.
        """
        ...

    async def fork_base(self, build_id: str, turn: int) -> ForkBase:
        """Return the build as it was at the end of turn `turn`, so that a fork or a rewind can continue from there.

        Raises NotFound when there is no such build, and BadMessage when the turn has not ended or has no snapshot.
        """
        ...

    async def decision_about(
        self, build_id: str, call_id: str
    ) -> tuple[ApprovalResolved | None, ToolCallAnswered | None]:
        """Return a tool call's `approval.resolved` and `tool_call.answered` events, each None when the log does not
        have it.

        A call that ran in the sandbox has an event of another type as its result, which is not returned.
        """
        ...

    async def exists(self, build_id: str) -> bool:
        """Return whether the log has an event of this build."""
        ...


class AccountPolicies(Protocol):
    """Reads the policies of accounts."""

    async def newest(self, account_id: str) -> AccountPolicyChanged | None:
        """Return the newest policy of the account, or None when none was ever set."""
        ...


class BuildNumbers(Protocol):
    """Gives numbers to the ready builds of a project."""

    async def number(self, project_id: str, build_id: str) -> int:
        """Return the number of this build in its project: 1, 2, 3… Another call for the same build returns the same
        number.
        """
        ...


class Projects(Protocol):
    """Knows to which account each project belongs. The fake and the real adapter pass the same conformance tests."""

    async def claim(self, project_id: str, account_id: str) -> str:
        """Return the account of the project. A project without an account belongs to `account_id` from now on."""
        ...


class UnownedBuilds(Protocol):
    """Finds builds that no orchestrator runs."""

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        """Return up to `limit` ids of builds that an orchestrator should run now and that have no live lease.

        - First come the builds that have started, the oldest first. Sleeping builds are not included. A build that
          waits for a person or a provider is included only when its wait is due.
        - Then come the queued builds of the accounts with the fewest active builds. Within an account the tier
          `priority` comes first.

        An account has at most `per_account` active builds, or as many as its policy allows. A build is active when it
        has started, has not ended, and does not wait for a person.
        """
        ...

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        """Return up to `limit` ids of builds that wait for the provider and have no live lease, the longest waiting
        first.
        """
        ...
