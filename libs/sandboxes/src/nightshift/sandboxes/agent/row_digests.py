"""Computes the digests of a stage's files, while calls of the next turn may already write to them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .confined_paths import Root
from .copies import Copies
from .held_directories import HeldDirectories, reason
from .rows import CTIME, DIGEST, INODE, KIND, PROBLEM, REF, SETTLED, SIZE, STAT, Row, same_content, stat_key
from .walk import digest_file, open_file
from .wire import Refusal

#: Nanoseconds after a change in which another one may leave the same stat.
_SETTLED_NS = 100_000_000
#: How often a file is read that changes while it is read.
_ROUNDS = 3


class RowDigests:
    """Sets the digests of rows (see rows.py). `base` has the rows of the newest stored snapshot.

    `passed` returns True once a call of the next turn may have written. Until then, what a background program writes
    belongs to the checkpoint. After that, the checkpoint's content is in the copy made when the stage was held.
    """

    def __init__(self, root: Root, copies: Copies, base: dict[str, Row], passed: Callable[[], bool]) -> None:
        self._directories = HeldDirectories(root)
        self._copies = copies
        self._base = base
        self._passed = passed

    def set(self, rows: dict[str, Row]) -> tuple[list[str], list[str]]:
        """Set the missing digests, and remove the rows of files that a background program has removed.

        Returns the paths whose content at the checkpoint is lost, and the removed paths.
        """
        torn, removed = [], []
        try:
            for path, row in list(rows.items()):
                if row[KIND] != "file" or row[PROBLEM] is not None or row[DIGEST] is not None:
                    continue
                first = rows.get(row[REF]) or self._base.get(row[REF])
                if first is not None and (first[DIGEST] is not None or first[PROBLEM] is not None):
                    row[SIZE : CTIME + 1] = first[SIZE : CTIME + 1]
                    row[PROBLEM : SETTLED + 1] = first[PROBLEM : SETTLED + 1]
                    continue
                row[REF] = None
                try:
                    if not self._read(path, row):
                        torn.append(path)
                except FileNotFoundError:
                    if self._passed():
                        row[PROBLEM] = "it was removed before it was saved"
                        torn.append(path)
                    else:
                        del rows[path]
                        removed.append(path)
                except (OSError, Refusal) as error:
                    row[PROBLEM] = reason(error)
        finally:
            self._directories.finish()
        return torn, removed

    def _read(self, path: str, row: Row) -> bool:
        """Set the digest of the file's content at the checkpoint, from its kept copy or the file itself.

        Returns False when that content is lost, because the file has another content now.
        """
        if self._read_copy(row):
            return True
        try:
            fresh, still = self._read_file(path, row)
        except FileNotFoundError:
            if self._read_copy(row):  # a call was allowed to remove it meanwhile
                return True
            if self._read_copy(row, changed=True):
                return False
            raise
        if still and not self._passed():
            row[:] = fresh
            return True
        if still and same_content(row, fresh):  # the row keeps its stat, which names its copy
            row[DIGEST] = fresh[DIGEST]
            return True
        if self._read_copy(row):
            return True
        old = self._base.get(path)
        if old is not None and old[DIGEST] is not None and old[:STAT] == row[:STAT]:
            row[DIGEST] = old[DIGEST]
            return True
        row[:] = fresh
        return False

    def _read_copy(self, row: Row, *, changed: bool = False) -> bool:
        """Set the digest from the kept content of the file. Returns False when there is no kept content.

        Also returns False when the content was a hard link that has been written to, unless `changed`.
        """
        copy = self._copies.open(row)
        if copy is None:
            return False
        with copy:
            if not changed and not self._copies.matches(row, os.fstat(copy.fileno())):
                return False
            row[DIGEST], row[SIZE] = digest_file(copy)
        return True

    def _read_file(self, path: str, row: Row) -> tuple[Row, bool]:
        """Read the file as it is now.

        Returns the file's row with the digest, and whether the file stayed unchanged during the reading.
        """
        found, still = list(row), False
        with open_file(*self._directories.parent(path)) as file:
            for _ in range(_ROUNDS):
                before = os.fstat(file.fileno())
                found[DIGEST], found[SIZE] = digest_file(file)
                after = os.fstat(file.fileno())
                still = stat_key(before) == stat_key(after)
                if still:
                    break
                file.seek(0)
        size, found[1 : INODE + 1] = found[SIZE], stat_key(after)
        found[SIZE], found[SETTLED] = size, time.time_ns() - found[CTIME] > _SETTLED_NS
        return found, still
