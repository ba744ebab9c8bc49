"""Records the requests that the scripted model receives, for tests: the newest in memory, and all in a file if
configured.

API keys are not recorded.
"""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEPT_BYTES = 16 * 1024 * 1024


class RequestLog:
    """Records one entry for each request: number, path, status, turn and body.

    Bytes of a body that are not UTF-8 become lone surrogates.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._bytes = 0
        self._count = 0

    def note(self, *, path: str, status: int, turn: str | None, body: bytes) -> None:
        """Add an entry. The oldest entries in memory are dropped while the bodies in memory have more than 16 MiB
        together.
        """
        self._count += 1
        entry = {
            "number": self._count,
            "path": path,
            "status": status,
            "turn": turn,
            "body": body.decode("utf-8", "surrogateescape"),
        }
        self._entries.append((len(body), entry))
        self._bytes += len(body)
        while self._bytes > _KEPT_BYTES and len(self._entries) > 1:
            self._bytes -= self._entries.popleft()[0]
        if self._path is not None:
            with self._path.open("a", encoding="ascii") as file:
                file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[Mapping[str, Any]]:
        """Return the entries in memory, oldest first."""
        return [entry for _, entry in self._entries]
