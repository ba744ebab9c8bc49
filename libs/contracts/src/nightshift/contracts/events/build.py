"""The orchestrator's facts: the lifecycle of a build and each step of its Think-Act-Observe-Repeat loop."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.contracts.events.requests import Attachment, Brief, Check, CustomTool, QuestionAnswer, Source
from nightshift.contracts.model import (
    SEALED,
    CallId,
    Count,
    Event,
    Id,
    Microdollars,
    Milliseconds,
    Owner,
    Pending,
    PendingKind,
    SealedBlocks,
    SealedObject,
    SealedText,
    SecretName,
    Word,
)


class Phase(StrEnum):
    """Where a build is on its way."""

    QUEUED = "queued"
    STARTING = "starting"
    SCAFFOLD = "scaffold"
    CODE = "code"
    DEPS = "deps"
    CHECKS = "checks"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _BuildFact(Event):
    owner: ClassVar[Owner] = Owner.ORCHESTRATOR


class _BuildEnd(_BuildFact):
    terminal: ClassVar[bool] = True

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.BUILD, subject, opens=False),
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/completion", opens=True),
        )


class Usage(BaseModel):
    """Tokens of one model call, in the Messages API's terms: `input_tokens` excludes what the cache read or wrote."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_write_5m_input_tokens: Count = 0
    cache_write_1h_input_tokens: Count = 0


class BuildAccepted(_BuildFact):
    """The request is in the log: from here on nothing can lose the build. Holds all that the loop needs of it."""

    type: ClassVar[Literal["build.accepted"]] = "build.accepted"
    version: ClassVar[Literal[1]] = 1

    build_id: Id
    project_id: Id
    account_id: Id
    idea_brief: Brief
    understanding_qna: tuple[QuestionAnswer, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    source: Source | None = None
    tier: Literal["standard", "priority"] = "standard"
    model: Word
    base_build_id: Id | None = None
    criteria: tuple[Brief, ...] = ()
    checks: tuple[Check, ...] = ()
    tools: tuple[CustomTool, ...] = ()
    deadline: AwareDatetime | None = None
    secrets: tuple[SecretName, ...] = ()
    turn_limit: int
    tool_call_limit: int

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.BUILD, subject, opens=True),)


class BuildPhaseChanged(_BuildFact):
    """One legal move of the phase table."""

    type: ClassVar[Literal["build.phase_changed"]] = "build.phase_changed"
    version: ClassVar[Literal[1]] = 1

    from_phase: Phase
    to_phase: Phase


class ModelCallStarted(_BuildFact):
    """Committed before the request leaves: the worst case it may cost is inside the grant `lease_id`."""

    type: ClassVar[Literal["model_call.started"]] = "model_call.started"
    version: ClassVar[Literal[1]] = 1

    turn: Count
    attempt: Count
    model: Word
    lease_id: UUID
    reserve_microusd: Microdollars


class ModelCallResponded(_BuildFact):
    """The whole answer. `content` is the provider's blocks, kept so that they can be sent again byte for byte."""

    type: ClassVar[Literal["model_call.responded"]] = "model_call.responded"
    version: ClassVar[Literal[1]] = 1

    turn: Count
    attempt: Count
    model: Word
    message_id: Annotated[str, Field(max_length=255)]
    content: SealedBlocks
    stop_reason: Word
    usage: Usage
    price_version: Word
    cost_microusd: Microdollars
    latency_ms: Milliseconds
    first_token_ms: Milliseconds


class ModelCallFailed(_BuildFact):
    """One attempt ended without an answer. `retry_at` absent: not tried again. A billed part is in `cost_microusd`."""

    type: ClassVar[Literal["model_call.failed"]] = "model_call.failed"
    version: ClassVar[Literal[1]] = 1

    turn: Count
    attempt: Count
    kind: Literal[
        "rate_limited",
        "overloaded",
        "server",
        "connection",
        "stream_cut",
        "malformed",
        "auth",
        "invalid",
        "abandoned",  # its owner died: counted at its worst case
        "cancelled",  # stopped by us: counted at what was seen of it
        "unknown",
    ]
    status: int | None = None
    detail: SealedText
    retry_at: AwareDatetime | None = None
    usage: Usage = Usage()
    price_version: Word | None = None
    cost_microusd: Microdollars = 0


class ToolCallRequested(_BuildFact):
    """Please run this. `purpose` check: the orchestrator's own, run after the agent said that it is done."""

    type: ClassVar[Literal["tool_call.requested"]] = "tool_call.requested"
    version: ClassVar[Literal[1]] = 1

    call_id: CallId
    turn: Count
    index: Count
    tool: Word
    tool_use_id: Annotated[str, Field(max_length=255)]
    input: SealedObject
    timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 120
    purpose: Literal["agent", "check", "preview"] = "agent"

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.TOOL_CALL, self.call_id, opens=True),)


class CheckpointSaved(_BuildFact):
    """All results of a turn are in the log: the loop can go on from here anywhere."""

    type: ClassVar[Literal["checkpoint.saved"]] = "checkpoint.saved"
    version: ClassVar[Literal[1]] = 1

    turn: Count

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=True),)


