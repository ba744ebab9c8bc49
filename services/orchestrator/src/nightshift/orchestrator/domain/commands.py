"""What the shell may ask of `decide`: steps that `next_step` found, and what came from outside."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from nightshift.contracts.events.build import Usage
from nightshift.contracts.events.requests import BuildRequested

FailureKind = Literal[
    "rate_limited",
    "overloaded",
    "server",
    "connection",
    "stream_cut",
    "malformed",
    "auth",
    "invalid",
    "abandoned",
    "cancelled",
    "unknown",
]
FailReason = Literal[
    "checks_failed",
    "turn_limit",
    "tool_call_limit",
    "repetition",
    "refusal",
    "model_error",
    "max_tokens",
    "deadline",
]


@dataclass(frozen=True, slots=True)
class AcceptBuild:
    """A request that passed `admit`."""

    request: BuildRequested


@dataclass(frozen=True, slots=True)
class AskBudget:
    """More money: `minimum_microusd` is the worst case of the next call."""

    minimum_microusd: int


@dataclass(frozen=True, slots=True)
class StartCall:
    """Think: the worst case is covered by the grant."""

    lease_id: UUID
    reserve_microusd: int


@dataclass(frozen=True, slots=True)
class Sleep:
    """Until the account's next day."""

    wake_at: datetime


@dataclass(frozen=True, slots=True)
class Wake:
    """The sleeper was called."""


@dataclass(frozen=True, slots=True)
class SendBack:
    """A check failed and tries are left, or a person has something to say: the agent goes on."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The build ends without being ready."""

    reason: FailReason
    detail: str
    seen: Usage | None = None  # of the call that was stopped for it, when one was


@dataclass(frozen=True, slots=True)
class Complete:
    """All checks passed. `build_version` is the project's number for it; none: not drawn yet."""

    build_version: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of the model. `content` in canonical key order."""

    message_id: str
    model: str
    content: tuple[dict[str, Any], ...]
    stop_reason: str
    usage: Usage
    latency_ms: int
    first_token_ms: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """An attempt without an answer. `usage` is what the provider told before it broke; none: nothing was told.

    `maybe_billed`: the request was under way, so without a usage its worst case counts.
    """

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    maybe_billed: bool = False


@dataclass(frozen=True, slots=True)
class AbandonCall:
    """The owner of the call in flight is gone; nobody will ever hear its answer.

    `seen`: what the owner heard before it was told to go. None: it fell, and the worst case counts.
    """

    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class StopOnFault:
    """An error of ours ended the call in flight. The build sleeps until a person wakes it, and so makes no more calls.

    `seen`: the usage that the provider stated. None: the call counts at its worst case.
    """

    detail: str
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class ReportStall:
    """The run of a build failed. `cause`: the last event that the build could be folded to, or the one it could not."""

    reason: Literal["fault", "dependency"]
    detail: str
    cause: UUID


@dataclass(frozen=True, slots=True)
class CancelBuild:
    """A person's word. `cause` is the request's id."""

    reason: str
    cause: UUID
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class TellAgent:
    """A person's message. `cause` is the request's id."""

    message: str
    cause: UUID


Step = AskBudget | StartCall | Sleep | Wake | SendBack | Fail | Complete
Command = (
    AcceptBuild
    | Step
    | Answer
    | CallFailed
    | AbandonCall
    | StopOnFault
    | ReportStall
    | CancelBuild
    | TellAgent
)
