"""What producers outside ask of a build. Topic `nightshift.requests.v1`; only these are accepted from outside."""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

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

_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _readable(text: str) -> str:
    if _CONTROL_CHARACTER.search(text):
        raise ValueError("control characters other than tab and line breaks are not allowed")
    return text


def _instant(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and RFC_3339.fullmatch(value)):
        return value
    raise ValueError("not an RFC 3339 time")  # a number is none: of seconds, of milliseconds?


#: Free text in a request. Longer material goes in as an attachment, by digest.
Brief = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100_000,
        json_schema_extra={"pattern": f"^[^{_CONTROL_CHARACTER.pattern[1:]}*$"},
    ),
    AfterValidator(_readable),
    SEALED,
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionAnswer(_Part):
    """One question the product asked its user before the build, and the answer."""

    question: Brief
    answer: Brief


class Attachment(_Part):
    """A file that was put into the object store before the request was sent."""

    name: Annotated[str, Field(min_length=1, max_length=255), SEALED]
    digest: Digest
    bytes: Annotated[Count, EXACT]
    media_type: Word = "application/octet-stream"


class Source(_Part):
    """A git repository to start from."""

    repository: Annotated[str, Field(min_length=1, max_length=2048), SEALED]
    ref: Annotated[str, Field(min_length=1, max_length=255), SEALED] = "HEAD"


class Check(_Part):
    """A command that must exit 0 in the workspace before the build is ready."""

    name: Annotated[str, Field(min_length=1, max_length=128), SEALED]
    command: Annotated[str, Field(min_length=1, max_length=8192), SEALED]
    timeout_s: Annotated[int, Field(ge=1, le=3600), EXACT] = 300


class CustomTool(_Part):
    """A tool of the customer's own: any consumer that answers its calls with `tool_call.result_given`."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
    description: Annotated[str, Field(min_length=1, max_length=8192), SEALED]
    input_schema: dict[str, Any]


class BuildRequested(Request):
    """Please build this. The same `build_id` and content again changes nothing; with other content it is refused."""

    type: ClassVar[Literal["build.requested"]] = "build.requested"
    version: ClassVar[Literal[1]] = 1
    unsupported_fields: ClassVar[frozenset[str]] = frozenset(
        {"attachments", "source", "tier", "base_build_id", "tools", "secrets"}
    )

    build_id: Id
    project_id: Id
    account_id: Id
    idea_brief: Brief
    understanding_qna: Annotated[tuple[QuestionAnswer, ...], Field(max_length=200)] = ()
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    source: Source | None = None
    tier: Literal["standard", "priority"] = "standard"
    model: Word | None = None
    base_build_id: Id | None = None
    criteria: Annotated[tuple[Brief, ...], Field(max_length=100)] = ()
    checks: Annotated[tuple[Check, ...], Field(max_length=50)] = ()
    tools: Annotated[tuple[CustomTool, ...], Field(max_length=50)] = ()
    deadline: Annotated[AwareDatetime, BeforeValidator(_instant)] | None = None
    secrets: Annotated[tuple[SecretName, ...], Field(max_length=100)] = ()


class BuildCancelRequested(Request):
    """Stop this build, in seconds, and say why."""

    type: ClassVar[Literal["build.cancel_requested"]] = "build.cancel_requested"
    version: ClassVar[Literal[1]] = 1

    build_id: Id
    reason: Brief | None = None


class BuildMessageSent(Request):
    """A person steers a running build; delivered at the agent's next turn."""

    type: ClassVar[Literal["build.message_sent"]] = "build.message_sent"
    version: ClassVar[Literal[1]] = 1

    build_id: Id
    message: Brief


class ToolCallApprovalGiven(Request):
    """A person's yes or no to a tool call, or to an escalation's option."""

    type: ClassVar[Literal["tool_call.approval_given"]] = "tool_call.approval_given"
    version: ClassVar[Literal[1]] = 1
    supported: ClassVar[bool] = False

    build_id: Id
    call_id: CallId
    approved: Annotated[bool, EXACT]
    comment: Brief | None = None


class ToolCallResultGiven(Request):
    """A customer's service answers a call of its own tool. One answer per call holds there too."""

    type: ClassVar[Literal["tool_call.result_given"]] = "tool_call.result_given"
    version: ClassVar[Literal[1]] = 1
    supported: ClassVar[bool] = False

    build_id: Id
    call_id: CallId
    is_error: Annotated[bool, EXACT] = False
    output: Annotated[str, Field(max_length=500_000), SEALED] | None = None
    data: SealedObject | None = None


class BuildWakeAsked(Request):
    """A person's word: wake this build now."""

    type: ClassVar[Literal["build.wake_asked"]] = "build.wake_asked"
    version: ClassVar[Literal[1]] = 1

    build_id: Id


BuildRequest = (
    BuildRequested
    | BuildCancelRequested
    | BuildMessageSent
    | ToolCallApprovalGiven
    | ToolCallResultGiven
    | BuildWakeAsked
)
