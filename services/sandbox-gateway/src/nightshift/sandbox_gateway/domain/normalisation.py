"""Replaces parts of a tool's output that differ in every run, such as durations, and reports what it replaced."""

import re
from typing import Final

#: Name → (pattern, replacement). Dates and times are not replaced: output that contains them cannot be reproduced.
_VARYING: Final = {
    # A wheel contains the times of its files.
    "digest of a built wheel": (
        re.compile(r"(Created wheel for \S+: filename=\S+ size=\d+ sha256=)[0-9a-f]{64}"),
        r"\1<digest>",
    ),
    "duration": (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|milliseconds|s|sec|secs|seconds)\b(?!-)"), "<duration>"),
    "address": (re.compile(r"\b0x[0-9a-f]{6,16}\b"), "<address>"),
    "local port": (re.compile(r"(127\.0\.0\.1|localhost|0\.0\.0\.0):\d{2,5}\b"), r"\1:<port>"),
    "process id": (re.compile(r"(?i)\b(pid|process)([ :=]+)\d+\b"), r"\1\2<pid>"),
    "temporary path": (re.compile(r"/tmp/[\w.-]*\w{6,}"), "<temporary path>"),  # noqa: S108
}


def normalised(output: str) -> tuple[str, frozenset[str]]:
    """Return the output with each varying part, such as a duration, replaced by a fixed word. Also returns the names of
    the replaced parts.
    """
    found: set[str] = set()
    for name, (pattern, replacement) in _VARYING.items():
        output, count = pattern.subn(replacement, output)
        if count:
            found.add(name)
    return output, frozenset(found)


def first_difference(recorded: str, redriven: str) -> str | None:
    """Return the first line in which two outputs differ, in both versions, or None when the outputs are equal."""
    if recorded == redriven:
        return None
    then, now = recorded.splitlines(), redriven.splitlines()
    for number in range(max(len(then), len(now))):
        one = then[number] if number < len(then) else "(no such line)"
        two = now[number] if number < len(now) else "(no such line)"
        if one != two:
            return f"line {number + 1}: recorded {_shown(one)}, now {_shown(two)}"
    return "the line endings differ"


def _shown(line: str) -> str:
    return repr(line if len(line) <= 160 else f"{line[:159]}…")
