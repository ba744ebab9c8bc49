"""A sandbox behind a channel to the agent inside. All drivers share this code.

It does not trust the agent's answers: it bounds frames, checks shapes, and uses no answer as a path outside.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, Final, Literal, Protocol, cast, get_args

from nightshift.sandboxes import answers
from nightshift.sandboxes.agent.wire import CHUNK, END, LENGTH, frame, json_frame
from nightshift.sandboxes.errors import (
    AnswerCut,
    CallRecordLost,
    FileProblem,
    FileRefused,
    SandboxHung,
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
)

_MAX_FRAME: Final = 16 * 1024**2
#: Bytes of a whole listing, of each output in the answer to `run`, and the numbers of rows and notes.
_MAX_LISTING: Final = 128 * 1024**2
_MOST_INLINE: Final = 1024**2
_ROWS: Final = 1_000
_NOTES: Final = 20
_MULTILINE: Final = 20_000
_MAX_REFUSED: Final = 2_000
_MAX_ENTRIES: Final = 200_000
_MAX_FILE: Final = 256 * 1024**2
#: Bytes of files that one answer holds: at E2B it is a file on the sandbox's disk.
_EXPORT: Final = 8 * PIECE
_GREP_S: Final = 20


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
            answers.broken("too much at once")
        return await source.readexactly(size) if size else b""
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise AnswerCut("the sandbox's agent broke off its answer") from error


async def _read_json(source: ByteSource) -> dict[str, Any]:
    return answers.decode_object(await _read_frame(source))


async def _chunks(source: ByteSource) -> AsyncIterator[bytes]:
    while chunk := await _read_frame(source):
        yield chunk


async def _pieces(source: ByteSource, most: int) -> AsyncIterator[bytes]:
    """The chunks of one file, joined to pieces. Raises AgentBroken for more than `most` bytes."""
    piece, size = list[bytes](), 0
    async for chunk in _chunks(source):
        most -= len(chunk)
        if most < 0:
            answers.broken("a file is larger than its size")
        piece.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


class AgentSandbox:
    """Implements Sandbox."""

    def __init__(
        self, sandbox_id: str, driver: DriverName, channel: Channel, *, generation: str | None = None
    ) -> None:
        """With a known `generation`, the agent refuses every request when it has another one."""
        self.id = sandbox_id
        self.driver: DriverName = driver
        self._channel = channel
        self._generation = generation
        self.open_port = channel.open_port
        self.take_traffic = channel.take_traffic
        self.pause = channel.pause
        self.kill = channel.kill
        self.alive = channel.alive

    @asynccontextmanager
    async def _ask(
        self, request: Mapping[str, Any], *, body: AsyncIterator[bytes] | None = None, timeout_s: float = 60
    ) -> AsyncIterator[tuple[dict[str, Any], ByteSource]]:
        request = {"generation": self._generation, "deadline_s": timeout_s, **request}
        try:
            async with asyncio.timeout(timeout_s), self._channel.exchange(request, body) as source:
                answer = await _read_json(source)
                if "error" in answer:
                    raise self._refusal(answer)
                yield answer, source
        except TimeoutError as error:
            raise SandboxHung(f"the sandbox did not answer within {timeout_s:.0f} s") from error

    @staticmethod
    def _refusal(answer: Mapping[str, Any]) -> Exception:
        kind = answers.text(answer, "error")
        message = answers.text({"message": "", **answer}, "message", _MAX_FRAME)[:2000]
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
        found = await self._tell({"op": "hello", "generation": generation})
        self._generation = answers.optional_text(found, "generation")
        return self._generation

    async def pause_all(self) -> None:
        """Stop every process inside but the agent. Drivers use it whose provider cannot pause a sandbox."""
        await self._tell({"op": "pause"})

    async def resume_all(self) -> None:
        await self._tell({"op": "resume"})

    async def start_call(self, spec: CallSpec) -> CallStatus:
        return answers.status(await self._tell({"op": "start", **asdict(spec)}))

    async def run_call(self, spec: CallSpec, *, wait_s: float) -> CallStatus:
        request = {"op": "run", "wait_s": wait_s, **asdict(spec)}
        async with self._ask(request, timeout_s=wait_s + 60) as (answer, source):
            status = answers.status(answer)
            if answers.flag(answer, "output"):
                output = [await self._chunks_of(source, _MOST_INLINE) for _ in ("out", "err")]
                status = replace(status, output=(output[0], output[1]))
            return status

    async def call_status(self, call_id: str) -> CallStatus:
        return await self.wait_call(call_id, wait_s=0)

    async def wait_call(self, call_id: str, *, wait_s: float) -> CallStatus:
        request = {"op": "wait", "call_id": call_id, "wait_s": wait_s}
        return answers.status(await self._tell(request, timeout_s=wait_s + 60))

    async def read_output(
        self, call_id: str, stream: Literal["out", "err"], *, limit: int = 1 << 20
    ) -> bytes:
        request = {"op": "output", "call_id": call_id, "stream": stream, "offset": 0, "limit": limit}
        return await self._read(request, limit)

    async def stop_call(self, call_id: str, *, grace_s: float = 2.0) -> CallStatus:
        request = {"op": "stop", "call_id": call_id, "grace_s": grace_s}
        return answers.status(await self._tell(request))

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        noted = await self._tell({"op": "note", "call_id": call_id, "text": text})
        return answers.optional_text(noted, "text", _MAX_FRAME)

    async def read_file(
        self, path: str, *, offset: int = 0, limit: int = _MAX_FILE, anywhere: bool = False
    ) -> bytes:
        request = {"op": "read", "path": path, "offset": offset, "limit": limit, "anywhere": anywhere}
        return await self._read(request, limit)

    async def _read(self, request: Mapping[str, Any], limit: int) -> bytes:
        async with self._ask(request, timeout_s=300) as (_, source):
            return await self._chunks_of(source, limit)

    @staticmethod
    async def _chunks_of(source: ByteSource, limit: int) -> bytes:
        parts, size = [], 0
        async for chunk in _chunks(source):
            size += len(chunk)
            if size > limit:
                answers.broken("more bytes than were asked for")
            parts.append(chunk)
        return b"".join(parts)

    async def write_file(
        self, path: str, content: bytes, *, mode: int | None = None, once: str | None = None
    ) -> None:
        request = {"op": "write", "path": path, "mode": mode, "once": once}
        await self._tell(request, body=_framed(content), timeout_s=300)

    async def stat(self, path: str) -> Entry | None:
        found = (await self._tell({"op": "stat", "path": path})).get("entry")
        return None if found is None else answers.entry(answers.rows([found], 1)[0])

    async def remove(self, path: str) -> None:
        await self._tell({"op": "remove", "path": path})

    async def list_tree(self, *, exclude: Sequence[str] = (), fresh: bool = False) -> list[Entry]:
        request = {"op": "list", "fresh": fresh, "exclude": list(exclude), "limit": _MAX_ENTRIES}
        entries: list[Entry] = []
        async with self._ask(request, timeout_s=600) as (_, source):
            left = _MAX_LISTING
            async for frame_ in _chunks(source):
                left -= len(frame_)
                if left < 0 or len(entries) > 2 * _MAX_ENTRIES:
                    answers.broken("a listing without an end")
                entries.extend(map(answers.entry, answers.rows(answers.decode(frame_), _ROWS)))
                await asyncio.sleep(0)  # let other tasks run: the whole answer may be here already
        return await asyncio.to_thread(sorted, entries, key=lambda entry: entry.path)

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> FoundFiles:
        answer = await self._search({"op": "glob", "path": path, "pattern": pattern, "limit": limit})
        entries = list(map(answers.entry, answers.rows(answer.get("entries"), limit)))
        return FoundFiles(entries, answers.number(answer, "total"), answers.texts(answer, "notes", _NOTES))

    async def grep(self, query: GrepQuery) -> FoundMatches:
        answer = await self._search({"op": "grep", **asdict(query), "globs": list(query.globs)})
        most = query.limit * (1 + query.before + query.after)
        rows = list(map(answers.match, answers.rows(answer.get("rows"), max(most, _MULTILINE))))
        return FoundMatches(rows, answers.flag(answer, "more"), answers.texts(answer, "notes", _NOTES))

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
            before = offset
            async with self._ask(request, timeout_s=1800) as (_, source):
                while "path" in (last := await _read_json(source)):
                    entry = answers.entry(last)
                    async for piece in _pieces(source, max(entry.size - offset, 0)):
                        offset += len(piece)
                        yield ExportedFile(entry, piece, more=offset < entry.size)
                    if not entry.size or entry.problem:
                        yield ExportedFile(entry)
                    offset = 0
            start = answers.number(last, "next", len(left))
            left, offset = left[start:], answers.number(last, "offset", 0)
            if left and last and offset >= entry.size:
                left, offset = left[1:], 0
            elif left and last and not start and offset <= before:
                answers.broken("an export that does not get on")

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> Imported:
        answer = await self._tell({"op": "import"}, body=_import_body(files), timeout_s=1800)
        refused = answer.get("refused")
        if not isinstance(refused, list) or len(refused) > _MAX_REFUSED:
            answers.broken("no short list of what was refused")
        pairs = [answers.texts({"pair": pair}, "pair", 2) for pair in refused]
        return Imported(answers.number(answer, "count"), {pair[0]: pair[-1] for pair in pairs if pair})


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
