"""Requests about builds, on the topic `nightshift.requests.v1`. No other events are accepted from outside."""

import json
import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.proof import ProofMode
from nightshift.contracts.hosts import HostName
from nightshift.contracts.model import (
    EXACT,
    RFC_3339,
    SEALED,
    CallId,
    Count,
    Digest,
    Id,
    Request,
    SealedObject,
    SecretName,
    Word,
)
from nightshift.contracts.models import Role, Tier

_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _readable(text: str) -> str:
    if _CONTROL_CHARACTER.search(text):
        raise ValueError("control characters other than tab and line breaks are not allowed")
    return text


def _instant(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and RFC_3339.fullmatch(value)):
        return value
    raise ValueError("not an RFC 3339 time")  # nobody can tell whether a number means seconds or milliseconds


_LONGEST_BRIEF = 100_000
_TEXT_PATTERN = f"^[^{_CONTROL_CHARACTER.pattern[1:]}*$"
#: Free text in a request.
Brief = Annotated[
    str,
    Field(min_length=1, max_length=_LONGEST_BRIEF, json_schema_extra={"pattern": _TEXT_PATTERN}),
    AfterValidator(_readable),
    SEALED,
]


def _idea(value: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not 1 <= len(value) <= _LONGEST_BRIEF:
        raise ValueError(f"a text of 1 to {_LONGEST_BRIEF} characters, or an object")
    if _SURROGATE.search(value):
        raise ValueError("half a character (a lone surrogate) is not allowed")
    return _readable(value)


#: What to build: text like `Brief`, or a JSON object that the agent gets as indented JSON.
Idea = Annotated[
    str | dict[str, Any],
    AfterValidator(_idea),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": _LONGEST_BRIEF, "pattern": _TEXT_PATTERN},
                {"type": "object", "additionalProperties": True},
            ]
        }
    ),
    SEALED,
]


def idea_text(idea: str | dict[str, Any]) -> str:
    """Returns the idea as a person and the agent read it: an object as indented JSON."""
    return idea if isinstance(idea, str) else json.dumps(idea, indent=2, ensure_ascii=False, sort_keys=True)


