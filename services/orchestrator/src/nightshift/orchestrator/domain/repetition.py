"""When an agent goes round in circles: the same tool with the same input, three times in a window of ten."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.model import BlobRef

WINDOW = 10
TIMES = 3


def remember(recent: tuple[str, ...], tool: str, given: Mapping[str, Any] | BlobRef) -> tuple[str, ...]:
    """The window after one more call."""
    text = given.ref if isinstance(given, BlobRef) else canonical.dumps(given)
    digest = hashlib.sha256(f"{tool}\n{text}".encode()).hexdigest()[:32]
    return (*recent, digest)[-WINDOW:]


def repeats(recent: tuple[str, ...]) -> bool:
    """Whether one call is in the window `TIMES` times."""
    return any(count >= TIMES for count in Counter(recent).values())
