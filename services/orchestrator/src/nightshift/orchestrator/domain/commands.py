"""The commands that `decide` takes: the steps that `next_step` returns, and commands from outside."""

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
    """A build at the end of a turn, from which a fork continues.

    `accepted` is its request, and `conversation` its conversation in plain form. `snapshot_key` and `tree_digest`
    identify its files at that moment. They are None when the build had no sandbox yet.
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
    """Accept a request that passed `admit`.

    `account` is the newest policy of the request's account, or None when it has none. `base` is the build that a fork
    continues, or None for a request that is no fork.
    """

    request: BuildRequested
    account: AccountPolicyChanged | None = None
    base: ForkBase | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Start a queued build by requesting the money for its first call."""


@dataclass(frozen=True, slots=True)
class AskBudget:
    """Request money. `minimum_microusd` is the worst case of the next call."""

    minimum_microusd: int


@dataclass(frozen=True, slots=True)
class StartCall:
    """Start a model call of a role. The grant `lease_id` covers the call's worst case.

    `counted_tokens` is the provider's count of the builder's next request, if the provider was asked.
    """

    lease_id: UUID
    reserve_microusd: int
    role: Role = "builder"
    counted_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Sleep until `wake_at`, when the account's next day begins."""

    wake_at: datetime


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the build, because the log contains `wake.requested`."""


@dataclass(frozen=True, slots=True)
class SendBack:
    """Send the agent back to work, because a check failed and tries are left, or because a person sent a message."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the build as failed."""

    reason: FailReason
    detail: str
    seen: Usage | None = None  # the usage of the call that was stopped for this, if there was one


@dataclass(frozen=True, slots=True)
class Complete:
    """End the build as ready. `build_version` is its number in the project, or None until it has a number."""

    build_version: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of the model as the provider sent it. The keys of `content` are in canonical order.

    `invalid_inputs` contains the texts of tool inputs that are no JSON object, by the index of their block.
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
    """A model call that ended without an answer.

    `usage` is what the provider stated, or None when it stated nothing. If `maybe_billed`, the provider may bill the
    call, and a call without a usage costs its worst case.
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

    `seen` is the usage that the process of the call had read when it stopped. None means that this process died, and
    the call costs its worst case.
    """

    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class StopOnFault:
    """End the open call after an error of the orchestrator, and sleep until a person wakes the build.

    `seen` is the usage that the provider stated. If it is None, the call costs its worst case.
    """

    detail: str
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class ReportStall:
    """Report that the run of a build failed. A second report with the same id `cause` changes nothing."""

    reason: Literal["fault", "dependency"]
    detail: str
    cause: UUID


@dataclass(frozen=True, slots=True)
class ReportProvider:
    """Report that the provider refuses a key, or accepts it again.

    All reports of one incident have the same `cause`.
    """

    fact: ProviderBlocked | ProviderRecovered
    cause: UUID


@dataclass(frozen=True, slots=True)
class CancelBuild:
    """Cancel the build. `cause` is the id of the request.

    `seen` is the usage of the open model call so far. If it is None, that call costs its worst case.
    """

    reason: str
    cause: UUID
    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class AnswerQuestion:
    """Answer a question or an escalation.

    `cause` is the id of the request, or None for the default that the agent itself named.
    """

    question_id: str
    option: str | None
    text: str | None
    cause: UUID | None = None

    @property
    def by_default(self) -> bool:
        return self.cause is None


@dataclass(frozen=True, slots=True)
class GiveApproval:
    """Approve or deny a tool call. `cause` is the id of the request, or None for the denial at the deadline."""

    call_id: str
    approved: bool
    comment: str | None = None
    cause: UUID | None = None
    given_by: str | None = None  # the source of the request


@dataclass(frozen=True, slots=True)
class GiveResult:
    """Give the result of a call of a customer's tool.

    `cause` is the id of the request, or None for the result that the call gets at its deadline.
    """

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
    """Resume a paused build. `cause` is the id of the request."""

    cause: UUID


@dataclass(frozen=True, slots=True)
class RewindBuild:
    """Set a stopped build back to the end of one of its turns, `base`. `cause` is the id of the request."""

    base: ForkBase
    message: str | None
    cause: UUID


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Set limits of the build. A limit that is None stays as it is. `cause` is the id of the request."""

    turn_limit: int | None
    tool_call_limit: int | None
    cause: UUID
    cost_limit_microusd: int | None = None


@dataclass(frozen=True, slots=True)
class WaitForProvider:
    """Begin to wait for the provider, because the provider refuses the key. `detail` names the key and the reason."""

    detail: str


@dataclass(frozen=True, slots=True)
class ResumeFromProvider:
    """End a wait for the provider."""


@dataclass(frozen=True, slots=True)
class StartWaiting:
    """Begin to wait for an open question, approval or call of a customer's tool. No process runs a waiting build."""


@dataclass(frozen=True, slots=True)
class StopCall:
    """End the model call of a build that was paused.

    `seen` is the usage so far. If it is None, the call costs its worst case.
    """

    seen: Usage | None = None


@dataclass(frozen=True, slots=True)
class Escalate:
    """Ask a person how to continue. `tried` says what was done about the problem.

    `options` are the possible answers.
    """

    kind: EscalationKind
    detail: str
    tried: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageAgent:
    """Send a person's message to the agent. `cause` is the id of the request."""

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
#: The commands that come from requests of people. Their `cause` is the id of the request.
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
