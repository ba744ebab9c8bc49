"""Encodes and decodes dead letters.

A dead letter has the key, value and headers of the message that failed, followed by our headers: the names below, in
this order. When a name occurs twice, the last one counts, so the sender of the message cannot forge our headers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from nightshift.bus.policy import branch_of
from nightshift.bus.port import Inbound, Outgoing
from nightshift.eventlog.errors import BadMessage

Headers = tuple[tuple[str, bytes | None], ...]

SOURCE_TOPIC: Final = "dlq_source_topic"  # our first header: those before it are the message's
SOURCE_PARTITION: Final = "dlq_source_partition"
SOURCE_OFFSET: Final = "dlq_source_offset"
SOURCE_TIMESTAMP: Final = "dlq_source_timestamp"
GROUP: Final = "dlq_group"
ID: Final = "dlq_id"
BRANCH: Final = "dlq_branch"
REASON: Final = "dlq_reason"
ERROR: Final = "dlq_error"
ATTEMPTS: Final = "dlq_attempts"
FIRST_FAILED_AT: Final = "dlq_first_failed_at"
LAST_FAILED_AT: Final = "dlq_last_failed_at"
DEAD_LETTERED_AT: Final = "dlq_parked_at"
BODY: Final = "dlq_body"  # inline | null | reference
HEADERS_BODY: Final = "dlq_headers"  # inline | reference

#: A marker is a record on the dead-letter topic about an earlier dead letter. This header holds the id of a dead letter
#: that was redriven.
REDRIVEN: Final = "dlq_driven"
REDRIVEN_AT: Final = "dlq_driven_at"
#: On a marker: the id of a dead letter that a person dropped, the reason, and the time. The dead letter itself stays in
#: the topic.
DROPPED: Final = "dlq_dropped"
DROPPED_WHY: Final = "dlq_dropped_reason"
DROPPED_AT: Final = "dlq_dropped_at"

Body = Literal["inline", "null", "reference"]

_ERROR_LIMIT = 2048
#: An upper limit in bytes of our headers and Kafka's own fields of the record.
BLOCK_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the handling of a message failed, and after how many attempts."""

    reason: str
    error: BaseException
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A decoded dead letter. `key`, `value` and `headers` are those of the message that failed.

    Bytes that were too large to send are in the object store under `dead-letters/<digest>`. Then `value_ref` or
    `headers_ref` is their digest. All times are ISO 8601 text.
    """

    id: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp_ms: int
    group: str
    branch: str
    reason: str
    error: str
    attempts: int
    first_failed_at: str
    last_failed_at: str
    dead_lettered_at: str
    key: bytes | None
    headers: Headers
    value: bytes | None
    value_ref: str | None
    headers_ref: str | None
    value_bytes: int


def dead_letter_id(group: str, message: Inbound) -> str:
    """Return the id of a message's dead letter: 16 hex digits.

    The id depends only on the group and the message, so a message that is dead-lettered twice has one id.
    """
    value = hashlib.sha256(message.value or b"").digest()
    text = f"{group}/{message.topic}/{message.partition}/{message.offset}/{message.timestamp}/"
    return hashlib.sha256(text.encode() + value).hexdigest()[:16]


def object_key(digest: str) -> str:
    """Return the object store key of bytes that were too large to send. `digest` has the form `sha256:<64 hex>`."""
    return f"dead-letters/{digest.removeprefix('sha256:')}"


def digest(body: bytes) -> str:
    """Return the SHA-256 of the bytes as `sha256:<64 hex>`."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def reference(body: bytes) -> bytes:
    """Return the JSON text that replaces, in a dead letter, bytes that were too large to send: their size and
    digest.
    """
    return json.dumps({"bytes": len(body), "ref": digest(body)}).encode()


def pack_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Return headers as JSON text for the object store. Values are hex, because a header's value may be any bytes."""
    return json.dumps([[name, None if value is None else value.hex()] for name, value in headers]).encode()


def unpack_headers(packed: bytes) -> Headers:
    """Return the headers that `pack_headers` encoded."""
    return tuple(
        (name, None if value is None else bytes.fromhex(value)) for name, value in json.loads(packed)
    )