#: The most microdollars that all model calls of a build may cost.
CostLimit = Annotated[int, EXACT, Field(ge=1, le=2**53 - 1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionAnswer(_Part):
    """A question that the product asked its user before the build, with the answer."""

    question: Brief
    answer: Brief


class Attachment(_Part):
    """A file that the producer stored in the object store, as `blobs/<hex of the digest>`, before it sent the request.

    The agent gets text, images (JPEG, PNG, GIF, WebP) and PDF as content of its first message.
    """

    name: Annotated[str, Field(min_length=1, max_length=255), SEALED]
    digest: Digest
    bytes: Annotated[Count, EXACT]
    media_type: Word = "application/octet-stream"


class Source(_Part):
    """A git repository from which the build starts. git sends the secret of this name as its password."""

    repository: Annotated[str, Field(min_length=1, max_length=2048), SEALED]
    ref: Annotated[str, Field(min_length=1, max_length=255), SEALED] = "HEAD"
    secret: SecretName | None = None


#: A shell command.
Command = Annotated[str, Field(min_length=1, max_length=8192), SEALED]
#: The value of an environment variable.
Value = Annotated[str, Field(max_length=32_768), SEALED]


class Check(_Part):
    """A command that must exit with 0 in the workspace before the build is ready."""

    name: Annotated[str, Field(min_length=1, max_length=128), SEALED]
    command: Annotated[str, Field(min_length=1, max_length=8192), SEALED]
    timeout_s: Annotated[int, Field(ge=1, le=3600), EXACT] = 300


class CustomTool(_Part):
    """A tool that the customer's own consumer provides. It answers calls with `tool_call.result_given`.

    A call without a result after `timeout_s` seconds gets `default_output`, or an error when there is none.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
    description: Annotated[str, Field(min_length=1, max_length=8192), SEALED]
    input_schema: dict[str, Any]
    timeout_s: Annotated[int, EXACT, Field(ge=1, le=604_800)] = 3_600
    default_output: Annotated[str, Field(max_length=100_000), SEALED] | None = None


class ForkPoint(_Part):
    """The moment of a build from which a fork starts: the end of a turn, with its thoughts and its files."""

    turn: Annotated[int, Field(ge=1, le=100_000), EXACT]


class BuildRequested(Request, type="build.requested"):
    """Requests a build. Sent again with the same content it changes nothing; other content under the id is refused.

    `tier` chooses the model of each role, the account's policy may name others, and `models` goes before both. `model`
    is short for the builder's.

    `secrets` names secrets of the account, which the gateway holds. `egress_hosts` are hosts that the build may reach
    beside those of the installation. Before the first turn `source` is cloned and `setup_commands` run in the
    workspace. `environment` holds variables for all commands.

    With `base_build_id` and `at` the build is a fork: it continues the other build from there, on its own money.
    `message` is what a person tells the agent of a fork. All other fields about the work must be those of the base.
    """

    build_id: Id
    project_id: Id
    account_id: Id
    idea_brief: Idea
    understanding_qna: Annotated[tuple[QuestionAnswer, ...], Field(max_length=200)] = ()
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    source: Source | None = None
    tier: Tier = "standard"
    model: Word | None = None
    models: dict[Role, Word] | None = None
    base_build_id: Id | None = None
    at: ForkPoint | None = None
    message: Brief | None = None
    criteria: Annotated[tuple[Brief, ...], Field(max_length=100)] = ()
    checks: Annotated[tuple[Check, ...], Field(max_length=50)] = ()
    proof: ProofMode | None = None
    tools: Annotated[tuple[CustomTool, ...], Field(max_length=50)] = ()
    approvals: ApprovalPolicy | None = None
    deadline: Annotated[AwareDatetime, BeforeValidator(_instant)] | None = None
    cost_limit_microusd: CostLimit | None = None
    secrets: Annotated[tuple[SecretName, ...], Field(max_length=100)] = ()
    egress_hosts: Annotated[tuple[HostName, ...], Field(max_length=100)] = ()
    setup_commands: Annotated[tuple[Command, ...], Field(max_length=20)] = ()
    environment: Annotated[dict[SecretName, Value], Field(max_length=100)] = Field(default_factory=dict)


class BuildCancelRequested(Request, type="build.cancel_requested"):
    """Cancels a build within seconds."""

    build_id: Id
    reason: Brief | None = None


class BuildMessageSent(Request, type="build.message_sent"):
    """Sends a message from a person to the agent, which gets it with its next turn."""

    build_id: Id
    message: Brief


class BuildAnswerGiven(Request, type="build.answer_given"):
    """A person answers a question of the agent or an escalation. The first answer counts."""

    build_id: Id
    question_id: Annotated[str, Field(min_length=1, max_length=200)]
    option: Word | None = None
    text: Brief | None = None


class BuildPauseRequested(Request, type="build.pause_requested"):
    """A person pauses a build. Its model call stops, and nothing is lost."""

    build_id: Id
    reason: Brief | None = None


class BuildResumeRequested(Request, type="build.resume_requested"):
    """A person lets a paused build go on."""

    build_id: Id


class BuildRewindRequested(Request, type="build.rewind_requested"):
    """A person sets a stopped build back to the end of a turn, and tells its agent `message`."""

    build_id: Id
    at: ForkPoint
    message: Brief | None = None


class BuildLimitsSet(Request, type="build.limits_set"):
    """A person sets the limits of a build. A build that waits at a limit goes on when it has room again."""

    build_id: Id
    turn_limit: Annotated[int, EXACT, Field(ge=1, le=100_000)] | None = None
    tool_call_limit: Annotated[int, EXACT, Field(ge=1, le=100_000)] | None = None
    cost_limit_microusd: CostLimit | None = None


class ToolCallApprovalGiven(Request, type="tool_call.approval_given"):
    """A person approves or denies a tool call that waits for it. The agent gets the comment."""

    build_id: Id
    call_id: CallId
    approved: Annotated[bool, EXACT]
    comment: Brief | None = None


class ToolCallResultGiven(Request, type="tool_call.result_given"):
    """A customer's service returns the result of a call of its own tool. Each call takes one result.

    The same result again changes nothing, and another one is refused. The agent gets `output`, then `data` as JSON.
    """

    build_id: Id
    call_id: CallId
    is_error: Annotated[bool, EXACT] = False
    output: Annotated[str, Field(max_length=500_000), SEALED] | None = None
    data: SealedObject | None = None


class BuildWakeAsked(Request, type="build.wake_asked"):
    """A person asks for a sleeping build to wake now."""

    build_id: Id


BuildRequest = (
    BuildRequested
    | BuildCancelRequested
    | BuildMessageSent
    | BuildAnswerGiven
    | BuildPauseRequested
    | BuildResumeRequested
    | BuildRewindRequested
    | BuildLimitsSet
    | ToolCallApprovalGiven
    | ToolCallResultGiven
    | BuildWakeAsked
)
