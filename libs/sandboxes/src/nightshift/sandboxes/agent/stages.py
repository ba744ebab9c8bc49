"""Stages the workspace for snapshots: records its files at a checkpoint, and keeps what later calls would overwrite.

A stage is named by its `mark`, the version of its checkpoint's event in the stream. `stage` lists the files with their
digests for the snapshotter. `hold` runs before the first call of a turn that may write, and copies the files that no
snapshot has yet.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from .confined_paths import Root
from .digest_cache import DigestCache
from .guard import Guard
from .held_directories import HeldDirectories, reason
from .row_digests import RowDigests
from .rows import (
    DIGEST,
    KIND,
    PROBLEM,
    REF,
    SETTLED,
    STAT,
    Row,
    applied,
    difference,
    entry,
    same_stats,
    shown,
    visible,
    walk_rows,
)
from .stage_folder import StageFolder
from .tree import rows as framed_rows
from .walk import open_file
from .wire import CHUNK, END, Refusal, frame, json_frame

#: How often a tree is read that keeps changing.
_ROUNDS = 3
#: The most bytes of content in one block of an export, and of one file in it.
BLOCK = 8 * 1024 * 1024


class Stages:
    def __init__(self, root: Root, folder: str, digests: DigestCache) -> None:
        self._root = root
        self._folder = StageFolder(folder)
        self._digests = digests

    def stage(
        self, mark: int, *, base: int | None, fresh: bool, again: bool, exclude: list[str], limit: int
    ) -> Iterator[bytes]:
        """Yield a header and the entries of the stage `mark`. An entry of the kind `gone` is a removed path.

        Makes the stage first, from the workspace as it is now, if it does not exist or if `again`. If `fresh`, reads
        every file, and repeats the reading until no file changes.

        Fields of the header:
        - `base`: the argument `base`, if the sandbox has that snapshot's tree. Then the entries are the differences.
          Otherwise None, and the entries are the whole tree.
        - `late`: whether a call may have written between the checkpoint and the reading.
        - `torn`: the paths whose content at the checkpoint is lost.
        """
        walking = Walking(fresh, exclude, limit)
        with self._folder.locked("reading"):
            tree, found = self._read(mark, walking, self._begin(mark, walking, again=again))
        same = base is not None and base == tree["mark"]
        yield json_frame({"base": base if same else None, "late": found["late"], "torn": found["torn"]})
        seen = tree["rows"] if same else {}
        rows = found["set"] if same else applied(tree["rows"], found["set"], found["gone"])
        gone = ({"path": path, "kind": "gone"} for path in (found["gone"] if same else ()))
        changed = (entry(path, row) for path, row in rows.items() if shown(row) != shown(seen.get(path)))
        for part in framed_rows(chain(gone, changed)):
            yield frame(part)
        yield END

    def hold(self, mark: int, exclude: list[str], limit: int, seconds: float) -> dict[str, Any]:
        """Protect the files of the checkpoint `mark` from later writes, in about `seconds` seconds.

        Does nothing when the stage is stored or held already. Returns `late`: whether the time was too short for that.
        `exclude` is used only when no earlier stage has recorded its patterns.
        """
        if any(self._folder.noted(mark, fact) for fact in ("passed", "clean", "stored")):
            return {"late": False}
        late = True
        with contextlib.suppress(OSError):
            with self._folder.locked("lock", seconds):
                rules = self._folder.exclude() or exclude
                self._hold(mark, Walking(False, rules, limit), time.monotonic() + seconds)
            late = False
        self._folder.note(mark, "passed")
        return {"late": late}

    def stored(self, mark: int) -> None:
        """Make the stage `mark` the base, from which later stages are recorded as differences. Called when its snapshot
        is in the object store.

        Forgets this stage and the ones before it. Does nothing when the stage is not held.
        """
        with self._folder.locked("lock"):
            tree, held = self._folder.base(), self._folder.held()
            found = _find(held, mark)
            if found is None:
                return
            rows = applied(tree["rows"], found["set"], found["gone"])
            later = [one for one in held if one["mark"] > mark]
            for one in later:
                whole = applied(tree["rows"], one["set"], one["gone"])
                one["set"], one["gone"] = difference(rows, whole)
            self._folder.write_base(mark, rows)
            self._folder.write_held(later)
            self._folder.copies.keep(chain.from_iterable(one["set"].values() for one in later))
            self._folder.forget(mark)
            self._folder.note(mark, "stored")

    def held(self) -> dict[str, Any]:
        """Return the marks (versions of checkpoints) of the stages that are not stored yet, in order."""
        return {"marks": [one["mark"] for one in self._folder.held()]}

    def export(self, mark: int, paths: list[str], offset: int, limit: int) -> Iterator[bytes]:
        """Yield the contents of these files of a stage in blocks: a header with `parts`, then the bytes of its parts.

        A part has `path`, `bytes`, and `more` when the next part continues the file. A part with `problem` has no
        bytes.

        The first file begins at `offset`. After `limit` bytes, the last header names the index in `paths` and the
        offset at which the next export must begin. After the last path, that header is empty. A file without a kept
        copy is read from the workspace, so the client must compare its digest.
        """
        stage = _find(self._folder.held(), mark)
        rows = {} if stage is None else stage["set"]
        directories, block, sent = HeldDirectories(self._root), _Block(), 0
        after: dict[str, int] = {}
        try:
            for index, path in enumerate(paths):
                try:
                    with self._open(directories, path, rows.get(path)) as file:
                        at = file.seek(offset if index == 0 else 0)
                        end = os.fstat(file.fileno()).st_size
                        # A file is cut only at multiples of BLOCK, so that its parts are the same next time.
                        if block.size + min(end - at, BLOCK) > BLOCK:
                            yield from block.frames()
                        while block.add(path, file, end) and sent + block.size < limit:
                            sent += block.size
                            yield from block.frames()
                        at = file.tell()
                except (OSError, Refusal) as error:
                    block.refuse(path, reason(error))
                    continue
                if sent + block.size >= limit:
                    after = {"next": index, "offset": at} if at < end else {"next": index + 1, "offset": 0}
                    break
        finally:
            directories.finish()
        yield from block.frames()
        yield json_frame(after)

    def _open(self, directories: HeldDirectories, path: str, row: Row | None) -> BinaryIO:
        """Open the kept copy of a file of a stage, or the file itself when there is no copy."""
        copy = None if row is None else self._folder.copies.open(row)
        return copy or open_file(*directories.parent(path))

    def _begin(self, mark: int, walking: Walking, *, again: bool) -> dict[str, Any] | None:
        """Find the stage `mark`, or walk the workspace for a new one (always a new one if `again`).

        Returns None when the stage equals the base, the newest stored snapshot. A new stage has no digests yet, because
        reading the files takes longer and `hold` must not wait for it.
        """
        with self._folder.locked("lock"):
            self._folder.write_exclude(walking.exclude)
            tree, held = self._folder.base(), self._folder.held()
            found = None if again else _find(held, mark)
            if found is None and (walking.fresh or not self._folder.noted(mark, "clean")):
                known = [] if walking.fresh else [tree["rows"], *(one["set"] for one in held)]
                digests = None if walking.fresh else self._digests
                present = walk_rows(self._root, walking.exclude, walking.limit, known, digests)
                changed, gone = difference(tree["rows"], present)
                late = self._folder.noted(mark, "passed")
                if tree["mark"] is None or changed or gone or late:
                    found = {**_stage(mark, changed, gone), "late": late}
                else:
                    self._folder.note(mark, "clean")
                self._folder.write_held(
                    [*(one for one in held if one["mark"] != mark), *([found] if found else ())]
                )
            return found

    def _read(
        self, mark: int, walking: Walking, found: dict[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compute the missing digests of the stage `found`, and record it as the stage `mark`.

        If `found` is None, the stage equals the base. Returns the base and the stage.
        """

        def passed() -> bool:
            return self._folder.noted(mark, "passed")

        base = self._folder.base()
        if found is None:
            return base, _stage(mark, {}, [])
        for number in range(_ROUNDS):
            digests = RowDigests(self._root, self._folder.copies, base["rows"], passed)
            torn, removed = digests.set(found["set"])
            found["gone"] += removed
            if not walking.fresh or self._stands_still(base["rows"], found, walking) or passed():
                break
            torn.append(".")
            if number < _ROUNDS - 1:
                found = self._begin(mark, walking, again=True) or _stage(mark, {}, [])
        return self._record(found, torn)

    def _stands_still(self, base: dict[str, Row], found: dict[str, Any], walking: Walking) -> bool:
        present = walk_rows(self._root, walking.exclude, walking.limit, [], None)
        return same_stats(present, applied(base, found["set"], found["gone"]))

    def _record(self, found: dict[str, Any], torn: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the stage with its digests, as a difference from the current base. Returns that base and the stage."""
        with self._folder.locked("lock"):
            tree, held, mark = self._folder.base(), self._folder.held(), found["mark"]
            before = _find(held, mark)
            whole = tree["rows"] if before is None else applied(tree["rows"], before["set"], before["gone"])
            changed, gone = difference(tree["rows"], applied(whole, found["set"], found["gone"]))
            torn = sorted({*torn, *(() if before is None else before["torn"])})
            found = {**_stage(mark, changed, gone), "late": found["late"], "torn": torn}
            rest = [one for one in held if one["mark"] != mark]
            if not (tree["mark"] is None or gone or torn or found["late"] or visible(changed, tree["rows"])):
                if changed:  # only what no snapshot shows, such as the time of a change
                    tree["rows"].update(changed)
                    self._folder.write_base(tree["mark"], tree["rows"])
                self._folder.note(mark, "clean")
                self._folder.write_held(rest)
                return tree, _stage(mark, {}, [])
            self._folder.write_held([*rest, found])
            return tree, found

    def _hold(self, mark: int, walking: Walking, deadline: float) -> None:
        tree, held = self._folder.base(), self._folder.held()
        found = _find(held, mark)
        if found is None:
            known = [tree["rows"], *(one["set"] for one in held)]
            present = walk_rows(self._root, walking.exclude, walking.limit, known, self._digests)
            changed, gone = difference(tree["rows"], present)
            if tree["mark"] is not None and not changed and not gone:
                self._folder.note(mark, "clean")
                return
            found = _stage(mark, changed, gone)
            held.append(found)
        directories, guard = HeldDirectories(self._root), Guard()
        try:
            for path, row in found["set"].items():
                if row[KIND] == "file" and row[REF] is None and row[PROBLEM] is None:
                    if _is_stored(row, tree["rows"].get(path)):
                        continue
                    with contextlib.suppress(OSError, Refusal):
                        if not self._folder.copies.take(*directories.parent(path), row, deadline, guard):
                            found["torn"].append(path)
        finally:
            directories.finish()
        self._folder.write_held(held)
        guard.start()


class Walking:
    """How to walk the workspace. If `fresh`, every file is read, even one whose digest is known."""

    def __init__(self, fresh: bool, exclude: list[str], limit: int) -> None:
        self.fresh = fresh
        self.exclude = exclude
        self.limit = limit


class _Block:
    """A block of an export: parts of files that the agent program sends to the snapshotter in one piece.

    Most files are small, and a piece for each would be slow.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._data: list[bytes] = []
        self.size = 0

    def add(self, path: str, file: BinaryIO, end: int) -> bool:
        """Read from a file until the block is full or the position is `end`. Returns whether the file has more bytes
        before `end`.
        """
        start, left = self.size, end - file.tell()
        while left > 0 and self.size < BLOCK:
            chunk = file.read(min(left, CHUNK, BLOCK - self.size))
            left = left - len(chunk) if chunk else 0
            self._data.append(chunk)
            self.size += len(chunk)
        self._parts.append({"path": path, "bytes": self.size - start, "more": left > 0})
        return left > 0

    def refuse(self, path: str, text: str) -> None:
        self._parts.append({"path": path, "bytes": 0, "more": False, "problem": text})

    def frames(self) -> Iterator[bytes]:
        """Yield the frames of the block, and empty it."""
        if self._parts:
            yield json_frame({"parts": self._parts}) + b"".join(frame(one) for one in self._data if one) + END
        self._parts, self._data, self.size = [], [], 0


def _stage(mark: int, changed: dict[str, Row], gone: Iterable[str]) -> dict[str, Any]:
    return {"mark": mark, "late": False, "torn": [], "set": changed, "gone": list(gone)}


def _is_stored(row: Row, base: Row | None) -> bool:
    """Return whether the newest stored snapshot has the content of `row`.

    `base` is the row of the same path in that snapshot. Equal stats prove equal contents only when `base` is settled
    and has a digest (see rows.py).
    """
    return base is not None and base[SETTLED] and base[DIGEST] is not None and base[:STAT] == row[:STAT]


def _find(held: list[dict[str, Any]], mark: int) -> dict[str, Any] | None:
    return next((one for one in held if one["mark"] == mark), None)