def write(
    topic: str,
    message: Inbound,
    failure: Failure,
    *,
    group: str,
    value_by_reference: bool,
    headers_by_reference: bool,
) -> Outgoing:
    """Encode the dead letter of a message that failed.

    If `value_by_reference` or `headers_by_reference`, it contains only the digest of the value or of the headers. The
    caller must store these bytes before it sends the dead letter.
    """
    body: Body = "null" if message.value is None else "reference" if value_by_reference else "inline"
    value = reference(message.value) if value_by_reference and message.value is not None else message.value
    error = failure.error
    text = f"{type(error).__name__}: {error}"
    block = {
        SOURCE_TOPIC: message.topic,
        SOURCE_PARTITION: str(message.partition),
        SOURCE_OFFSET: str(message.offset),
        SOURCE_TIMESTAMP: str(message.timestamp),
        GROUP: group,
        ID: dead_letter_id(group, message),
        BRANCH: branch_of(error).value,
        REASON: failure.reason,
        ERROR: text.encode(errors="replace")[:_ERROR_LIMIT].decode(errors="ignore"),
        ATTEMPTS: str(failure.attempts),
        FIRST_FAILED_AT: failure.first_failed_at.isoformat(),
        LAST_FAILED_AT: failure.last_failed_at.isoformat(),
        DEAD_LETTERED_AT: datetime.now(UTC).isoformat(),
        BODY: body,
        HEADERS_BODY: "reference" if headers_by_reference else "inline",
    }
    ours = tuple((name, text.encode()) for name, text in block.items())
    if headers_by_reference:
        # The key alone may be too large, so the stored headers contain it too, under an empty name.
        packed = pack_headers((*message.headers, ("", message.key)))
        return Outgoing(topic, None, value or b"", ((HEADERS_BODY, reference(packed)), *ours))
    # aiokafka sends no record that has neither key nor value. So null is sent as empty, and the BODY header tells them
    # apart.
    return Outgoing(topic, message.key, value or b"", (*message.headers, *ours))


def read(message: Inbound) -> DeadLetter:
    """Decode a record of the dead-letter topic. Raises BadMessage when the record is not a dead letter."""
    headers = tuple(message.headers)
    names = [name for name, _ in headers]
    if SOURCE_TOPIC not in names:
        raise BadMessage("not a dead letter: it has no source topic", field=SOURCE_TOPIC)
    start = len(names) - 1 - names[::-1].index(SOURCE_TOPIC)
    block = {name: (value or b"").decode(errors="replace") for name, value in headers[start:]}
    original: Headers = headers[:start]
    try:
        body, packed = block[BODY], block[HEADERS_BODY] == "reference"
        value = None if body == "null" else message.value or b""
        value_ref, size = (
            _reference(value) if body == "reference" and value is not None else (None, len(value or b""))
        )
        headers_ref = _reference(original[0][1] or b"")[0] if packed else None
        return DeadLetter(
            id=block[ID],
            source_topic=block[SOURCE_TOPIC],
            source_partition=int(block[SOURCE_PARTITION]),
            source_offset=int(block[SOURCE_OFFSET]),
            source_timestamp_ms=int(block[SOURCE_TIMESTAMP]),
            group=block[GROUP],
            branch=block[BRANCH],
            reason=block[REASON],
            error=block[ERROR],
            attempts=int(block[ATTEMPTS]),
            first_failed_at=block[FIRST_FAILED_AT],
            last_failed_at=block[LAST_FAILED_AT],
            dead_lettered_at=block[DEAD_LETTERED_AT],
            key=message.key,
            headers=() if packed else original,
            value=None if value_ref else value,
            value_ref=value_ref,
            headers_ref=headers_ref,
            value_bytes=size,
        )
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise BadMessage(f"not a dead letter of ours: {error!r}") from None


def redriven_marker(topic: str, dead_letter: DeadLetter) -> Outgoing:
    """Return the record that marks a dead letter as redriven."""
    at = datetime.now(UTC).isoformat().encode()
    return Outgoing(
        topic, dead_letter.id.encode(), b"{}", ((REDRIVEN, dead_letter.id.encode()), (REDRIVEN_AT, at))
    )


def dropped_marker(topic: str, id: str, reason: str) -> Outgoing:
    """Return the record that marks a dead letter as dropped by a person, with the reason."""
    at = datetime.now(UTC).isoformat().encode()
    headers = ((DROPPED, id.encode()), (DROPPED_WHY, reason.encode("utf-8", "replace")), (DROPPED_AT, at))
    return Outgoing(topic, id.encode(), b"{}", headers)


def redriven_id(message: Inbound) -> str | None:
    """Return the id of the dead letter that this record marks as redriven, or None when it is not such a marker."""
    return _marked(message, REDRIVEN)


def dropped(message: Inbound) -> tuple[str, str] | None:
    """Return the id of the dead letter that this record marks as dropped, and the reason.

    Returns None for other records.
    """
    id = _marked(message, DROPPED)
    if id is None:
        return None
    return id, (dict(message.headers).get(DROPPED_WHY) or b"").decode(errors="replace")


def _marked(message: Inbound, name: str) -> str | None:
    headers = dict(message.headers)
    if SOURCE_TOPIC in headers or name not in headers:
        return None
    return (headers[name] or b"").decode(errors="replace")


def _reference(value: bytes) -> tuple[str, int]:
    found = json.loads(value)
    return str(found["ref"]), int(found["bytes"])
