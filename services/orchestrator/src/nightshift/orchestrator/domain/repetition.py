"""Detects an agent that is stuck: the same call has the same result, or different calls have the same error, too often.

A call with a new result is progress. So an agent may poll a job, or edit files and run the tests, because it gets new
results. Any other new call between the repeated ones is progress, too.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Bash
from nightshift.orchestrator.domain.state import RecentCall, ToolCall

#: The number of turns whose calls are compared, and the most calls.
WINDOW, _MOST_CALLS = 10, 60
TIMES = 3
#: The digest of a call that never counts as repeated.
NEVER_COUNTS = ""

#: The fields of a tool's input that identify a call best, in this order.
_TELLING = ("command", "file_path", "pattern", "port", "path")
#: The most characters of a call and of an error in a message.
_SHOWN_CALL = 80
_SHOWN_ERROR = 240
_NAMES_AN_ERROR = re.compile(
    r"error|exception|fatal|failed|denied|refused|not found|no such|cannot|can't|unable|invalid|timed out",
    re.I,
)
_WORD = re.compile(r"[^\W\d_]{3}")
_EXIT_CODE = re.compile(r"\[(?:ended at once, )?exit code -?\d+\]|\[stderr\]")
#: What may differ between two occurrences of the same error, each with its replacement.
_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)[0-9a-f]{8,64}\b"), "<id>"),
    (re.compile(r"[\w.@~+-]*(?:/[\w.@~+-]+)+/?|\B/\B"), "<path>"),
    (re.compile(r"\b[\w-]+\.(?:[a-z]{1,4}|html|json|toml|yaml)\b(?!\()"), "<path>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


def call_digest(tool: str, given: Mapping[str, Any] | BlobRef) -> str:
    """Return a digest of tool and input, or "" for a read of a background command, which never counts as repeated."""
    if tool == Bash.tool and not isinstance(given, BlobRef) and given.get("action") == "read":
        return NEVER_COUNTS
    return _digest(tool, given.ref if isinstance(given, BlobRef) else canonical.dumps(given))


def call_in_words(tool: str, given: Mapping[str, Any] | BlobRef) -> str:
    """Return tool and input in at most 80 characters, for the messages about repetition."""
    fields = {} if isinstance(given, BlobRef) else given
    text = next((str(fields[name]) for name in _TELLING if name in fields), "")
    return _short(f"{tool} {text}", _SHOWN_CALL)


def remember(
    recent: tuple[RecentCall, ...], call: ToolCall, result: ToolCallCompleted
) -> tuple[RecentCall, ...]:
    """Return the recent calls and this call with its result, without the calls before the last `WINDOW` turns.

    A call that never counts as repeated is not added.
    """
    if call.digest == NEVER_COUNTS:
        return recent
    blocks = result.blocks.ref if isinstance(result.blocks, BlobRef) else canonical.dumps(result.blocks)
    newest = RecentCall(
        call.digest,
        (result.is_error, result.exit_code, result.output, blocks),
        turn=call.call_id.rpartition("/")[0],
        words=call.words,
        line=_telling_line(result),
        error=_error(result),
    )
    calls = (*recent, newest)
    turns = list(dict.fromkeys(one.turn for one in calls))[-WINDOW:]
    return tuple(one for one in calls if one.turn in turns)[-_MOST_CALLS:]


def is_progress(newest: RecentCall, earlier: Collection[RecentCall]) -> bool:
    """Return True when the newest call was made before, and its newest result differs from all earlier ones."""
    return any(one.call == newest.call for one in earlier) and newest not in earlier


def repeats(recent: tuple[RecentCall, ...]) -> bool:
    """Return whether these recent calls show that the agent is stuck."""
    return evidence(recent) is not None


def evidence(recent: tuple[RecentCall, ...]) -> str | None:
    """Return the calls that show that the agent is stuck, and their results. Returns None when it is not stuck.

    The agent is stuck when a call has the same result `TIMES` times, or when different calls in `TIMES` turns have the
    same error. A call between them is progress when it occurs only once and does not fail in the same way.
    """
    counts = Counter(recent)
    repeated = [one for one, count in counts.items() if count >= TIMES and not _news(recent, one, counts)]
    if repeated:
        calls = dict.fromkeys(f"`{one.words}`" for one in recent if counts[one] > 1)
        how = f"{TIMES} times" if len(calls) == 1 else "each time, one after the other"
        return f"{' and '.join(calls)} returned the same {how}: {repeated[0].line or '(no output)'}"
    if not recent or not recent[-1].error:
        return None
    failed = _last_failures(recent, counts)
    turns, calls_made = {one.turn for one in failed}, {one.call for one in failed}
    if len(turns) < TIMES or len(calls_made) < TIMES:
        return None
    names = ", ".join(dict.fromkeys(f"`{one.words}`" for one in failed[-TIMES:]))
    return f"{names} failed with the same error: {recent[-1].line}"


def _last_failures(recent: Sequence[RecentCall], counts: Counter[RecentCall]) -> list[RecentCall]:
    """Return the calls that failed with the same error as the newest call, the oldest first.

    Stops at the newest call that did not fail like this and occurs only once, because such a call is progress.
    """
    found = []
    for one in reversed(recent):
        if one.error == recent[-1].error:
            found.append(one)
        elif counts[one] == 1:
            break
    return found[::-1]


def _news(recent: tuple[RecentCall, ...], repeated: RecentCall, counts: Counter[RecentCall]) -> bool:
    indexes = [index for index, other in enumerate(recent) if other == repeated][-TIMES:]
    return any(counts[other] == 1 for other in recent[indexes[0] : indexes[-1]])


def _error(result: ToolCallCompleted) -> str:
    """Return the error without numbers, paths, times and addresses, or "" when the output does not say what failed."""
    text = _telling_line(result).lower() if result.is_error else ""
    if not _WORD.search(text):
        return ""
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    return f"{result.error_kind}: {text}"


def _telling_line(result: ToolCallCompleted) -> str:
    """Return the line of a result's output that says most: its last line, or the last line that names an error.

    The error is looked for only in the output of a failed call. Returns "" when there is no output.
    """
    last = ""
    for line in _lines_from_the_end("" if isinstance(result.output, BlobRef) else result.output):
        last = last or line
        if not result.is_error or _NAMES_AN_ERROR.search(line):
            return _short(line, _SHOWN_ERROR)
    return _short(last, _SHOWN_ERROR)


def _lines_from_the_end(output: str) -> Iterator[str]:
    """Yield the lines that are not empty, from the last one backwards. Reads only as much as the caller needs."""
    end = len(output)
    while end >= 0:
        begin = output.rfind("\n", 0, end)
        for line in reversed(_EXIT_CODE.sub("", output[begin + 1 : end]).splitlines()):
            if line := line.strip():
                yield line
        end = begin


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
