"""What a build is, folded from its events by `evolve`. Sums and lists are kept, so that no step reads history."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    Phase,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef

Purpose = Literal["agent", "check", "preview"]
Text = str | BlobRef
Blocks = tuple[dict[str, Any], ...] | BlobRef


class RunMode(StrEnum):
    """Whether anything is to be done. Beside the phase, not a phase."""

    RUNNING = "running"
    SLEEPING = "sleeping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent sees of one tool call."""

    tool_use_id: str
    is_error: bool
    output: Text
    blocks: Blocks | None = None


@dataclass(frozen=True, slots=True)
class AssistantSaid:
    """One answer of the model, its blocks as they came."""

    turn: int
    content: Blocks


@dataclass(frozen=True, slots=True)
class ToolsAnswered:
    """All results of one answer's tool calls, in the order of the calls."""

    results: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class UserSaid:
    """Text put before the agent."""

    text: Text


Entry = AssistantSaid | ToolsAnswered | UserSaid


@dataclass(frozen=True, slots=True)
class Conversation:
    """The conversation. `waiting` holds what is said to the agent with the next model call."""

    turn: int = 0
    attempt: int = 0
    answered: bool = True  # the present turn has its answer
    entries: tuple[Entry, ...] = ()
    waiting: tuple[Text, ...] = ()
    #: Tokens of the next request at most, without what the request adds itself. None: nothing is known yet.
    tokens: int | None = None
    checkpoint: int = 0  # the last turn that has one


@dataclass(frozen=True, slots=True)
class Call:
    """The model call in flight: started, neither answered nor failed."""

    turn: int
    attempt: int
    lease_id: UUID
    reserve_microusd: int
    event_id: UUID


@dataclass(frozen=True, slots=True)
class PreviewTarget:
    """What the agent asked `open_port` to open."""

    port: int
    path: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that was asked for; `result` once it is in."""

    call_id: str
    index: int
    tool: str
    tool_use_id: str
    purpose: Purpose
    digest: str  # of tool and input
    preview: PreviewTarget | None = None
    result: ToolCallCompleted | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation of the account's day: what of it no started call has taken."""

    lease_id: UUID
    left_microusd: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Funds:
    """Microdollars. `spent` is the sum over the log. `refused_until` is the refresh that a denial named."""

    grants: tuple[Grant, ...] = ()
    asked: UUID | None = None
    refused_until: datetime | None = None
    spent: int = 0
    day: str | None = None
    day_limit: int | None = None
    day_left: int = 0  # of the account, outside of our grants, when last told
    warned_day: str | None = None


@dataclass(frozen=True, slots=True)
class RecentCall:
    """Digests: of a call's tool and input, and of its result."""

    call: str
    result: str


@dataclass(frozen=True, slots=True)
class FailureCounters:
    """What went wrong lately, and how often."""

    failures: int = 0  # of the model, since the last answer or wake
    paid_failures: int = 0  # calls in a row that cost money and brought no answer
    retry_at: datetime | None = None
    provider_sleeps: int = 0  # since the last answer
    cuts: int = 0  # answers in a row that ended at the output limit
    check_rounds: int = 0  # that failed
    recent_calls: tuple[RecentCall, ...] = ()  # with their results, oldest first
    warned_calls: tuple[RecentCall, ...] = ()  # those before the last warning about repetition
    steered: frozenset[str] = frozenset()  # reasons the loop itself spoke up for, once each


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the agent works. `news` is what happened to its sandbox and was not told yet."""

    sandbox_id: str | None = None
    preview_port: int | None = None
    preview_url: str | None = None  # as the gateway stated it
    preview_path: str | None = None  # that the agent opened on that port
    news: tuple[str, ...] = ()


End = BuildReady | BuildFailed | BuildCancelled


@dataclass(frozen=True, slots=True)
class BuildState:
    """A build at one version of its stream. `cause` is the last event that moved the loop."""

    version: int = 0
    cause: UUID | None = None
    accepted: BuildAccepted | None = None
    phase: Phase = Phase.QUEUED
    mode: RunMode = RunMode.RUNNING
    wake_reason: Literal["refresh", "top_up", "person", "provider"] | None = None
    conversation: Conversation = Conversation()
    call: Call | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_calls_made: int = 0
    funds: Funds = Funds()
    counters: FailureCounters = FailureCounters()
    workspace: Workspace = Workspace()
    end: End | None = None

    @property
    def request(self) -> BuildAccepted:
        """What was accepted. Raises ValueError before that."""
        if self.accepted is None:
            raise ValueError("this build was not accepted yet")
        return self.accepted


INITIAL = BuildState()
