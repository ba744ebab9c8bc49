"""Remembers digests of files by their stat, so that an unchanged file is not read again."""

from __future__ import annotations

import contextlib
import json
import os
import time
from functools import cached_property

#: A change must be this old (nanoseconds), because a second change within the same tick of the clock has the same stat.
_SETTLED_NS = 100_000_000


class DigestCache:
    """A cache of digests in one file. A missing or damaged file counts as an empty cache.

    If `fresh`, digests from earlier runs are not used, but new ones are saved.
    """

    def __init__(self, path: str, fresh: bool = False) -> None:
        self._path = path
        self._fresh = fresh
        self._now: dict[str, list[object]] = {}

    @cached_property
    def _before(self) -> dict[str, list[object]]:
        """The digests in the cache file, which is read at the first lookup of a digest. Most stages need no lookup."""
        with contextlib.suppress(OSError, ValueError, AttributeError), open(self._path, "rb") as file:
            return dict(json.load(file).items())
        return {}

    def find(self, path: str, found: os.stat_result) -> str | None:
        """Return the digest of the file with the stat `found`, or None when it is unknown and the file must be read."""
        known = self._before.get(path)
        if self._fresh or not isinstance(known, list) or known[:-1] != _key(found):
            return None
        self._now[path] = known
        return str(known[-1])

    def remember(self, path: str, before: os.stat_result, after: os.stat_result, digest: str) -> None:
        """Remember the digest of a file that was just read, with its stat before and after the reading.

        Does nothing when the file changed during the reading or shortly before, because its stat may not show the next
        change.
        """
        if _key(before) == _key(after) and time.time_ns() - after.st_ctime_ns > _SETTLED_NS:
            self._now[path] = [*_key(after), digest]

    def keep_all(self) -> None:
        """Let `save` keep all digests from the file. Otherwise it keeps only those that were looked up or added."""
        self._now = {**self._before, **self._now}

    def trust(self, path: str, found: os.stat_result, digest: str) -> None:
        """Remember the digest of a file that this process just wrote while nothing else ran."""
        self._now[path] = [*_key(found), digest]

    def save(self) -> None:
        """Write the cache to its file, if it changed. Does nothing on a full disk: files are then read again later."""
        if self._now != self._before:
            with contextlib.suppress(OSError), open(self._path, "wb") as file:
                file.write(json.dumps(self._now, separators=(",", ":")).encode("ascii"))


def _key(found: os.stat_result) -> list[object]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode]
