"""The base class of all events, field types that many events share, and the types for pending rows and sealed text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Unpack

from pydantic import BaseModel, ConfigDict, Field, Strict


class Owner(StrEnum):
    """The service that may append an event type, or `outside` for requests.

    The database checks the owner by the writer's database role.
    """

    OUTSIDE = "outside"
    ORCHESTRATOR = "orchestrator"
    SANDBOX_GATEWAY = "sandbox-gateway"
    SNAPSHOTTER = "snapshotter"
    BUDGET = "budget"


class PendingKind(StrEnum):
    """The kinds of pending work that an event can open. Each service reads its own kinds from the log."""

    BUILD = "build"  # accepted, not ended: for the orchestrator, which runs it
    QUEUED = "queued"  # accepted, not started: the account or all orchestrators have enough active builds
    TOOL_CALL = "tool_call"  # requested, not completed: for the gateway
    SNAPSHOT = "snapshot"  # a checkpoint, sleep or end whose snapshot is missing: for the snapshotter
    BUDGET_REQUEST = "budget_request"  # neither granted nor denied: for the budget service
    RESERVATION = "reservation"  # granted, not settled: for the budget service
    SLEEPER = "sleeper"  # asleep: for the budget service, which wakes it
    WAKE = "wake"  # wake requested, not awake yet: for the orchestrator
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


#: A row of the first kind is opened only while the stream has an open row of the second: a snapshot needs a sandbox. So
#: a sleep or an end without a sandbox opens no snapshot row.
OPENS_ONLY_WITH: Final[Mapping[PendingKind, PendingKind]] = {PendingKind.SNAPSHOT: PendingKind.SANDBOX}


@dataclass(frozen=True, slots=True)
class Pending:
    """Opens or closes one pending row, in the transaction that appends the event. `opens` is False for a close.

    A close with `through_version` leaves the row open if an event with a higher stream version opened it.
    """

    kind: PendingKind
    key: str
    opens: bool
    due_at: datetime | None = None
    through_version: int | None = None


class Sealed:
    """Marks a field with free text of a person or a model.

    Such text can be encrypted with the project's key. Destroying the key then erases the text.
    """

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        return {**schema, "x-nightshift-sealed": True}


SEALED = Sealed()

#: The format of a time in text.
RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

#: The id of a build, a project or an account. It becomes a Kafka key, a stream name and part of a path.
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
#: `<build>/<turn>/<index>`: where a tool call stands in its build. Its content does not matter.
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
#: A path in the sandbox. Bytes that are not UTF-8 become lone surrogates, as in Python's file functions. There is no
#: length limit, because a check of the length would refuse surrogates.
SealedPath = Annotated[str, SEALED]


class BlobRef(BaseModel):
    """A reference in place of a field's value that is larger than 32 KiB. The value is in the object store, as UTF-8
    text or canonical JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: Digest
    bytes: Count


#: Text of a person or a model. Over 32 KiB, the log stores a reference to it.
SealedText = Annotated[str | BlobRef, SEALED]
#: A JSON object from a model, such as the input of a tool. One with the form of a BlobRef is stored by reference.
SealedObject = Annotated[BlobRef | dict[str, Any], Field(union_mode="left_to_right"), SEALED]
#: Content blocks of the Messages API, stored unchanged so that later requests repeat them exactly.
SealedBlocks = Annotated[tuple[dict[str, Any], ...] | BlobRef, SEALED]


class Event(BaseModel):
    """A fact or a request. Each class has a `type`, the name on the wire, which never changes; the class name may.

    - `version`: counts the incompatible changes of the type.
    - `stream`: whether the event belongs to the stream of a build or of an account.
    - `terminal`: the event closes its stream. Afterwards only types with `after_close` may follow.
    - `planned`: no service of this release appends the event yet.
    """

    # Validation errors are logged, so they must not contain the text of a person.
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
        """Returns the changes to pending rows that this event makes. `subject` is the id of the event's build or
        account.
        """
        return ()


class Request(Event):
    """A message from outside. Unknown fields are refused, so that the sender learns of a spelling mistake.

    Services refuse a request whose type is not `supported`, and a request that sets one of its `unsupported_fields`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: ClassVar[Owner] = Owner.OUTSIDE
    supported: ClassVar[bool] = True
    unsupported_fields: ClassVar[frozenset[str]] = frozenset()

    def unsupported(self) -> list[str]:
        """Returns the fields because of which this release refuses the request, in alphabetical order."""
        defaults = type(self).model_fields
        return [
            name for name in sorted(self.unsupported_fields) if getattr(self, name) != defaults[name].default
        ]
