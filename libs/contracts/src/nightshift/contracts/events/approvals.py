"""Approvals: the policy that says which tool calls wait for a person, and the orchestrator's facts about them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import (
    EXACT,
    SEALED,
    CallId,
    Count,
    Pending,
    PendingKind,
    SealedObject,
    SealedText,
    Word,
)

#: `TOOL`, or `TOOL(PATTERN)` in which `*` stands for any text: `bash(git push *)`.
Rule = Annotated[str, Field(min_length=1, max_length=300), SEALED]
#: A host name. A leading `*.` matches every name below a domain, and `*` alone matches every host.
HostPattern = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$")
]


class ApprovalPolicy(BaseModel):
    """Which tool calls of the agent wait until a person approves them.

    The mode `always` asks for every call, except of the tools that only talk to a person. The mode `rules` asks for a
    call that matches a rule in `ask`, or whose command names a host in `hosts`. No mode asks for a call that matches a
    rule in `allow`. A call that nobody approves within `deadline_s` seconds is denied; without a deadline it waits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["never", "always", "rules"] = "rules"
    ask: Annotated[tuple[Rule, ...], Field(max_length=100)] = ()
    hosts: Annotated[tuple[HostPattern, ...], Field(max_length=100)] = ()
    allow: Annotated[tuple[Rule, ...], Field(max_length=100)] = ()
    deadline_s: Annotated[int, EXACT, Field(ge=1, le=604_800)] | None = None


class ApprovalRequested(BuildFact, type="approval.requested"):
    """A tool call waits for a person's approval. It has not run. After an approval, `tool_call.requested` follows.

    `reason` says why the policy asks about this call. Without an answer by `deadline` the call is denied.
    """

    call_id: CallId
    turn: Count
    index: Count
    tool: Word
    tool_use_id: Annotated[str, Field(max_length=255)]
    input: SealedObject
    timeout_s: Annotated[int, Field(ge=1, le=604_800)]
    purpose: Literal["agent", "customer"]
    reason: SealedText
    deadline: AwareDatetime | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.APPROVAL, self.call_id, opens=True, due_at=self.deadline),)


class ApprovalResolved(BuildFact, type="approval.resolved"):
    """The tool call was approved, or it was denied and never runs. `given_by` is the source of the person's request."""

    call_id: CallId
    approved: bool
    comment: SealedText | None = None
    by: Literal[
        "person",
        "default",  # the deadline passed
        "message",  # a person sent a message instead
        "cancelled",  # the build ended
    ]
    given_by: Annotated[str, Field(max_length=2048)] | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.APPROVAL, self.call_id, opens=False),)
