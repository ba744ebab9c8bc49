"""The client of the agent program inside a sandbox. All drivers share this code.

The client does not trust that program's answers. It limits the size of frames and checks the shape of every answer. It
never uses an answer as a path on the host.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, Final, Literal, Protocol, cast, get_args

from nightshift.sandboxes import answers
from nightshift.sandboxes.agent.wire import CHUNK, END, frame, json_frame
from nightshift.sandboxes.answers import MAX_ENTRIES, ByteSource
from nightshift.sandboxes.errors import (
    AnswerCut,
    CallRecordLost,
    FileProblem,
    FileRefused,
    SandboxHung,
    SandboxUnavailable,
)
from nightshift.sandboxes.port import (
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
from nightshift.sandboxes.stage_requests import StageRequests
from nightshift.sandboxes.usage import GroupUsage, Usage

_MAX_FILE: Final = 256 * 1024**2
#: The most characters of a note and of an error.
_MAX_TEXT: Final = 16 * 1024**2
#: The most bytes of each output in the answer to `run`, and the most notes and rows of a search.
_MOST_INLINE: Final = 1024**2
_NOTES: Final = 20
_MULTILINE: Final = 20_000
_MAX_REFUSED: Final = 2_000
_GREP_S: Final = 20
#: Seconds after the grace within which the agent program ends all processes of a call.
_STOP_S: Final = 20
_IMPORTED: Final = ("path", "kind", "mode", "size", "mtime_ns", "target", "link")
_HEADER: Final = 256  # about the bytes of the header of one imported entry


class Channel(Protocol):
    """A driver's connection to one sandbox.

    It also has the operations that a driver does without the agent program, such as kill.
    """

    def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[ByteSource]:
        """Send one request with an optional body of frames, and yield the source of the answer's bytes.

        Raises SandboxGone and SandboxUnavailable.
        """
        ...

    async def open_port(self, port: int) -> str: ...

    async def take_traffic(self) -> Sequence[HostTraffic]: ...

    async def group_usage(self) -> GroupUsage | None: ...

    async def pause(self) -> None: ...

    async def kill(self) -> None: ...

    async def alive(self) -> bool: ...


class AgentSandbox(StageRequests):
    """A sandbox whose agent program answers the requests. Implements the protocol Sandbox for all drivers."""

    def __init__(
        self, sandbox_id: str, driver: DriverName, channel: Channel, *, generation: str | None = None
    ) -> None:
        """If `generation` is given, the agent program refuses every request when its journal records another
        generation.
        """
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
                answer = await answers.read_header(source)
                if "error" in answer:
                    raise self._refusal(answer)
                yield answer, source
        except TimeoutError as error:
            raise SandboxHung(f"the sandbox did not answer within {timeout_s:.0f} s") from error

    @staticmethod
    def _refusal(answer: Mapping[str, Any]) -> Exception:
        kind = answers.text(answer, "error")
        message = answers.text({"message": "", **answer}, "message", _MAX_TEXT)[:2000]
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
        """Return the generation that the sandbox's journal records, or None when there is no journal.

        A generation is the text `<build id>/<number of the build's sandbox>/<sandbox id>`. If `generation` is given,
        the agent program first creates a missing journal with it. If the journal later records another generation, the
        agent program refuses this object's requests.
        """
        found = await self._tell({"op": "hello", "generation": generation})
        self._generation = answers.optional_text(found, "generation")
        return self._generation

    async def pause_all(self) -> None:
        """Stop every process in the sandbox except the agent program.

        Used by drivers whose provider cannot pause a sandbox.
        """
        await self._tell({"op": "pause"})

    async def resume_all(self) -> None:
        await self._tell({"op": "resume"})

    async def start_call(self, spec: CallSpec) -> CallStatus:
        return answers.status(await self._tell({"op": "start", **asdict(spec)}))

    async def run_call(self, spec: CallSpec, *, wait_s: float) -> CallStatus:
        request = {"op": "run", "wait_s": wait_s, **asdict(spec)}
        async with self._ask(request, timeout_s=wait_s + 60) as (answer, source):
            return await _with_output(answer, source)

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

    async def new_output(self, call_id: str, *, reader: str) -> CallStatus:
        request = {"op": "look", "call_id": call_id, "reader": reader}
        async with self._ask(request) as (answer, source):
            return await _with_output(answer, source)

    async def stop_call(self, call_id: str, *, grace_s: float = 2.0) -> CallStatus:
        request = {"op": "stop", "call_id": call_id, "grace_s": grace_s}
        return answers.status(await self._tell(request, timeout_s=grace_s + _STOP_S))

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        noted = await self._tell({"op": "note", "call_id": call_id, "text": text})
        return answers.optional_text(noted, "text", _MAX_TEXT)

    async def usage(self) -> Usage:
        found = await self._tell({"op": "usage"})
        names = ("free_bytes", "bytes", "free_files", "files", "tasks")
        numbers = {name: answers.number(found, name) for name in names}
        return Usage(**numbers, group=await self._channel.group_usage())

    async def read_file(
        self, path: str, *, offset: int = 0, limit: int = _MAX_FILE, anywhere: bool = False
    ) -> bytes:
        request = {"op": "read", "path": path, "offset": offset, "limit": limit, "anywhere": anywhere}
        return await self._read(request, limit)

    async def _read(self, request: Mapping[str, Any], limit: int) -> bytes:
        async with self._ask(request, timeout_s=300) as (_, source):
            return await answers.joined(source, limit)

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
        request = {"op": "list", "fresh": fresh, "exclude": list(exclude), "limit": MAX_ENTRIES}
        entries: list[Entry] = []
        async with self._ask(request, timeout_s=600) as (_, source):
            async for rows in answers.listing(source):
                entries.extend(map(answers.entry, rows))
        return await asyncio.to_thread(sorted, entries, key=lambda entry: entry.path)

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> FoundFiles:
        answer = await self._search({"op": "glob", "path": path, "pattern": pattern, "limit": limit})
        entries = list(map(answers.entry, answers.rows(answer.get("entries"), limit)))
        return FoundFiles(entries, answers.number(answer, "total"), answers.texts(answer, "notes", _NOTES))

    async def grep(self, query: GrepQuery) -> FoundMatches:
        answer = await self._search({"op": "grep", **asdict(query), "globs": list(query.globs)})
        most = max(query.limit * (1 + query.before + query.after), _MULTILINE)
        rows = list(map(answers.match, answers.rows(answer.get("rows"), most)))
        return FoundMatches(rows, answers.flag(answer, "more"), answers.texts(answer, "notes", _NOTES))

    async def _search(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._tell({**request, "seconds": _GREP_S})
        except AnswerCut:
            raise FileRefused(f"the search took more than {_GREP_S} s", kind="invalid") from None

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> Imported:
        answer = await self._tell({"op": "import"}, body=import_body(files), timeout_s=1800)
        refused = answer.get("refused")
        if not isinstance(refused, list) or len(refused) > _MAX_REFUSED:
            answers.broken("no short list of what was refused")
        pairs = [answers.texts({"pair": pair}, "pair", 2) for pair in refused]
        return Imported(answers.number(answer, "count"), {pair[0]: pair[-1] for pair in pairs if pair})


async def _with_output(answer: Mapping[str, Any], source: ByteSource) -> CallStatus:
    """Return the call's state in the answer, with stdout and stderr when the answer contains them."""
    status = answers.status(answer)
    if not answers.flag(answer, "output"):
        return status
    out = await answers.joined(source, _MOST_INLINE)
    return replace(status, output=(out, await answers.joined(source, _MOST_INLINE)))


async def _framed(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield frame(content[start : start + CHUNK])
    yield END


async def import_body(files: AsyncIterator[ExportedFile]) -> AsyncIterator[bytes]:
    """Yield the frames that import these files.

    Joins frames into larger pieces of bytes, because sending a piece for each small file would be slow.
    """
    begun, ready, size = False, list[bytes](), 0
    async for file in files:
        entry = file.entry
        if not begun:
            fields = {name: getattr(entry, name) for name in _IMPORTED}
            fields["keep"] = file.keep
            ready.append(json_frame(fields))
        for start in range(0, len(file.content), CHUNK):
            ready.append(frame(file.content[start : start + CHUNK]))
        begun = file.more
        if not begun:
            ready.append(END)
        size += len(file.content) + _HEADER
        if size >= CHUNK:
            yield b"".join(ready)
            ready, size = [], 0
    yield b"".join((*ready, json_frame({})))
