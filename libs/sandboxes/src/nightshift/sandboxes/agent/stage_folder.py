"""The files that record the stages in a sandbox. A missing or damaged file counts as empty: the tree is read again.
The mark of a stage is the version of its checkpoint.

<folder>/base.json      the tree of the newest stored snapshot: for each path a row, as in rows.py
<folder>/held.json      the stages that are not stored yet, oldest first, as differences from the base
<folder>/exclude.json   the patterns of paths that the newest stage left out
<folder>/copies/        contents of held files, named by the stat of the file
<folder>/<mark>.passed  exists when a call of the next turn may have written
<folder>/<mark>.clean   exists when the stage was equal to the base
<folder>/<mark>.stored  exists when the stage is stored
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from .copies import Copies

#: The most stages that wait for the snapshotter. Beyond it, the oldest stage is given up.
_HELD = 32


class StageFolder:
    """The files that record the stages. `folder` must be on the file system of the workspace, for hard links."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.copies = Copies(os.path.join(folder, "copies"))
        self._base: tuple[tuple[int, int], dict[str, Any]] | None = None

    @contextlib.contextmanager
    def locked(self, name: str, seconds: float = math.inf) -> Iterator[None]:
        """Exclude other requests for the lock `name` within the block.

        There are two locks. A request has `lock` for milliseconds, while it uses the files of this folder. It has
        `reading` for seconds, while it reads a stage's files. Raises TimeoutError when another request still has the
        lock after `seconds` seconds.
        """
        os.makedirs(self.copies.folder, 0o700, exist_ok=True)
        until = time.monotonic() + seconds
        with open(self._path(name), "wb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if seconds == math.inf else fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise TimeoutError from None
                    time.sleep(0.005)
            yield

    def note(self, mark: int, fact: str) -> None:
        """Record a fact about the stage `mark`. `passed`: a call of the next turn may have written.

        `clean`: the stage equals the base. `stored`: its snapshot is stored. Does nothing when the file cannot be
        written.
        """
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, 0o700, exist_ok=True)
            with open(self._path(f"{mark}.{fact}"), "wb"):
                pass

    def noted(self, mark: int, fact: str) -> bool:
        return os.path.exists(self._path(f"{mark}.{fact}"))

    def forget(self, mark: int) -> None:
        """Remove what `note` recorded about all stages before `mark`."""
        for name in os.listdir(self._folder):
            number = name.partition(".")[0]
            if number.isdigit() and int(number) < mark:
                os.unlink(self._path(name))

    def base(self) -> dict[str, Any]:
        """Return the tree of the newest stored snapshot: its `mark` (the version of its checkpoint) and its `rows` by
        path.

        The mark is None when nothing is stored yet.
        """
        try:
            found = os.stat(self._path("base.json"))
        except OSError:
            return {"mark": None, "rows": {}}
        stamp = found.st_ino, found.st_mtime_ns
        if self._base is None or self._base[0] != stamp:  # each writer makes a new file
            tree = self._load("base.json")
            whole = isinstance(tree, dict) and isinstance(tree.get("rows"), dict)
            self._base = stamp, tree if whole else {"mark": None, "rows": {}}
        return self._base[1]

    def held(self) -> list[dict[str, Any]]:
        """Return the stages that are not stored yet, oldest first.

        Each is a dict with `mark`, `late` and `torn` (see stages.py). Its differences from the base (the newest stored
        snapshot) are the rows to `set` and the removed paths `gone`.
        """
        held = self._load("held.json")
        return held if isinstance(held, list) else []

    def exclude(self) -> list[str] | None:
        """Return the patterns that the newest stage left out, or None before the first stage."""
        exclude = self._load("exclude.json")
        return exclude if isinstance(exclude, list) else None

    def write_exclude(self, exclude: list[str]) -> None:
        if exclude != self.exclude():
            self._write("exclude.json", exclude)

    def write_base(self, mark: int, rows: dict[str, Any]) -> None:
        self._write("base.json", {"mark": mark, "rows": rows})

    def write_held(self, held: list[dict[str, Any]]) -> None:
        self._write("held.json", sorted(held, key=lambda one: one["mark"])[-_HELD:])

    def _load(self, name: str) -> Any:
        with contextlib.suppress(OSError, ValueError), open(self._path(name), "rb") as file:
            return json.loads(file.read())
        return None

    def _write(self, name: str, value: Any) -> None:
        new = self._path(f"{name}.new")
        with open(new, "wb") as file:
            file.write(json.dumps(value, separators=(",", ":")).encode("ascii"))
        os.replace(new, self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
