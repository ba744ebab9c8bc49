"""The base every event stands on, the field types they share, and the marks the log reads from them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict


class Owner(StrEnum):
    """Who may append or send an event type; the database enforces it by role, the topic follows from it."""

    OUTSIDE = "outside"
    ORCHESTRATOR = "orchestrator"
    SANDBOX_GATEWAY = "sandbox-gateway"
    SNAPSHOTTER = "snapshotter"
    BUDGET = "budget"


class PendingKind(StrEnum):
    """What an event can leave open for somebody: the log's inbox is one indexed read per kind."""

    BUILD = "build"  # accepted, not ended: needs a live orchestrator
    TOOL_CALL = "tool_call"  # asked, not answered: the gateway's
    SNAPSHOT = "snapshot"  # a checkpoint, a sleep or an end without its snapshot: the snapshotter's
    BUDGET_REQUEST = "budget_request"  # asked, neither granted nor denied: the budget's
    RESERVATION = "reservation"  # granted, not settled: the budget's
    SLEEPER = "sleeper"  # asleep: the budget wakes it
    WAKE = "wake"  # told to wake, not yet woken: the orchestrator's
    SANDBOX = "sandbox"  # opened, not closed: the gateway's


#: A row of the first kind opens only while the stream has an open row of the second: a snapshot needs a sandbox to be
#: taken from. A sleep or an end without a sandbox waits for nobody.
OPENS_ONLY_WITH: Final[Mapping[PendingKind, PendingKind]] = {PendingKind.SNAPSHOT: PendingKind.SANDBOX}


@dataclass(frozen=True, slots=True)
class Pending:
    """One change of the pending projection, made in the same transaction as the append.

    `opens` false closes. A close with `through_version` leaves an opening that came after that stream version.
    """

    kind: PendingKind
    key: str
    opens: bool
    due_at: datetime | None = None
    through_version: int | None = None


class Sealed:
    """Marks free text: what a person or a model wrote. It can be encrypted with the project's key and so erased."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        return {**schema, "x-nightshift-sealed": True}


SEALED = Sealed()

#: A time as text, everywhere in this package.
RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

#: An identifier made outside: a build, a project, an account. It becomes a Kafka key, a stream name and part of a path.
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
#: `<build>/<turn>/<index>`: a position, never the content and never the provider's id.
CallId = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[0-9]+/[0-9]+$")
]
#: Money: whole millionths of a US dollar.
Microdollars = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: A count or a size, never negative.
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: On a number or a truth in a request: text, or true for 1, is refused as its schema refuses it, never read as one.
EXACT = Strict()
#: Milliseconds.
Milliseconds = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: `sha256:<64 hex>`.
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
#: A short machine word: a tool's name, a phase, a kind of failure.
Word = Annotated[str, Field(min_length=1, max_length=128)]
#: An environment variable's name.
SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
#: A path inside the workspace or the sandbox. Bytes that are no UTF-8 are lone surrogates in it, as Python's file
#: functions give them; any check of its length would refuse those.
SealedPath = Annotated[str, SEALED]


class BlobRef(BaseModel):
    """Stands where a field over 32 KiB was: its bytes (UTF-8 text, or canonical JSON) are in the object store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: Digest
    bytes: Count


#: Text a person or a model wrote. Over 32 KiB the log keeps it by reference.
SealedText = Annotated[str | BlobRef, SEALED]
#: A JSON object a model wrote, such as a tool's input. One that looks like a BlobRef is always kept by reference.
SealedObject = Annotated[BlobRef | dict[str, Any], Field(union_mode="left_to_right"), SEALED]
#: A list of content blocks in the Messages API's shape, kept as they came so that they can be sent again byte for byte.
SealedBlocks = Annotated[tuple[dict[str, Any], ...] | BlobRef, SEALED]


class Event(BaseModel):
    """One fact or request. Frozen data; `type`, `version` and `owner` are literals of the class, never its name.

    `stream` says which stream it belongs to: a build's or an account's. A `terminal` event closes its stream for
    every type that is not marked `after_close`. No service of this version appends a `planned` event.
    """

    # An error is logged; what a person wrote is not.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    type: ClassVar[str]
    version: ClassVar[int]
    owner: ClassVar[Owner]
    stream: ClassVar[Literal["build", "account"]] = "build"
    terminal: ClassVar[bool] = False
    after_close: ClassVar[bool] = False
    planned: ClassVar[bool] = False

    def pending(self, subject: str) -> Sequence[Pending]:
        """What this event opens and closes, given the build or account it is about."""
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
        """The names of the fields for which this version refuses the request, in alphabetical order."""
        defaults = type(self).model_fields
        return [
            name for name in sorted(self.unsupported_fields) if getattr(self, name) != defaults[name].default
        ]
