"""Requests about builds, on the topic `nightshift.requests.v1`. From outside, only requests are accepted."""

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
    raise ValueError("not an RFC 3339 time")  # a number could mean seconds or milliseconds


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


#: What to build: text like `Brief`, or a JSON object, which the agent receives as indented JSON.
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
    """Returns the idea as text for a person and for the agent. An object becomes indented JSON."""
    return idea if isinstance(idea, str) else json.dumps(idea, indent=2, ensure_ascii=False, sort_keys=True)


#: The most microdollars that all model calls of a build may cost.
CostLimit = Annotated[int, EXACT, Field(ge=1, le=2**53 - 1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionAnswer(_Part):
    """A question that your product asked its user before the build, and the answer."""

    question: Brief
    answer: Brief


class Attachment(_Part):
    """A file for the agent. The sender of the request first stores the file in the object store, under `blobs/<hex of
    the digest>`.

    The first message to the agent contains text, images (JPEG, PNG, GIF, WebP) and PDF files.
    """

    name: Annotated[str, Field(min_length=1, max_length=255), SEALED]
    digest: Digest
    bytes: Annotated[Count, EXACT]
    media_type: Word = "application/octet-stream"


class Source(_Part):
    """The git repository with which the build starts. `secret` names the secret that git sends as the password."""

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
    """A tool that the customer provides. A consumer of the customer answers its calls with `tool_call.result_given`.

    A call without a result after `timeout_s` seconds gets `default_output`, or an error when there is none.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
    description: Annotated[str, Field(min_length=1, max_length=8192), SEALED]
    input_schema: dict[str, Any]
    timeout_s: Annotated[int, EXACT, Field(ge=1, le=604_800)] = 3_600
    default_output: Annotated[str, Field(max_length=100_000), SEALED] | None = None


class ForkPoint(_Part):
    """The point of another build from which a fork starts: the end of a turn, with its conversation and files."""

    turn: Annotated[int, Field(ge=1, le=100_000), EXACT]


class BuildRequested(Request, type="build.requested"):
    """Requests a build.

    The same request again changes nothing; a request with the same id and other content is refused. `tier` chooses the
    model of each role. The account's policy overrides it, and `models` overrides both; `model` sets only the builder's.
    `secrets` names secrets of the account, whose values the sandbox gateway knows. `egress_hosts` are hosts that the
    build may reach in addition to those of the installation. Before the first turn, `source` is cloned and
    `setup_commands` run in the workspace. `environment` sets variables for all commands.

    If `base_build_id` and `at` are given, the build is a fork: it continues that build from the end of that turn, on
    its own money. `message` is a person's message to the agent of a fork. All other fields about the work must equal
    those of the other build.
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
    """Sends a person's message to the agent, which receives it in its next turn."""

    build_id: Id
    message: Brief


class BuildAnswerGiven(Request, type="build.answer_given"):
    """A person answers a question of the agent, or an escalation. Only the first answer counts."""

    build_id: Id
    question_id: Annotated[str, Field(min_length=1, max_length=200)]
    option: Word | None = None
    text: Brief | None = None


class BuildPauseRequested(Request, type="build.pause_requested"):
    """A person pauses a build. A running model call is stopped, and no work is lost."""

    build_id: Id
    reason: Brief | None = None


class BuildResumeRequested(Request, type="build.resume_requested"):
    """A person lets a paused build continue."""

    build_id: Id


class BuildRewindRequested(Request, type="build.rewind_requested"):
    """A person returns a stopped build to the end of an earlier turn. The agent receives `message`."""

    build_id: Id
    at: ForkPoint
    message: Brief | None = None


class BuildLimitsSet(Request, type="build.limits_set"):
    """A person sets the limits of a build. A build that waits at a limit continues when the new limit allows it."""

    build_id: Id
    turn_limit: Annotated[int, EXACT, Field(ge=1, le=100_000)] | None = None
    tool_call_limit: Annotated[int, EXACT, Field(ge=1, le=100_000)] | None = None
    cost_limit_microusd: CostLimit | None = None


class ToolCallApprovalGiven(Request, type="tool_call.approval_given"):
    """A person approves or denies a tool call that waits for approval. The agent receives the comment."""

    build_id: Id
    call_id: CallId
    approved: Annotated[bool, EXACT]
    comment: Brief | None = None


class ToolCallResultGiven(Request, type="tool_call.result_given"):
    """A customer's service returns the result of a call of its own tool. Each call accepts one result.

    The same result again changes nothing, and a different one is refused. The agent receives `output`, then `data` as
    JSON.
    """

    build_id: Id
    call_id: CallId
    is_error: Annotated[bool, EXACT] = False
    output: Annotated[str, Field(max_length=500_000), SEALED] | None = None
    data: SealedObject | None = None


class BuildWakeAsked(Request, type="build.wake_asked"):
    """A person asks that a sleeping build wakes now."""

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
