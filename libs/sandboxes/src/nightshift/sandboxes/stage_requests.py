"""The requests about stages that the agent inside a sandbox answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from nightshift.sandboxes.answers import MAX_ENTRIES, ByteSource, chunks, entry_of, read_header
from nightshift.sandboxes.errors import SandboxUnavailable
from nightshift.sandboxes.port import PIECE, Entry, ExportedBlock, ExportedPart, Stage

#: Bytes of files that one answer holds: at E2B it is a file on the sandbox's disk.
_EXPORT: Final = 8 * PIECE
#: Seconds that a call may wait for the files of its checkpoint to be copied. Hard links guard the rest.
_HOLD_S: Final = 0.5


class StageRequests:
    """The part of AgentSandbox that stages and exports the workspace."""

    def _ask(
        self, request: Mapping[str, Any], *, timeout_s: float = 60
    ) -> AbstractAsyncContextManager[tuple[dict[str, Any], ByteSource]]:
        raise NotImplementedError

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
            header = await read_header(source)
            async for rows in chunks(source):
                if len(entries) + len(gone) > 2 * MAX_ENTRIES:
                    raise SandboxUnavailable("the sandbox's agent sends more than was asked for")
                for row in json.loads(rows):
                    if row["kind"] == "gone":
                        gone.append(str(row["path"]))
                    else:
                        entries.append(entry_of(row))
                await asyncio.sleep(0)  # let other tasks run: the whole answer may be here already
        return Stage(
            None if header["base"] is None else base,
            entries,
            gone,
            bool(header["late"]),
            [str(path) for path in header["torn"]],
        )

    async def hold(self, mark: int, *, exclude: Sequence[str] = ()) -> None:
        request = {"op": "hold", "mark": mark, "exclude": list(exclude), "seconds": _HOLD_S}
        async with self._ask({**request, "limit": MAX_ENTRIES}):
            pass

    async def held(self) -> Sequence[int]:
        async with self._ask({"op": "held"}) as (answer, _):
            return [int(mark) for mark in answer["marks"]]

    async def stored(self, mark: int) -> None:
        async with self._ask({"op": "stored", "mark": mark}):
            pass

    async def export_files(self, mark: int, paths: Sequence[str]) -> AsyncIterator[ExportedBlock]:
        left, offset = list(paths), 0
        while left:
            request = {"op": "export", "mark": mark, "paths": left, "offset": offset, "limit": _EXPORT}
            async with self._ask(request, timeout_s=1800) as (_, source):
                while "parts" in (header := await read_header(source)):
                    parts = [_part(row) for row in header["parts"]]
                    data = b"".join([chunk async for chunk in chunks(source)])
                    if len(data) != sum(part.bytes for part in parts):
                        raise SandboxUnavailable("the sandbox's agent answers nonsense")
                    yield ExportedBlock(parts, data)
            left, offset = left[int(header.get("next", len(left))) :], int(header.get("offset", 0))


def _part(row: Mapping[str, Any]) -> ExportedPart:
    problem = row.get("problem")
    return ExportedPart(
        str(row["path"]), int(row["bytes"]), bool(row["more"]), None if problem is None else str(problem)
    )
