"""Detects an agent that repeats itself: the same call with the same result, three times in a window of ten.

A call with a new result is progress: an agent that polls a job, or edits and runs the tests, gets new results. So is
any other new call between the repeated ones.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Bash
from nightshift.orchestrator.domain.state import RecentCall

WINDOW = 10
TIMES = 3
#: The digest of a call that never counts as repeated.
NEVER_COUNTS = ""


def call_digest(tool: str, given: Mapping[str, Any] | BlobRef) -> str:
    """Return a digest of tool and input. Returns "" for reading a background command, which never counts."""
    if tool == Bash.tool and not isinstance(given, BlobRef) and given.get("action") == "read":
        return NEVER_COUNTS
    return _digest(tool, given.ref if isinstance(given, BlobRef) else canonical.dumps(given))


def remember(recent: tuple[RecentCall, ...], call: str, result: ToolCallCompleted) -> tuple[RecentCall, ...]:
    """Return the recent calls after one more result: at most `WINDOW`."""
    if call == NEVER_COUNTS:
        return recent
    shown = (result.output, result.blocks)
    texts = [part.ref if isinstance(part, BlobRef) else canonical.dumps(part) for part in shown]
    outcome = _digest(str(result.is_error), str(result.exit_code), *texts)
    return (*recent, RecentCall(call, outcome))[-WINDOW:]


def is_progress(newest: RecentCall, earlier: Collection[RecentCall]) -> bool:
    """Return whether this call was made before, with other results only."""
    return any(one.call == newest.call for one in earlier) and newest not in earlier


def repeats(recent: tuple[RecentCall, ...]) -> bool:
    """Return whether a call has the same result `TIMES` times, without a call between them that occurs only once."""
    counts = Counter(recent)
    return any(not _news(recent, one, counts) for one, count in counts.items() if count >= TIMES)


def _news(recent: tuple[RecentCall, ...], repeated: RecentCall, counts: Counter[RecentCall]) -> bool:
    indexes = [index for index, other in enumerate(recent) if other == repeated][-TIMES:]
    return any(counts[other] == 1 for other in recent[indexes[0] : indexes[-1]])


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
