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

    With `fresh`, remembered digests are not used, but new ones are remembered.
    """

    def __init__(self, path: str, fresh: bool = False) -> None:
        self._path = path
        self._fresh = fresh
        self._now: dict[str, list[object]] = {}

    @cached_property
    def _before(self) -> dict[str, list[object]]:
        """Read only when a digest is looked up: a stage knows most of them from its base."""
        with contextlib.suppress(OSError, ValueError, AttributeError), open(self._path, "rb") as file:
            return dict(json.load(file).items())
        return {}

    def find(self, path: str, found: os.stat_result) -> str | None:
        """Return the digest of the file with this stat, or None when the file must be read."""
        known = self._before.get(path)
        if self._fresh or not isinstance(known, list) or known[:-1] != _key(found):
            return None
        self._now[path] = known
        return str(known[-1])

    def remember(self, path: str, before: os.stat_result, after: os.stat_result, digest: str) -> None:
        """Remember the digest, unless the file changed while it was read or shortly before."""
        if _key(before) == _key(after) and time.time_ns() - after.st_ctime_ns > _SETTLED_NS:
            self._now[path] = [*_key(after), digest]

    def keep_all(self) -> None:
        """Keep also the remembered digests of files that nobody asks for before `save`."""
        self._now = {**self._before, **self._now}

    def trust(self, path: str, found: os.stat_result, digest: str) -> None:
        """Remember the digest of a file that this process just wrote while nothing else ran."""
        self._now[path] = [*_key(found), digest]

    def save(self) -> None:
        """Write the cache to its file, if it changed. When the disk is full, files are read again later."""
        if self._now != self._before:
            with contextlib.suppress(OSError), open(self._path, "wb") as file:
                file.write(json.dumps(self._now, separators=(",", ":")).encode("ascii"))


def _key(found: os.stat_result) -> list[object]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode]
