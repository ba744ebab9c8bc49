"""The orchestrator's facts about the lifecycle of a build, and the union of all its facts."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from nightshift.contracts.events.approvals import ApprovalPolicy, ApprovalRequested, ApprovalResolved
from nightshift.contracts.events.branches import BuildForked, BuildRewound
from nightshift.contracts.events.build_steps import (
    AgentSteered,
    BuildFact,
    CheckpointSaved,
    ContextCondensed,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.criteria import CriteriaJudged
from nightshift.contracts.events.proof import Proof, ProofMode
from nightshift.contracts.events.provider import ProviderBlocked, ProviderRecovered
from nightshift.contracts.events.requests import (
    Attachment,
    Brief,
    Check,
    Command,
    CustomTool,
    ForkPoint,
    Idea,
    QuestionAnswer,
    Source,
    Value,
)
from nightshift.contracts.events.snapshot import PathProblems
from nightshift.contracts.events.waiting import (
    BuildLimitsChanged,
    BuildResumed,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    QuestionAsked,
    ToolCallAnswered,
)
from nightshift.contracts.hosts import HostName
from nightshift.contracts.model import (
    SEALED,
    Count,
    Id,
    Microdollars,
    Pending,
    PendingKind,
    SealedText,
    SecretName,
    Word,
)
from nightshift.contracts.models import Role, Tier

__all__ = [
    "AgentSteered",
    "ApprovalRequested",
    "ApprovalResolved",
    "BudgetRequested",
    "BuildAccepted",
    "BuildCancelled",
    "BuildEvent",
    "BuildFailed",
    "BuildForked",
    "BuildLimitsChanged",
    "BuildPhaseChanged",
    "BuildReady",
    "BuildResumed",
    "BuildRewound",
    "BuildStalled",
    "BuildWaiting",
    "BuildWoken",
    "CheckpointSaved",
    "ContextCondensed",
    "CriteriaJudged",
    "EscalationRaised",
    "EscalationResolved",
    "ModelCallFailed",
    "ModelCallResponded",
    "ModelCallStarted",
    "Phase",
    "ProviderBlocked",
    "ProviderRecovered",
    "QuestionAsked",
    "SleepRequested",
    "ToolCallAnswered",
    "ToolCallRequested",
    "Usage",
]


class Phase(StrEnum):
    """The phase of a build. The orchestrator's README shows which phase may follow which."""

    QUEUED = "queued"
    STARTING = "starting"
    SCAFFOLD = "scaffold"
    CODE = "code"
    DEPS = "deps"
    CHECKS = "checks"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _BuildEnd(BuildFact):
    terminal: ClassVar[bool] = True

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.BUILD, subject, opens=False),
            Pending(PendingKind.QUEUED, subject, opens=False),
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=False),
            Pending(PendingKind.WAITING, subject, opens=False),
            Pending(PendingKind.PROVIDER, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/completion", opens=True),
        )


class BuildAccepted(BuildFact, type="build.accepted"):
    """The orchestrator accepted the request. From here on the build cannot be lost.

    The event contains everything that the build needs to run. `model` is the model of the role `builder`, and `models`
    names the model of each role.
    """

    build_id: Id
    project_id: Id
    account_id: Id
    idea_brief: Idea
    understanding_qna: tuple[QuestionAnswer, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    source: Source | None = None
    tier: Tier = "standard"
    model: Word
    models: dict[Role, Word] | None = None
    effort: Word | None = None
    base_build_id: Id | None = None
    at: ForkPoint | None = None
    message: Brief | None = None
    criteria: tuple[Brief, ...] = ()
    checks: tuple[Check, ...] = ()
    proof: ProofMode | None = None
    tools: tuple[CustomTool, ...] = ()
    approvals: ApprovalPolicy | None = None
    deadline: AwareDatetime | None = None
    secrets: tuple[SecretName, ...] = ()
    egress_hosts: tuple[HostName, ...] = ()
    setup_commands: tuple[Command, ...] = ()
    environment: dict[SecretName, Value] = Field(default_factory=dict)
    turn_limit: int
    tool_call_limit: int
    cost_limit_microusd: Microdollars | None = None
    max_active_builds: Count | None = None  # the account's limit, when its policy has one

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.BUILD, subject, opens=True),
            Pending(PendingKind.QUEUED, subject, opens=True, due_at=self.deadline),
        )


