"""The requests that concern stages, from a driver to the agent program inside a sandbox."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from nightshift.sandboxes import answers
from nightshift.sandboxes.answers import MAX_ENTRIES, ByteSource
from nightshift.sandboxes.port import PIECE, Entry, ExportedBlock, ExportedPart, Stage

#: The most bytes of files in one answer. At E2B an answer is a file on the sandbox's disk.
_EXPORT: Final = 8 * PIECE
#: Seconds that a call may wait until the files of its checkpoint are copied. The files not yet copied are kept as hard
#: links.
_HOLD_S: Final = 2.0
#: The most stages that may wait for the snapshotter, and the most bytes of a block.
_MARKS: Final = 1_000
_BLOCK: Final = 2 * PIECE


class StageRequests(ABC):
    """The part of AgentSandbox with the requests that stage and export the workspace."""

    @abstractmethod
    def _ask(
        self, request: Mapping[str, Any], *, timeout_s: float = 60
    ) -> AbstractAsyncContextManager[tuple[dict[str, Any], ByteSource]]:
        """Send one request to the agent program. Yields the answer's header, and the source of the bytes after it."""

    async def stage(
        self,
        mark: int,
        *,
        base: int | None = None,
        fresh: bool = False,
        again: bool = False,
        exclude: Sequence[str] = (),
    ) -> Stage:
        request = {"op": "stage", "mark": mark, "base": base, "fresh": fresh, "again": again}
        request["exclude"] = list(exclude)
        entries, gone = list[Entry](), list[str]()
        async with self._ask({**request, "limit": MAX_ENTRIES}, timeout_s=1800) as (_, source):
            header = await answers.read_header(source)
            async for rows in answers.listing(source):
                for row in rows:
                    if row.get("kind") == "gone":
                        gone.append(answers.path(row))
                    else:
                        entries.append(answers.entry(row))
        torn = answers.texts(header, "torn", MAX_ENTRIES)
        return Stage(
            None if header.get("base") is None else base, entries, gone, answers.flag(header, "late"), torn
        )

    async def hold(self, mark: int, *, exclude: Sequence[str] = ()) -> None:
        request = {"op": "hold", "mark": mark, "exclude": list(exclude), "seconds": _HOLD_S}
        async with self._ask({**request, "limit": MAX_ENTRIES}):
            pass

    async def held(self) -> Sequence[int]:
        async with self._ask({"op": "held"}) as (answer, _):
            return answers.numbers(answer, "marks", _MARKS)

    async def stored(self, mark: int) -> None:
        async with self._ask({"op": "stored", "mark": mark}):
            pass

    async def export_files(self, mark: int, paths: Sequence[str]) -> AsyncIterator[ExportedBlock]:
        left, offset = list(paths), 0
        while left:
            before = len(left), -offset
            request = {"op": "export", "mark": mark, "paths": left, "offset": offset, "limit": _EXPORT}
            async with self._ask(request, timeout_s=1800) as (_, source):
                while "parts" in (header := await answers.read_header(source)):
                    parts = list(map(_part, answers.rows(header["parts"], MAX_ENTRIES)))
                    size = sum(part.bytes for part in parts)
                    if size > _BLOCK:
                        answers.broken("a block that is too large")
                    data = await answers.joined(source, size)
                    if len(data) != size:
                        answers.broken("a block that is not whole")
                    yield ExportedBlock(parts, data)
            left = left[answers.number(header, "next", len(left)) :]
            offset = answers.number(header, "offset", 0)
            if left and (len(left), -offset) >= before:
                answers.broken("an export that does not get on")


def _part(row: Mapping[str, Any]) -> ExportedPart:
    problem = answers.optional_text(row, "problem")
    return ExportedPart(answers.path(row), answers.number(row, "bytes"), answers.flag(row, "more"), problem)
