"""The orchestrator's facts about the steps of a build: model calls, tool calls, checkpoints, and messages to the
agent.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.contracts.model import (
    CallId,
    Count,
    Event,
    Microdollars,
    Milliseconds,
    Owner,
    Pending,
    PendingKind,
    SealedBlocks,
    SealedObject,
    SealedText,
    Word,
)
from nightshift.contracts.models import Role


class BuildFact(Event):
    """The base class of the orchestrator's facts."""

    owner: ClassVar[Owner] = Owner.ORCHESTRATOR


class Usage(BaseModel):
    """The tokens of one model call, as the Messages API counts them. `input_tokens` excludes cached tokens."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_write_5m_input_tokens: Count = 0
    cache_write_1h_input_tokens: Count = 0


class ModelCallStarted(BuildFact, type="model_call.started"):
    """A model call begins. Appended before the request is sent. The grant `lease_id` covers its highest possible cost.

    `role` is the role of the call, absent for the builder. `attempt` counts the builder's calls in this `turn`: it is 2
    when the first call failed. A call of another role has the `turn` of the builder's last call, and its `attempt`
    counts the calls of all other roles since then.

    `counted_tokens` is how many tokens the builder's next request has, as counted by the provider. It is present only
    when the orchestrator asked the provider, because its own estimate was too inexact.
    """

    turn: Count
    attempt: Count
    model: Word
    role: Role | None = None
    lease_id: UUID
    reserve_microusd: Microdollars
    counted_tokens: Count | None = None


class ModelCallResponded(BuildFact, type="model_call.responded"):
    """The model answered.

    `content` contains the provider's blocks unchanged, so that later requests repeat the same bytes. `repaired` names
    changes in the blocks that were necessary because the provider would refuse them in the next request. `stop_details`
    is what the provider said about a refusal. `role`, `turn` and `attempt` are those of the call.
    """

    turn: Count
    attempt: Count
    role: Role | None = None
    model: Word
    message_id: Annotated[str, Field(max_length=255)]
    content: SealedBlocks
    stop_reason: Word
    stop_details: SealedObject | None = None
    repaired: tuple[Word, ...] | None = None
    usage: Usage
    price_version: Word
    cost_microusd: Microdollars
    latency_ms: Milliseconds
    first_token_ms: Milliseconds


class ModelCallFailed(BuildFact, type="model_call.failed"):
    """An attempt at a model call ended without an answer. `cost_microusd` is what the provider may have billed for it.

    The call is tried again at `retry_at`. When `retry_at` is absent, the build sleeps or fails next. `role`, `turn` and
    `attempt` are those of the call.
    """

    turn: Count
    attempt: Count
    role: Role | None = None
    kind: Literal[
        "rate_limited",
        "overloaded",
        "server",
        "connection",
        "stream_cut",
        "malformed",
        "auth",  # the provider does not accept the key, or the key lacks a permission
        "credit",  # the provider's account has no credit
        "usage_limit",  # the provider's account has reached a spend limit
        "invalid",
        "too_long",  # the prompt does not fit into the model's context
        "thinking",  # the provider no longer accepts the thinking blocks of earlier turns
        "abandoned",  # the process that made the call died: the cost is the worst case
        "cancelled",  # we stopped the call: the cost is that of the part received
        "unknown",
    ]
    status: int | None = None
    detail: SealedText
    retry_at: AwareDatetime | None = None
    usage: Usage = Usage()
    price_version: Word | None = None
    cost_microusd: Microdollars = 0


class ToolCallRequested(BuildFact, type="tool_call.requested"):
    """Requests a tool call. `purpose` says who wants it.

    The orchestrator requests `check` and `preview` to check the result, and `setup` to prepare the workspace before the
    first turn. It requests `instructions` to read files such as AGENTS.md, which instruct the agent. A `judge` call
    belongs to the judge: the sandbox gateway runs it only when its tool reads. A `customer` call uses a customer's
    tool. A consumer of the customer answers it with `tool_call.result_given` before `deadline`, and the sandbox gateway
    ignores it.
    """

    call_id: CallId
    turn: Count
    index: Count
    tool: Word
    tool_use_id: Annotated[str, Field(max_length=255)]
    input: SealedObject
    timeout_s: Annotated[int, Field(ge=1, le=604_800)] = 120
    purpose: Literal["agent", "check", "preview", "judge", "instructions", "setup", "customer"] = "agent"
    deadline: AwareDatetime | None = None  # only of a `customer` call

    def pending(self, subject: str) -> Sequence[Pending]:
        if self.purpose == "customer":
            return (Pending(PendingKind.CUSTOMER_CALL, self.call_id, opens=True, due_at=self.deadline),)
        return (Pending(PendingKind.TOOL_CALL, self.call_id, opens=True),)


class CheckpointSaved(BuildFact, type="checkpoint.saved"):
    """All results of a turn are in the log. Any replica of the orchestrator can continue the build from here."""

    turn: Count

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=True),)


class AgentSteered(BuildFact, type="agent.steered"):
    """Adds a message for the agent that no tool returned. It comes from a person, the budget, a check, or the
    orchestrator itself.
    """

    reason: Literal[
        "person",
        "repetition",
        "budget",
        "turns",
        "check_failed",
        "unproven",
        "criteria_not_met",
        "sandbox_restored",
        "instructions",
        "answer",
        "no_tool_call",
        "max_tokens",
    ]
    message: SealedText


class ContextCondensed(BuildFact, type="context.condensed"):
    """From now on a summary replaces the messages up to the end of `through_turn` in every model request.

    Later turns stay, without their thinking and with long results shortened. The cost of the summary is in the
    `model_call.responded` of the role `condenser` before this event. When no model could write a summary, the
    orchestrator wrote a list of the turns (`written_by` is `loop`). If `summary` is null, only thinking and long
    results were removed.
    """

    through_turn: Count
    summary: SealedText | None = None
    written_by: Literal["model", "loop"] = "model"
