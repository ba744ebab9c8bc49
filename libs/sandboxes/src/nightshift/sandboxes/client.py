"""A sandbox behind a channel to the agent inside. All drivers share this code.

It does not trust the agent's answers: it bounds frames, checks shapes, and uses no answer as a path outside.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from typing import Any, Final, Literal, Protocol, cast, get_args

from nightshift.sandboxes.agent.wire import CHUNK, END, LENGTH, frame, json_frame
from nightshift.sandboxes.errors import (
    AnswerCut,
    CallRecordLost,
    FileProblem,
    FileRefused,
    SandboxUnavailable,
)
from nightshift.sandboxes.port import (
    PIECE,
    CallSpec,
    CallStatus,
    DriverName,
    Entry,
    ExportedFile,
    FoundFiles,
    FoundMatches,
    GrepQuery,
    HostTraffic,
    Imported,
    Match,
)

_MAX_FRAME: Final = 16 * 1024**2
_MAX_ENTRIES: Final = 200_000
_MAX_FILE: Final = 256 * 1024**2
#: Bytes of files that one answer holds: at E2B it is a file on the sandbox's disk.
_EXPORT: Final = 8 * PIECE
_GREP_S: Final = 20
_ENTRY: Final = ("path", "kind", "mode", "size", "mtime_ns", "digest", "target", "link", "problem")


class ByteSource(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


class Channel(Protocol):
    """The connection of one driver to one sandbox, and the operations that each driver does in its own way."""

    def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[ByteSource]:
        """Send one request with a body of frames. Yields the answer. Raises SandboxGone and SandboxUnavailable."""
        ...

    async def open_port(self, port: int) -> str: ...

    async def take_traffic(self) -> Sequence[HostTraffic]: ...

    async def pause(self) -> None: ...

    async def kill(self) -> None: ...

    async def alive(self) -> bool: ...


async def _read_frame(source: ByteSource) -> bytes:
    try:
        (size,) = LENGTH.unpack(await source.readexactly(LENGTH.size))
        if size > _MAX_FRAME:
            raise SandboxUnavailable("the sandbox's agent answers nonsense")
        return await source.readexactly(size) if size else b""
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise AnswerCut("the sandbox's agent broke off its answer") from error


async def _read_json(source: ByteSource) -> dict[str, Any]:
    try:
        return dict(json.loads(await _read_frame(source)))
    except (ValueError, TypeError) as error:
        raise SandboxUnavailable("the sandbox's agent answers nonsense") from error


async def _chunks(source: ByteSource) -> AsyncIterator[bytes]:
    while chunk := await _read_frame(source):
        yield chunk


def _match(row: Mapping[str, Any]) -> Match:
    return Match(
        str(row["path"]),
        int(row.get("line", 0)),
        str(row.get("text", "")),
        bool(row.get("context", False)),
        int(row.get("count", 0)),
    )


async def _pieces(source: ByteSource) -> AsyncIterator[bytes]:
    """The chunks of one file, joined to pieces."""
    piece, size = list[bytes](), 0
    async for chunk in _chunks(source):
        piece.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _entry(value: Mapping[str, Any]) -> Entry:
    return Entry(**{name: value[name] for name in _ENTRY if name in value})


def _status(value: Mapping[str, Any]) -> CallStatus:
    fields = ("exit_code", "timed_out", "stopped", "folder")
    return CallStatus(value["state"], **{name: value[name] for name in fields if name in value})


class AgentSandbox:
    """Implements Sandbox."""

    def __init__(self, sandbox_id: str, driver: DriverName, channel: Channel) -> None:
        self.id = sandbox_id
        self.driver: DriverName = driver
        self._channel = channel
        self._generation: str | None = None
        self.open_port = channel.open_port
        self.take_traffic = channel.take_traffic
        self.pause = channel.pause
        self.kill = channel.kill
        self.alive = channel.alive

    @asynccontextmanager
    async def _ask(
        self, request: Mapping[str, Any], *, body: AsyncIterator[bytes] | None = None, timeout_s: float = 60
    ) -> AsyncIterator[tuple[dict[str, Any], ByteSource]]:
        request = {"generation": self._generation, **request}
        try:
            async with asyncio.timeout(timeout_s), self._channel.exchange(request, body) as source:
                answer = await _read_json(source)
                if "error" in answer:
                    raise self._refusal(answer)
                yield answer, source
        except TimeoutError as error:
            raise SandboxUnavailable(f"the sandbox did not answer within {timeout_s:.0f} s") from error

    @staticmethod
    def _refusal(answer: Mapping[str, Any]) -> Exception:
        kind, message = str(answer["error"]), str(answer.get("message"))[:2000]
        if kind == "lost":
            return CallRecordLost(message)
        if kind in get_args(FileProblem):
            return FileRefused(message, kind=cast(FileProblem, kind))
        return SandboxUnavailable(f"the sandbox's agent failed: {message}")

    async def _tell(
        self, request: Mapping[str, Any], *, body: AsyncIterator[bytes] | None = None, timeout_s: float = 60
    ) -> dict[str, Any]:
        async with self._ask(request, body=body, timeout_s=timeout_s) as (answer, _):
            return answer

    async def hello(self, *, generation: str | None = None) -> str | None:
        """Return the generation in the sandbox's journal, or None when the journal is missing.

        With `generation`, creates a missing journal first. Later requests are refused when the journal has another one.
        """
        found = (await self._tell({"op": "hello", "generation": generation}))["generation"]
        self._generation = None if found is None else str(found)
        return self._generation

    async def pause_all(self) -> None:
        """Stop every process inside but the agent. Drivers use it whose provider cannot pause a sandbox."""
        await self._tell({"op": "pause"})

    async def resume_all(self) -> None:
        await self._tell({"op": "resume"})

    async def start_call(self, spec: CallSpec) -> CallStatus:
        return _status(await self._tell({"op": "start", **asdict(spec)}))

    async def call_status(self, call_id: str) -> CallStatus:
        return await self.wait_call(call_id, wait_s=0)

    async def wait_call(self, call_id: str, *, wait_s: float) -> CallStatus:
        request = {"op": "wait", "call_id": call_id, "wait_s": wait_s}
        return _status(await self._tell(request, timeout_s=wait_s + 60))

    async def read_output(
        self, call_id: str, stream: Literal["out", "err"], *, limit: int = 1 << 20
    ) -> bytes:
        request = {"op": "output", "call_id": call_id, "stream": stream, "offset": 0, "limit": limit}
        return await self._read(request, limit)

    async def stop_call(self, call_id: str) -> CallStatus:
        return _status(await self._tell({"op": "stop", "call_id": call_id}))

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        noted = (await self._tell({"op": "note", "call_id": call_id, "text": text}))["text"]
        return str(noted) if noted is not None else None

    async def read_file(
        self, path: str, *, offset: int = 0, limit: int = _MAX_FILE, anywhere: bool = False
    ) -> bytes:
        request = {"op": "read", "path": path, "offset": offset, "limit": limit, "anywhere": anywhere}
        return await self._read(request, limit)

    async def _read(self, request: Mapping[str, Any], limit: int) -> bytes:
        parts, size = [], 0
        async with self._ask(request, timeout_s=300) as (_, source):
            async for chunk in _chunks(source):
                size += len(chunk)
                if size > limit:
                    raise SandboxUnavailable("the sandbox's agent sends more than was asked for")
                parts.append(chunk)
        return b"".join(parts)

    async def write_file(
        self, path: str, content: bytes, *, mode: int | None = None, once: str | None = None
    ) -> None:
        request = {"op": "write", "path": path, "mode": mode, "once": once}
        await self._tell(request, body=_framed(content), timeout_s=300)

    async def stat(self, path: str) -> Entry | None:
        found = (await self._tell({"op": "stat", "path": path}))["entry"]
        return None if found is None else _entry(found)

    async def remove(self, path: str) -> None:
        await self._tell({"op": "remove", "path": path})

    async def list_tree(self, *, exclude: Sequence[str] = (), fresh: bool = False) -> list[Entry]:
        request = {"op": "list", "fresh": fresh, "exclude": list(exclude), "limit": _MAX_ENTRIES}
        entries: list[Entry] = []
        async with self._ask(request, timeout_s=600) as (_, source):
            async for rows in _chunks(source):
                if len(entries) > 2 * _MAX_ENTRIES:
                    raise SandboxUnavailable("the sandbox's agent sends more than was asked for")
                entries.extend(map(_entry, json.loads(rows)))
                await asyncio.sleep(0)  # let other tasks run: the whole answer may be here already
        return await asyncio.to_thread(sorted, entries, key=lambda entry: entry.path)

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> FoundFiles:
        answer = await self._search({"op": "glob", "path": path, "pattern": pattern, "limit": limit})
        entries = [_entry(row) for row in answer["entries"]]
        return FoundFiles(entries, int(answer["total"]), [str(note) for note in answer["notes"]])

    async def grep(self, query: GrepQuery) -> FoundMatches:
        answer = await self._search({"op": "grep", **asdict(query), "globs": list(query.globs)})
        rows = [_match(row) for row in answer["rows"]]
        return FoundMatches(rows, bool(answer["more"]), [str(note) for note in answer["notes"]])

    async def _search(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._tell({**request, "seconds": _GREP_S})
        except AnswerCut:
            raise FileRefused(f"the search took more than {_GREP_S} s", kind="invalid") from None

    async def export_files(self, paths: Sequence[str]) -> AsyncIterator[ExportedFile]:
        left, offset = list(paths), 0
        while left:
            request = {"op": "export", "paths": left, "offset": offset, "limit": _EXPORT}
            last: dict[str, Any] = {}
            async with self._ask(request, timeout_s=1800) as (_, source):
                while "path" in (last := await _read_json(source)):
                    entry = _entry(last)
                    async for piece in _pieces(source):
                        offset += len(piece)
                        yield ExportedFile(entry, piece, more=offset < entry.size)
                    if not entry.size or entry.problem:
                        yield ExportedFile(entry)
                    offset = 0
            left, offset = left[last.get("next", len(left)) :], int(last.get("offset", 0))
            if left and last and offset >= entry.size:
                left, offset = left[1:], 0

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> Imported:
        answer = await self._tell({"op": "import"}, body=_import_body(files), timeout_s=1800)
        return Imported(int(answer["count"]), {str(path): str(text) for path, text in answer["refused"]})


async def _framed(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield frame(content[start : start + CHUNK])
    yield END


async def _import_body(files: AsyncIterator[ExportedFile]) -> AsyncIterator[bytes]:
    begun = False
    async for file in files:
        entry = file.entry
        if not begun:
            fields = ("path", "kind", "mode", "size", "mtime_ns", "target", "link")
            yield json_frame({**{name: getattr(entry, name) for name in fields}, "keep": file.keep})
        for start in range(0, len(file.content), CHUNK):
            yield frame(file.content[start : start + CHUNK])
        begun = file.more
        if not begun:
            yield END
    yield json_frame({})
