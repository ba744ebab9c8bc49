"""Stages the workspace for snapshots: records its files at a checkpoint, and keeps what later calls would overwrite.

The mark of a stage is the version of its checkpoint. `stage` lists the files with their digests for the snapshotter.
`hold` runs before the first call of a turn that may write, and copies the files that no snapshot has yet.
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
from .held_directories import HeldDirectories, reason
from .rows import (
    DIGEST,
    KIND,
    PROBLEM,
    REF,
    SIZE,
    Row,
    applied,
    difference,
    entry,
    hash_rows,
    same_stats,
    shown,
    stat_key,
    visible,
    walk_rows,
)
from .stage_folder import StageFolder
from .tree import rows as framed_rows
from .walk import digest_file, open_file
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
        """Yields a header and the entries of the stage, which is made when it does not exist.

        The header has `base` when the entries are the differences from the snapshot with that mark, which the asker
        has; an entry of kind `gone` is a removed path. `late`: a call may have written since the checkpoint. `torn`:
        paths that changed while they were read. With `fresh` every file is read, and the tree is proved to stand still.
        With `again` an existing stage is made anew.
        """
        with self._folder.locked():
            self._folder.write_exclude(exclude)
            tree, held = self._folder.base(), self._folder.held()
            if again:
                held = [one for one in held if one["mark"] != mark]
            found = _find(held, mark)
            if found is not None:
                self._finish(found, tree["rows"])
            elif fresh or not self._folder.noted(mark, "clean"):
                found = self._make(mark, tree, held, Walking(fresh, exclude, limit))
            if found is not None:
                self._folder.write_held([*(one for one in held if one["mark"] != mark), found])
        found = found or _stage(mark, {}, [])
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
        """Protect the files of the checkpoint from later writes, in about `seconds` seconds.

        Does nothing when the stage is stored or held already. Returns `late` when the time was too short. `exclude` is
        used when no stage was made before.
        """
        if any(self._folder.noted(mark, fact) for fact in ("passed", "clean", "stored")):
            return {"late": False}
        late = True
        with contextlib.suppress(OSError):
            with self._folder.locked(seconds):
                rules = self._folder.exclude() or exclude
                self._hold(mark, Walking(False, rules, limit), time.monotonic() + seconds)
            late = False
        self._folder.note(mark, "passed")
        return {"late": late}

    def stored(self, mark: int) -> None:
        """Forget the stages up to this one, which is in the object store now.

        It becomes the base of the next stages.
        """
        with self._folder.locked():
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
        """Return the marks of the stages that are not stored yet."""
        return {"marks": [one["mark"] for one in self._folder.held()]}

    def export(self, mark: int, paths: list[str], offset: int, limit: int) -> Iterator[bytes]:
        """Yields blocks of contents of the stage's files: a header with `parts`, and the bytes of all of them.

        A part has path, bytes, and `more` when the file goes on in the next one; or `problem`. Begins at `offset` of
        the first path. The last header is empty, or has the index and the offset to go on from after `limit` bytes.
        A file that is not held is read where it is: the asker compares its digest.
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

    def _make(
        self, mark: int, tree: dict[str, Any], held: list[dict[str, Any]], walking: Walking
    ) -> dict[str, Any] | None:
        """Walk and hash the workspace until it stays unchanged.

        Returns the new stage, or None when it equals the base.
        """
        known = [] if walking.fresh else [tree["rows"], *(one["set"] for one in held)]
        present, torn = self._settled(walking, known)
        changed, gone = difference(tree["rows"], present)
        late = self._folder.noted(mark, "passed")
        if tree["mark"] is None or gone or torn or late or visible(changed, tree["rows"]):
            return {**_stage(mark, changed, gone), "late": late, "torn": torn}
        if changed:  # only values that no snapshot contains, such as the time of a change
            tree["rows"].update(changed)
            self._folder.write_base(tree["mark"], tree["rows"])
        self._folder.note(mark, "clean")
        return None

    def _settled(self, walking: Walking, known: list[dict[str, Row]]) -> tuple[dict[str, Row], list[str]]:
        """Return the rows of the workspace with their digests, and the paths that changed at every attempt."""
        digests = None if walking.fresh else self._digests
        before: dict[str, Row] = {}
        torn: list[str] = []
        for number in range(_ROUNDS):
            present = walk_rows(self._root, walking.exclude, walking.limit, [*known, before], digests)
            if number and not torn and same_stats(present, before):
                return before, []
            torn = hash_rows(self._root, present)
            if not walking.fresh and not torn:
                return present, []
            before = present
        return before, torn or ["."]

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
        directories = HeldDirectories(self._root)
        try:
            for path, row in found["set"].items():
                if row[KIND] == "file" and row[REF] is None and row[PROBLEM] is None:
                    with contextlib.suppress(OSError, Refusal):
                        if not self._folder.copies.take(*directories.parent(path), row, deadline):
                            found["torn"].append(path)
        finally:
            directories.finish()
        self._folder.write_held(held)

    def _finish(self, stage: dict[str, Any], base: dict[str, Row]) -> None:
        """Compute the digests of a held stage, from the kept copies where there are any."""
        directories, rows = HeldDirectories(self._root), stage["set"]
        try:
            for path, row in rows.items():
                if row[KIND] != "file" or row[PROBLEM] is not None or row[DIGEST] is not None:
                    continue
                first = rows.get(row[REF]) or base.get(row[REF])
                if first is not None and first[DIGEST] is not None:
                    row[DIGEST], row[SIZE] = first[DIGEST], first[SIZE]
                    continue
                try:
                    with self._open(directories, path, row) as file:
                        if not self._folder.copies.matches(row, stat_key(os.fstat(file.fileno()))):
                            stage["torn"].append(path)
                        row[DIGEST], row[SIZE] = digest_file(file)
                except (OSError, Refusal) as error:
                    row[PROBLEM] = f"it was changed before it was saved: {reason(error)}"
                    stage["torn"].append(path)
        finally:
            directories.finish()


class Walking:
    """How to walk the workspace. With `fresh`, every file is read."""

    def __init__(self, fresh: bool, exclude: list[str], limit: int) -> None:
        self.fresh = fresh
        self.exclude = exclude
        self.limit = limit


class _Block:
    """Parts of files that are sent together."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._data: list[bytes] = []
        self.size = 0

    def add(self, path: str, file: BinaryIO, end: int) -> bool:
        """Read from a file until the block is full or the file ends at `end` bytes.

        Returns whether the file continues.
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


def _find(held: list[dict[str, Any]], mark: int) -> dict[str, Any] | None:
    return next((one for one in held if one["mark"] == mark), None)
