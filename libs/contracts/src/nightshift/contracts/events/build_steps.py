"""The orchestrator's facts about the steps of a build's loop: model calls, tool calls, checkpoints, messages."""

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
    """The base of the orchestrator's facts."""

    owner: ClassVar[Owner] = Owner.ORCHESTRATOR


class Usage(BaseModel):
    """The tokens of one model call, as the Messages API counts them: `input_tokens` excludes tokens of the cache."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_write_5m_input_tokens: Count = 0
    cache_write_1h_input_tokens: Count = 0


class ModelCallStarted(BuildFact, type="model_call.started"):
    """A model call begins. Appended before the request is sent. The grant `lease_id` covers its highest cost.

    `role` says who calls; absent, the builder. A call of another role has the turn of the builder's last call, and
    `attempt` counts the calls of other roles since that turn began. `counted_tokens` is what the provider counted for
    the builder's next request, when a guess would have decided about money or about condensing.
    """

    turn: Count
    attempt: Count
    model: Word
    role: Role | None = None
    lease_id: UUID
    reserve_microusd: Microdollars
    counted_tokens: Count | None = None


class ModelCallResponded(BuildFact, type="model_call.responded"):
    """The model answered. `content` holds the provider's blocks, so that later requests repeat them byte for byte.

    `repaired` names what was changed in them, because the provider would refuse it in the next request.
    `stop_details` is what the provider said about a refusal. `role`, `turn` and `attempt` are those of the call.
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
    """One attempt of a model call ended without an answer. `cost_microusd` is what the provider may have billed.

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
        "auth",  # the key is not valid, or may not do this
        "credit",  # the provider's account has no credit
        "usage_limit",  # the provider's account has reached a spend limit
        "invalid",
        "too_long",  # the prompt does not fit into the model's context
        "thinking",  # the provider no longer takes the thinking of earlier turns
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


class ToolCallRequested(BuildFact, type="tool_call.requested"):
    """Requests one tool call. The orchestrator makes those with purpose `check` and `preview` to check the result.

    One with purpose `judge` is the judge's: the gateway runs it only when its tool reads. One with purpose `setup`
    prepares the workspace before the first turn.
    A call with purpose `customer` is of a tool that the build's request brought: a consumer of the customer answers it
    with `tool_call.result_given` before `deadline`, and the sandbox-gateway leaves it alone. One with purpose
    `instructions` reads the files with which a workspace instructs its agent.
    """

    call_id: CallId
    turn: Count
    index: Count
    tool: Word
    tool_use_id: Annotated[str, Field(max_length=255)]
    input: SealedObject
    timeout_s: Annotated[int, Field(ge=1, le=604_800)] = 120
    purpose: Literal["agent", "check", "preview", "judge", "instructions", "setup", "customer"] = "agent"
    deadline: AwareDatetime | None = None  # of a customer's call

    def pending(self, subject: str) -> Sequence[Pending]:
        if self.purpose == "customer":
            return (Pending(PendingKind.CUSTOMER_CALL, self.call_id, opens=True, due_at=self.deadline),)
        return (Pending(PendingKind.TOOL_CALL, self.call_id, opens=True),)


class CheckpointSaved(BuildFact, type="checkpoint.saved"):
    """All results of a turn are in the log. Any replica can continue the build from here."""

    turn: Count

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=True),)


class AgentSteered(BuildFact, type="agent.steered"):
    """Adds a message for the agent that no tool returned: from a person, the budget, a check, or the loop itself."""

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
    """From now on the model gets this summary in place of the messages up to and including `through_turn`.

    The later turns stay without their thinking, and with long results cut. A `model_call.responded` of the role
    `condenser` precedes the event and holds what the summary cost. When no model could write it, the loop listed the
    turns. Without a summary only thinking and long results are gone.
    """

    through_turn: Count
    summary: SealedText | None = None
    written_by: Literal["model", "loop"] = "model"
