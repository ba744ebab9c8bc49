"""The orchestrator's facts about builds that wait for a person: questions, answers, escalations, pauses."""

from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import (
    CallId,
    Count,
    Microdollars,
    Pending,
    PendingKind,
    SealedText,
    Word,
)

Option = Annotated[str, Field(min_length=1, max_length=200)]


class QuestionAsked(BuildFact, type="question.asked"):
    """The agent asks a person a question with the tool `ask_user`. `question_id` is the id of that tool call.

    Without an answer by `deadline`, the agent receives `default` as the answer.
    """

    question_id: CallId
    turn: Count
    index: Count
    tool_use_id: Annotated[str, Field(max_length=255)]
    question: SealedText
    options: tuple[Option, ...] = ()
    deadline: AwareDatetime | None = None
    default: SealedText | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.QUESTION, self.question_id, opens=True, due_at=self.deadline),)


class ToolCallAnswered(BuildFact, type="tool_call.answered"):
    """The only result of a tool call that needs no sandbox, such as `ask_user`. `by` says who gave the result.

    `tool` and `tool_use_id` are set only when the agent called a customer's tool with an invalid input. The customer
    then never receives the call.
    """

    call_id: CallId
    is_error: bool = False
    output: SealedText
    option: Option | None = None
    by: Literal["person", "default", "customer", "policy", "cancelled"]
    tool: Word | None = None
    tool_use_id: Annotated[str, Field(max_length=255)] | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.QUESTION, self.call_id, opens=False),
            Pending(PendingKind.CUSTOMER_CALL, self.call_id, opens=False),
        )


class EscalationRaised(BuildFact, type="escalation.raised"):
    """The build cannot continue alone. It waits until a person chooses one of `options`.

    `detail` is the problem in plain words, and `tried` is what was done about it.
    """

    escalation_id: UUID
    kind: Word
    detail: SealedText
    tried: SealedText | None = None
    options: tuple[Word, ...]
    deadline: AwareDatetime | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.QUESTION, str(self.escalation_id), opens=True, due_at=self.deadline),)


class EscalationResolved(BuildFact, type="escalation.resolved"):
    """The escalation is over: a person chose `option`, or the build ended. The agent receives the answer."""

    escalation_id: UUID
    option: Word
    comment: SealedText | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.QUESTION, str(self.escalation_id), opens=False),)


class BuildWaiting(BuildFact, type="build.waiting"):
    """The build waits. No process runs it until `build.resumed`, or until the time `until`.

    Another `build.waiting` follows when the running model call has ended, or when `until` changes. `detail` is the
    comment of the person who paused the build, or which key the provider refuses and why.
    """

    reason: Literal[
        "question",  # of the agent
        "approval",
        "escalation",
        "customer_tool",
        # The provider refuses the key: it is not valid, has no credit, or is over its usage limit.
        "provider",
        "paused",  # a person paused the build
        "limit",  # of turns, tool calls or cost
    ]
    question_id: Annotated[str, Field(max_length=200)] | None = None
    detail: SealedText | None = None
    until: AwareDatetime | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        kinds = PendingKind.WAITING, PendingKind.PROVIDER
        opened, closed = reversed(kinds) if self.reason == "provider" else kinds
        return (
            Pending(closed, subject, opens=False),
            Pending(opened, subject, opens=True, due_at=self.until),
        )


class BuildResumed(BuildFact, type="build.resumed"):
    """The build continues with the step before which it began to wait."""

    reason: Literal[
        "answer", "approval", "customer_tool", "message", "person", "default", "limits", "provider"
    ]

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.WAITING, subject, opens=False),
            Pending(PendingKind.PROVIDER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=False),
        )


class BuildLimitsChanged(BuildFact, type="build.limits_changed"):
    """The build has these limits from now on. Without `cost_limit_microusd` its cost has no limit."""

    turn_limit: Count
    tool_call_limit: Count
    cost_limit_microusd: Microdollars | None = None
