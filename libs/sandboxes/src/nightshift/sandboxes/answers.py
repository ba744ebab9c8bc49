"""Reads the answers of the agent program in a sandbox and checks types, ranges and sizes.

Hostile commands may have forged an answer, so every function raises AgentBroken when an answer breaks a rule. No answer
can cause another error in a service, or need more memory than the limits here allow.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NoReturn, Protocol, cast, get_args

from nightshift.sandboxes.agent.wire import LENGTH
from nightshift.sandboxes.errors import AgentBroken, AnswerCut
from nightshift.sandboxes.port import CallState, CallStatus, Entry, EntryKind, Match

#: The most entries that a listing of a workspace may have, and the most bytes of a whole listing.
MAX_ENTRIES: Final = 200_000
_MAX_LISTING: Final = 128 * 1024**2
_MAX_FRAME: Final = 16 * 1024**2
#: The most rows in one frame of a listing.
_ROWS: Final = 1_000
#: The most characters of a path or a symlink's target, and of any other text.
_PATH: Final = 8_192
_TEXT: Final = 16_384
#: The most brackets and commas in one frame of JSON. Each stands for a Python object many times larger than one byte.
_BRACKETS: Final = 60_000
_COMMAS: Final = 600_000
_STATES: Final = get_args(CallState)
_KINDS: Final = get_args(EntryKind)


class ByteSource(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


async def read_frame(source: ByteSource) -> bytes:
    """Read one frame. Raises AnswerCut when the answer breaks off, and AgentBroken for a frame that is too large.

    An empty frame marks the end of a series.
    """
    try:
        (size,) = LENGTH.unpack(await source.readexactly(LENGTH.size))
        if size > _MAX_FRAME:
            broken("too much at once")
        return await source.readexactly(size) if size else b""
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise AnswerCut("the sandbox's agent broke off its answer") from error


async def read_header(source: ByteSource) -> dict[str, Any]:
    """Read a frame with a JSON object.

    Raises AnswerCut when the answer breaks off, and AgentBroken for any other frame.
    """
    return decode_object(await read_frame(source))


async def chunks(source: ByteSource) -> AsyncIterator[bytes]:
    """Yield the frames before the next empty one."""
    while chunk := await read_frame(source):
        yield chunk


async def joined(source: ByteSource, most: int) -> bytes:
    """Return the bytes of all frames before the next empty one. Raises AgentBroken for more than `most` bytes."""
    parts, size = [], 0
    async for chunk in chunks(source):
        size += len(chunk)
        if size > most:
            broken("more bytes than were asked for")
        parts.append(chunk)
    return b"".join(parts)


async def listing(source: ByteSource) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the rows of a listing, one list for each frame. Raises AgentBroken beyond the limits of a listing."""
    count = size = 0
    async for frame in chunks(source):
        found = rows(decode(frame), _ROWS)
        count, size = count + len(found), size + len(frame)
        if size > _MAX_LISTING or count > 2 * MAX_ENTRIES:
            broken("a listing without an end")
        yield found
        await asyncio.sleep(0)  # let other tasks run: the whole answer may be here already


def broken(what: str) -> NoReturn:
    raise AgentBroken(f"the sandbox's agent answers nonsense: {what}")


def decode(frame: bytes) -> Any:
    """Parse the JSON of one frame. Raises AgentBroken for invalid JSON and for too many values."""
    if frame.count(b"{") + frame.count(b"[") > _BRACKETS or frame.count(b",") > _COMMAS:
        broken("too many values")
    try:
        return json.loads(frame)
    except (ValueError, RecursionError):
        broken("not JSON")


def decode_object(frame: bytes) -> dict[str, Any]:
    value = decode(frame)
    return value if isinstance(value, dict) else broken("not an object")


def text(value: Mapping[str, Any], name: str, most: int = _TEXT) -> str:
    """Return the text in the field `name`. Raises AgentBroken unless it is a text of at most `most` characters.

    The text may be empty. It may contain lone surrogates, which stand for the bytes of a file name that is not UTF-8.
    """
    found = value.get(name)
    return found if isinstance(found, str) and len(found) <= most else broken(f"{name} is no short text")


def optional_text(value: Mapping[str, Any], name: str, most: int = _TEXT) -> str | None:
    return None if value.get(name) is None else text(value, name, most)


def number(value: Mapping[str, Any], name: str, default: int | None = None, *, least: int = 0) -> int:
    """Return the integer in the field `name`, or `default` if the field is missing and a default is given.

    Raises AgentBroken unless it is an integer from `least` up that fits into 64 bits.
    """
    found = value.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found < 1 << 63:
        broken(f"{name} is no such number")
    return found


def flag(value: Mapping[str, Any], name: str) -> bool:
    """Return the truth value in the field `name`, or False when the field is missing. Raises AgentBroken for another
    type.
    """
    found = value.get(name, False)
    return found if isinstance(found, bool) else broken(f"{name} is not true or false")


def rows(value: Any, most: int) -> list[dict[str, Any]]:
    """Return `value`. Raises AgentBroken unless it is a list of at most `most` objects."""
    if not isinstance(value, list) or len(value) > most or not all(isinstance(row, dict) for row in value):
        broken("not a short list of objects")
    return cast(list[dict[str, Any]], value)


def texts(value: Mapping[str, Any], name: str, most: int) -> list[str]:
    """Return the list of texts in the field `name`. Raises AgentBroken for more than `most` texts."""
    found = value.get(name)
    if not isinstance(found, list) or len(found) > most:
        broken(f"{name} is not a short list")
    return [text({name: one}, name) for one in found]


def numbers(value: Mapping[str, Any], name: str, most: int) -> list[int]:
    """Return the list of integers in the field `name`. Raises AgentBroken for more than `most` integers."""
    found = value.get(name)
    if not isinstance(found, list) or len(found) > most:
        broken(f"{name} is not a short list")
    return [number({name: one}, name) for one in found]


def path(row: Mapping[str, Any]) -> str:
    return text(row, "path", _PATH)


def entry(row: Mapping[str, Any]) -> Entry:
    if row.get("kind") not in _KINDS:
        broken("an entry of no known kind")
    digest = optional_text(row, "digest", 64)
    if digest is not None and (len(digest) != 64 or not set(digest) <= set("0123456789abcdef")):
        broken("a digest that is none")
    mtime_ns = None if row.get("mtime_ns") is None else number(row, "mtime_ns", least=-(1 << 63))
    return Entry(
        path=path(row),
        kind=row["kind"],
        mode=number(row, "mode", 0) & 0o7777,
        size=number(row, "size", 0),
        mtime_ns=mtime_ns,
        digest=digest,
        target=optional_text(row, "target", _PATH),
        link=optional_text(row, "link", _PATH),
        problem=optional_text(row, "problem"),
    )


def match(row: Mapping[str, Any]) -> Match:
    return Match(
        text(row, "path", _PATH),
        number(row, "line", 0),
        text({"text": "", **row}, "text"),
        flag(row, "context"),
        number(row, "count", 0),
    )


def status(value: Mapping[str, Any]) -> CallStatus:
    if value.get("state") not in _STATES:
        broken("a call in no known state")
    state: CallState = value["state"]
    code = None if value.get("exit_code") is None else number(value, "exit_code")
    if state == "finished" and code is None:
        broken("a call that ended without an exit code")
    return CallStatus(
        state=state,
        exit_code=code,
        timed_out=flag(value, "timed_out"),
        stopped=flag(value, "stopped"),
        folder=text({"folder": "", **value}, "folder", _PATH),
    )
