"""When an agent goes round in circles: the same tool with the same input, three times in a window of ten, and nothing
new between them.

Whoever edits and runs the tests, edits and runs the tests, makes the same call again and again, and gets on: each edit
is a call that was not made before.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Bash

WINDOW = 10
TIMES = 3


def remember(recent: tuple[str, ...], tool: str, given: Mapping[str, Any] | BlobRef) -> tuple[str, ...]:
    """The window after one more call. To look at what runs in the background is to wait, which is no circle."""
    if tool == Bash.tool and not isinstance(given, BlobRef) and given.get("action") == "read":
        return recent
    text = given.ref if isinstance(given, BlobRef) else canonical.dumps(given)
    digest = hashlib.sha256(f"{tool}\n{text}".encode()).hexdigest()[:32]
    return (*recent, digest)[-WINDOW:]


def repeats(recent: tuple[str, ...]) -> bool:
    """Whether one call is in the window `TIMES` times, without a call between them that is there only once."""
    counts = Counter(recent)
    return any(not _news(recent, call, counts) for call, count in counts.items() if count >= TIMES)


def _news(recent: tuple[str, ...], call: str, counts: Counter[str]) -> bool:
    places = [place for place, other in enumerate(recent) if other == call][-TIMES:]
    return any(counts[other] == 1 for other in recent[places[0] : places[-1]])