class BuildPhaseChanged(BuildFact, type="build.phase_changed"):
    """The build moved from one phase to the next."""

    from_phase: Phase
    to_phase: Phase

    def pending(self, subject: str) -> Sequence[Pending]:
        queued = self.from_phase is Phase.QUEUED
        return (Pending(PendingKind.QUEUED, subject, opens=False),) if queued else ()


class BudgetRequested(BuildFact, type="budget.requested"):
    """Requests money of the account's day for this build. `lease_id` is the id of this request and of the grant that
    may follow.

    The build needs at least `minimum_microusd`, the highest possible cost of its next model call. Builds of the tier
    `priority` get money first.
    """

    lease_id: UUID
    account_id: Id
    amount_microusd: Microdollars
    minimum_microusd: Microdollars
    tier: Tier | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.BUDGET_REQUEST, str(self.lease_id), opens=True),)


class SleepRequested(BuildFact, type="sleep.requested"):
    """The build sleeps until `wake.requested`. Appended after `checkpoint.saved` and before the pre-sleep snapshot."""

    reason: Literal["budget", "provider", "person"]
    account_id: Id
    wake_at: AwareDatetime | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=True, due_at=self.wake_at),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=True),
        )


class BuildWoken(BuildFact, type="build.woken"):
    """The build is awake. It continues with the step before which it fell asleep."""

    reason: Literal["refresh", "top_up", "person", "provider"]

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
        )


class BuildStalled(BuildFact, type="build.stalled"):
    """The orchestrator cannot continue this build for now; `action` says what a person can do.

    The build spends nothing meanwhile. Any later event of the orchestrator means that the build continues.
    """

    reason: Literal[
        "fault",  # an error in the orchestrator itself
        "dependency",  # a server that the orchestrator needs does not answer
    ]
    detail: SealedText
    action: Annotated[str, Field(max_length=500)]


class BuildReady(_BuildEnd, type="build.ready"):
    """The build is done, and `proof` shows that it works. `cost_microusd` is the sum of its model calls.

    `unsaved` names paths that its snapshots do not contain. `proof` is null only in events from releases without
    proofs.
    """

    project_id: Id
    sandbox_id: Annotated[str, Field(max_length=255)]
    preview_url: Annotated[str, Field(max_length=2048), SEALED]
    build_version: Annotated[int, Field(ge=1)]
    cost_microusd: Microdollars
    turns: Count
    tool_calls: Count
    proof: Proof | None = None
    unsaved: PathProblems | None = None


class BuildFailed(_BuildEnd, type="build.failed"):
    """The build ended without finished work that passes its checks. `detail` explains the reason to a person."""

    reason: Literal[
        "checks_failed",
        "unproven",  # nothing shows that the build works, or it misses a criterion of the request
        "turn_limit",
        "tool_call_limit",
        "cost_limit",
        "day_limit",  # one call may cost more than the account can spend in a day
        "repetition",
        "refusal",
        "model_error",
        "max_tokens",
        "deadline",
        "invalid_request",
        "setup_failed",  # the repository could not be cloned
    ]
    detail: SealedText
    cost_microusd: Microdollars
    turns: Count


class BuildCancelled(_BuildEnd, type="build.cancelled"):
    """The build was cancelled by `build.cancel_requested`."""

    reason: SealedText
    cost_microusd: Microdollars
    turns: Count


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
    | CriteriaJudged
    | BudgetRequested
    | SleepRequested
    | BuildWoken
    | QuestionAsked
    | ToolCallAnswered
    | ApprovalRequested
    | ApprovalResolved
    | EscalationRaised
    | EscalationResolved
    | BuildWaiting
    | BuildResumed
    | BuildLimitsChanged
    | BuildStalled
    | ProviderBlocked
    | ProviderRecovered
    | BuildReady
    | BuildFailed
    | BuildCancelled
    | BuildForked
    | BuildRewound
)
