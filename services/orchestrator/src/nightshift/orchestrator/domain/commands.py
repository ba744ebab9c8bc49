"""The commands that `decide` takes: the steps that `next_step` returns, and what comes from outside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.build import BuildAccepted, ProviderBlocked, ProviderRecovered, Usage
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.models import Role
from nightshift.orchestrator.domain.state import EscalationKind

FailureKind = Literal[
    "rate_limited",
    "overloaded",
    "server",
    "connection",
    "stream_cut",
    "malformed",
    "auth",
    "credit",
    "usage_limit",
    "invalid",
    "too_long",
    "thinking",
    "abandoned",
    "cancelled",
    "unknown",
]
FailReason = Literal[
    "checks_failed",
    "unproven",
    "turn_limit",
    "tool_call_limit",
    "cost_limit",
    "day_limit",
    "repetition",
    "refusal",
    "model_error",
    "max_tokens",
    "deadline",
    "setup_failed",
]


@dataclass(frozen=True, slots=True)
class ForkBase:
    """A build at the end of a turn, as a fork continues it. `accepted` is its request, `conversation` its plain form.

    `snapshot_key` and `tree_digest` name its files at that moment; None when it had no sandbox yet.
    """

    accepted: BuildAccepted
    at_version: int
    at_turn: int
    conversation: dict[str, Any]
    tool_calls: int = 0
    wrote: bool = False
    snapshot_key: str | None = None
    tree_digest: str | None = None


@dataclass(frozen=True, slots=True)
class AcceptBuild:
    """A request that passed `admit`, with the newest policy of its account. `base` is what a fork starts from."""

    request: BuildRequested
    account: AccountPolicyChanged | None = None
    base: ForkBase | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Start a queued build: request the money of its first call."""


@dataclass(frozen=True, slots=True)
class AskBudget:
    """Request money. `minimum_microusd` is the worst case of the next call."""

    minimum_microusd: int


@dataclass(frozen=True, slots=True)
class StartCall:
    """Start a model call of a role, whose worst case the grant covers.

    `counted_tokens` is what the provider counted for the builder's next request, if it was asked.
    """

    lease_id: UUID
    reserve_microusd: int
    role: Role = "builder"
    counted_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Sleep until `wake_at`, the account's next day."""

    wake_at: datetime


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the build: `wake.requested` is in the log."""


@dataclass(frozen=True, slots=True)
class SendBack:
    """Send the agent back to work: a check failed and tries are left, or a person sent a message."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the build without success."""

    reason: FailReason
    detail: str
    seen: Usage | None = None  # of the call that was stopped for it, if there was one


@dataclass(frozen=True, slots=True)
class Complete:
    """End the build as ready. `build_version` is its number in the project, None until it is drawn."""

    build_version: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of the model, as the provider sent it. The keys of `content` are in canonical order.

    `invalid_inputs` holds the text of tool inputs that are no JSON object, by the index of their block.
    """

    message_id: str
    model: str
    content: tuple[dict[str, Any], ...]
    stop_reason: str
    usage: Usage
    latency_ms: int
    first_token_ms: int
    stop_details: dict[str, Any] | None = None
    invalid_inputs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallFailed:
    """An attempt without an answer. `usage` is what the provider stated; None when it stated nothing.

    `maybe_billed` is true when the provider may bill the call: without a usage its worst case counts then.
    """

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    maybe_billed: bool = False


@dataclass(frozen=True, slots=True)
class AbandonCall:
    """End the open call, because no process waits for its answer any more.

    `seen` is the usage that its owner read before it stopped. None: the owner died, and the worst case counts.
    """

    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class StopOnFault:
    """End the open call after an error of the orchestrator, and sleep until a person wakes the build.

    `seen` is the usage that the provider stated. None: the call counts at its worst case.
    """

    detail: str
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class ReportStall:
    """Report that the run of a build failed. `cause` is an id; a second report with the same cause changes nothing."""

    reason: Literal["fault", "dependency"]
    detail: str
    cause: UUID


@dataclass(frozen=True, slots=True)
class ReportProvider:
    """Report that the provider refuses a key, or accepts it again. An incident has one `cause`."""

    fact: ProviderBlocked | ProviderRecovered
    cause: UUID


@dataclass(frozen=True, slots=True)
class CancelBuild:
    """Cancel the build. `cause` is the id of the request."""

    reason: str
    cause: UUID
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class AnswerQuestion:
    """Answer a question or an escalation. `cause` is the id of the request, and None for the agent's own default."""

    question_id: str
    option: str | None
    text: str | None
    cause: UUID | None = None

    @property
    def by_default(self) -> bool:
        return self.cause is None


@dataclass(frozen=True, slots=True)
class GiveApproval:
    """Approve or deny a tool call. `cause` is the id of the request, and None for the denial at the deadline."""

    call_id: str
    approved: bool
    comment: str | None = None
    cause: UUID | None = None
    given_by: str | None = None  # the source of the request


@dataclass(frozen=True, slots=True)
class GiveResult:
    """Answer a call of a customer's tool. `cause` is the id of the request, and None at the deadline."""

    call_id: str
    is_error: bool
    output: str
    cause: UUID | None = None


@dataclass(frozen=True, slots=True)
class PauseBuild:
    """Pause the build. `cause` is the id of the request."""

    reason: str | None
    cause: UUID


@dataclass(frozen=True, slots=True)
class ResumeBuild:
    """Let a paused build go on. `cause` is the id of the request."""

    cause: UUID


@dataclass(frozen=True, slots=True)
class RewindBuild:
    """Set a stopped build back to `base`, the end of one of its turns. `cause` is the id of the request."""

    base: ForkBase
    message: str | None
    cause: UUID


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Set limits; None leaves one as it is. `cause` is the id of the request."""

    turn_limit: int | None
    tool_call_limit: int | None
    cause: UUID
    cost_limit_microusd: int | None = None


@dataclass(frozen=True, slots=True)
class WaitForProvider:
    """Begin to wait for the provider, which refuses the key. `detail` names the key and the reason."""

    detail: str


@dataclass(frozen=True, slots=True)
class ResumeFromProvider:
    """Go on after a wait for the provider."""


@dataclass(frozen=True, slots=True)
class StartWaiting:
    """Begin to wait for the answer to an open question."""


@dataclass(frozen=True, slots=True)
class StopCall:
    """End the model call of a build that was paused. `seen` is the usage so far; None counts the worst case."""

    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class Escalate:
    """Ask a person how to go on. `tried` says what was done about the problem; `options` are the possible answers."""

    kind: EscalationKind
    detail: str
    tried: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageAgent:
    """Send the agent a person's message. `cause` is the id of the request."""

    message: str
    cause: UUID


Step = (
    Begin
    | AskBudget
    | StartCall
    | Sleep
    | Wake
    | SendBack
    | Fail
    | Complete
    | StartWaiting
    | StopCall
    | Escalate
    | AnswerQuestion
    | GiveApproval
    | GiveResult
)
Command = (
    AcceptBuild
    | Step
    | WaitForProvider
    | ResumeFromProvider
    | Answer
    | CallFailed
    | AbandonCall
    | StopOnFault
    | ReportStall
    | ReportProvider
    | CancelBuild
    | MessageAgent
    | PauseBuild
    | ResumeBuild
    | RewindBuild
    | SetLimits
)
#: The commands that requests of people lead to. `cause` is the id of the request.
RequestCommand = (
    AnswerQuestion
    | GiveApproval
    | GiveResult
    | MessageAgent
    | PauseBuild
    | ResumeBuild
    | RewindBuild
    | SetLimits
)