class AgentSteered(_BuildFact):
    """A message the agent did not ask for: a person's, the budget's, a check's, or the loop's own."""

    type: ClassVar[Literal["agent.steered"]] = "agent.steered"
    version: ClassVar[Literal[1]] = 1

    reason: Literal[
        "person",
        "repetition",
        "budget",
        "turns",
        "check_failed",
        "sandbox_restored",
        "answer",
        "no_tool_call",
        "max_tokens",
    ]
    message: SealedText


class ContextCondensed(_BuildFact):
    """The messages up to and with `through_turn` are told to the model as this summary from now on."""

    type: ClassVar[Literal["context.condensed"]] = "context.condensed"
    version: ClassVar[Literal[1]] = 1
    planned: ClassVar[bool] = True

    through_turn: Count
    summary: SealedText


class BudgetRequested(_BuildFact):
    """Please reserve this much of the account's day for this build. `lease_id` names the reservation."""

    type: ClassVar[Literal["budget.requested"]] = "budget.requested"
    version: ClassVar[Literal[1]] = 1

    lease_id: UUID
    account_id: Id
    amount_microusd: Microdollars
    minimum_microusd: Microdollars

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.BUDGET_REQUEST, str(self.lease_id), opens=True),)


class SleepRequested(_BuildFact):
    """Nothing more happens until `wake.requested`. Appended after `checkpoint.saved`, before the pre-sleep snapshot."""

    type: ClassVar[Literal["sleep.requested"]] = "sleep.requested"
    version: ClassVar[Literal[1]] = 1

    reason: Literal["budget", "provider", "person"]
    account_id: Id
    wake_at: AwareDatetime | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=True, due_at=self.wake_at),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=True),
        )


class BuildWoken(_BuildFact):
    """The build is awake: the loop goes on at the step where it was."""

    type: ClassVar[Literal["build.woken"]] = "build.woken"
    version: ClassVar[Literal[1]] = 1

    reason: Literal["refresh", "top_up", "person", "provider"]

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
        )


class EscalationRaised(_BuildFact):
    """The build waits for a person to choose one of `options`."""

    type: ClassVar[Literal["escalation.raised"]] = "escalation.raised"
    version: ClassVar[Literal[1]] = 1
    planned: ClassVar[bool] = True

    escalation_id: UUID
    kind: Word
    detail: SealedText
    options: tuple[Word, ...]


class EscalationResolved(_BuildFact):
    """A person chose; the answer reaches the agent."""

    type: ClassVar[Literal["escalation.resolved"]] = "escalation.resolved"
    version: ClassVar[Literal[1]] = 1
    planned: ClassVar[bool] = True

    escalation_id: UUID
    option: Word
    comment: SealedText | None = None


class BuildStalled(_BuildFact):
    """The orchestrator cannot go on with this build, and `action` says what a person can do.

    Nothing is spent while the build stalls. Any later event of the orchestrator says that the build goes on.
    """

    type: ClassVar[Literal["build.stalled"]] = "build.stalled"
    version: ClassVar[Literal[1]] = 1

    reason: Literal[
        "fault",  # an error in the orchestrator itself
        "dependency",  # a server that the orchestrator needs does not answer
    ]
    detail: SealedText
    action: Annotated[str, Field(max_length=500)]


class BuildReady(_BuildEnd):
    """The checks passed. `cost_microusd` is the sum over the log."""

    type: ClassVar[Literal["build.ready"]] = "build.ready"
    version: ClassVar[Literal[1]] = 1

    project_id: Id
    sandbox_id: Annotated[str, Field(max_length=255)]
    preview_url: Annotated[str, Field(max_length=2048), SEALED]
    build_version: Annotated[int, Field(ge=1)]
    cost_microusd: Microdollars
    turns: Count
    tool_calls: Count


class BuildFailed(_BuildEnd):
    """The build ended without an app that passes its checks. `detail` is for people."""

    type: ClassVar[Literal["build.failed"]] = "build.failed"
    version: ClassVar[Literal[1]] = 1

    reason: Literal[
        "checks_failed",
        "turn_limit",
        "tool_call_limit",
        "repetition",
        "refusal",
        "model_error",
        "max_tokens",
        "deadline",
        "invalid_request",
    ]
    detail: SealedText
    cost_microusd: Microdollars
    turns: Count


class BuildCancelled(_BuildEnd):
    """Somebody asked for the end."""

    type: ClassVar[Literal["build.cancelled"]] = "build.cancelled"
    version: ClassVar[Literal[1]] = 1

    reason: SealedText
    cost_microusd: Microdollars
    turns: Count


class BuildForked(_BuildFact):
    """This build began as that one was at `at_version`."""

    type: ClassVar[Literal["build.forked"]] = "build.forked"
    version: ClassVar[Literal[1]] = 1
    planned: ClassVar[bool] = True

    base_build_id: Id
    at_version: Count
    at_turn: Count


BuildEvent = (
    BuildAccepted
    | BuildPhaseChanged
    | ModelCallStarted
    | ModelCallResponded
    | ModelCallFailed
    | ToolCallRequested
    | CheckpointSaved
    | AgentSteered
    | ContextCondensed
    | BudgetRequested
    | SleepRequested
    | BuildWoken
    | EscalationRaised
    | EscalationResolved
    | BuildStalled
    | BuildReady
    | BuildFailed
    | BuildCancelled
    | BuildForked
)
