"""The base class of all events, the field types that they share, and the marks that the event log reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Unpack

from pydantic import BaseModel, ConfigDict, Field, Strict


class Owner(StrEnum):
    """The service that may append an event type, or `outside` for requests. The database enforces it by role."""

    OUTSIDE = "outside"
    ORCHESTRATOR = "orchestrator"
    SANDBOX_GATEWAY = "sandbox-gateway"
    SNAPSHOTTER = "snapshotter"
    BUDGET = "budget"


class PendingKind(StrEnum):
    """The kinds of pending work that an event can open. Each service reads its kinds from the log by an index."""

    BUILD = "build"  # accepted, not ended: an orchestrator must run it
    QUEUED = "queued"  # accepted, not started: its account or all orchestrators have as many builds as they may run
    TOOL_CALL = "tool_call"  # requested, not completed: for the gateway
    SNAPSHOT = "snapshot"  # a checkpoint, a sleep or an end without its snapshot: for the snapshotter
    BUDGET_REQUEST = "budget_request"  # neither granted nor denied: for the budget service
    RESERVATION = "reservation"  # granted, not settled: for the budget service
    SLEEPER = "sleeper"  # asleep: for the budget service, which wakes it
    WAKE = "wake"  # its wake is requested, it is not awake: for the orchestrator
    SANDBOX = "sandbox"  # opened, not closed: for the gateway
    WAITING = "waiting"  # for a person: no orchestrator runs the build until it is due or closed
    PROVIDER = (
        "provider"  # for the model provider, which refuses the key: no orchestrator runs the build until then
    )
    QUESTION = "question"  # a question or an escalation without an answer: for a person
    APPROVAL = "approval"  # a tool call that waits for a person's approval
    CUSTOMER_CALL = (
        "customer_call"  # a call of a customer's tool without a result: for a consumer of the customer
    )


#: A row of the first kind opens only while the stream has an open row of the second: a snapshot needs a sandbox to be
#: taken from. A sleep or an end without a sandbox waits for nobody.
OPENS_ONLY_WITH: Final[Mapping[PendingKind, PendingKind]] = {PendingKind.SNAPSHOT: PendingKind.SANDBOX}


@dataclass(frozen=True, slots=True)
class Pending:
    """Opens or closes one row of pending work, in the same transaction as the append.

    A close with `through_version` keeps a row that a later version of the stream opened.
    """

    kind: PendingKind
    key: str
    opens: bool
    due_at: datetime | None = None
    through_version: int | None = None


class Sealed:
    """Marks free text that a person or a model wrote. It can be encrypted with the project's key, and so erased."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        return {**schema, "x-nightshift-sealed": True}


SEALED = Sealed()

#: The format of a time in text.
RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

#: The id of a build, a project or an account. It becomes a Kafka key, a stream name and part of a path.
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
#: `<build>/<turn>/<index>`: the place of a tool call in its build, not derived from its content.
CallId = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[0-9]+/[0-9]+$")
]
#: Money: whole millionths of a US dollar.
Microdollars = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: A count or a size, never negative.
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: Strict number or boolean: rejects `"1"` and `true` for 1, as the JSON Schema does.
EXACT = Strict()
#: Milliseconds.
Milliseconds = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: `sha256:<64 hex>`.
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
#: A short machine word: a tool's name, a phase, a kind of failure.
Word = Annotated[str, Field(min_length=1, max_length=128)]
#: An environment variable's name.
SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
#: A path inside the workspace or the sandbox. Bytes that are not UTF-8 are lone surrogates, as in Python's file
#: functions. It has no length limit, because a check of the length refuses surrogates.
SealedPath = Annotated[str, SEALED]


class BlobRef(BaseModel):
    """Replaces a field of more than 32 KiB. The object store holds its bytes: UTF-8 text or canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: Digest
    bytes: Count


#: Text that a person or a model wrote. The log keeps more than 32 KiB by reference.
SealedText = Annotated[str | BlobRef, SEALED]
#: A JSON object that a model wrote, such as a tool's input. One that looks like a BlobRef is kept by reference.
SealedObject = Annotated[BlobRef | dict[str, Any], Field(union_mode="left_to_right"), SEALED]
#: A list of content blocks in the format of the Messages API, kept unchanged so that requests repeat them exactly.
SealedBlocks = Annotated[tuple[dict[str, Any], ...] | BlobRef, SEALED]


class Event(BaseModel):
    """A fact or a request: frozen data. Each class names its `type`, which is fixed on the wire, unlike the class name.

    `version` counts the incompatible changes of the type. `stream` says whether the event belongs to the stream of a
    build or of an account. A `terminal` event closes its stream for every type that is not `after_close`. No service
    of this version appends a `planned` event.
    """

    # An error is logged, and must not hold what a person wrote.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    type: ClassVar[str]
    version: ClassVar[int] = 1
    owner: ClassVar[Owner]
    stream: ClassVar[Literal["build", "account"]] = "build"
    terminal: ClassVar[bool] = False
    after_close: ClassVar[bool] = False
    planned: ClassVar[bool] = False

    def __init_subclass__(cls, *, type: str | None = None, **config: Unpack[ConfigDict]) -> None:
        super().__init_subclass__(**config)
        if type is not None:
            cls.type = type

    def pending(self, subject: str) -> Sequence[Pending]:
        """Returns the pending work that this event opens and closes. `subject` is the id of its build or account."""
        return ()


class Request(Event):
    """A message from outside. Unknown fields are refused, so that a spelling mistake is reported.

    A service refuses a request whose type is not `supported`, and one in which a field of `unsupported_fields`
    differs from its default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: ClassVar[Owner] = Owner.OUTSIDE
    supported: ClassVar[bool] = True
    unsupported_fields: ClassVar[frozenset[str]] = frozenset()

    def unsupported(self) -> list[str]:
        """Returns the fields because of which this version refuses the request, in alphabetical order."""
        defaults = type(self).model_fields
        return [
            name for name in sorted(self.unsupported_fields) if getattr(self, name) != defaults[name].default
        ]
