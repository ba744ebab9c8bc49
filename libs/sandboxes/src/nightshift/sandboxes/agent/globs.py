"""Glob patterns by the rules of ripgrep and .gitignore. Matching takes linear time for any number of stars."""

from __future__ import annotations

import re
from typing import NamedTuple

from .wire import Refusal

_MOST_ALTERNATIVES = 1000
_POSIX = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9A-Fa-f",
}
_CLASS = re.compile(r"\[[!^]?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)
_NOTHING = re.compile(r"(?!)")
_NAMED_CLASS = re.compile(r"\[:(\w+):\]")


class Glob(NamedTuple):
    """A compiled glob pattern: its alternatives, each a list of path segments. A path matches when one alternative
    does.

    A segment None stands for `**`, any number of directories.
    """

    alternatives: list[list[re.Pattern[str] | None]]

    def match(self, path: str) -> bool:
        parts = path.split("/")
        return any(_match(segments, parts) for segments in self.alternatives)


def _match(segments: list[re.Pattern[str] | None], parts: list[str]) -> bool:
    """Return whether the segments match all parts of a path.

    After a mismatch the last `**` takes one more directory, and matching goes on from there. Earlier `**` need no
    retry.
    """
    at, part, star, resume = 0, 0, -1, 0
    while part < len(parts):
        segment = segments[at] if at < len(segments) else _NOTHING
        if segment is None:
            star, resume, at = at, part, at + 1
        elif segment.match(parts[part]):
            at, part = at + 1, part + 1
        elif star >= 0:
            resume += 1
            at, part = star + 1, resume
        else:
            return False
    return all(segment is None for segment in segments[at:])


def compile_glob(pattern: str, brackets: bool = True) -> Glob:
    """Compile a pattern. A pattern without `/` matches a name at any depth. Raises Refusal for a wrong pattern.

    Unless `brackets`, `[` is an ordinary character.
    """
    return Glob([_segments(one, brackets) for one in _expanded(pattern)])


def has_class(pattern: str) -> bool:
    return _CLASS.search(pattern) is not None


def _segments(pattern: str, brackets: bool) -> list[re.Pattern[str] | None]:
    names = [name for name in _split(pattern, brackets) if name not in ("", ".")]
    anchored = len(names) > 1 or pattern.startswith(("/", "./"))
    if pattern.endswith("/"):
        names.append("**")
    segments: list[re.Pattern[str] | None] = [] if anchored else [None]
    for name in names:
        if name != "**":
            segments.append(_segment(name, brackets))
        elif not segments or segments[-1] is not None:
            segments.append(None)
    if names and names[-1] == "**":
        segments.append(_segment("*", brackets))  # what is below, not the directory itself
    return segments


def _split(pattern: str, brackets: bool) -> list[str]:
    """Split a pattern at each `/`. If `brackets`, not at a `/` within a bracket expression."""
    if not brackets:
        return pattern.split("/")
    kept = _CLASS.sub(lambda found: found[0].replace("/", "\0"), pattern)
    return [name.replace("\0", "/") for name in kept.split("/")]


def _segment(name: str, brackets: bool) -> re.Pattern[str]:
    """Compile one path segment to a regular expression. If `brackets` is False, `[` is an ordinary character.

    Between two stars only the shortest match is tried, so that matching takes linear time.
    """
    chunks, chunk, rest = [], "", name
    while rest:
        found = _CLASS.match(rest) if brackets else None
        if rest[0] == "*":
            chunks.append(chunk)
            chunk, rest = "", rest.lstrip("*")
        elif found:
            chunk, rest = chunk + _class(found[0]), rest[found.end() :]
        elif rest[0] == "\\" and len(rest) > 1:
            chunk, rest = chunk + re.escape(rest[1]), rest[2:]
        else:
            chunk, rest = chunk + ("." if rest[0] == "?" else re.escape(rest[0])), rest[1:]
    text = "".join(
        [*chunks[:1], *(f"(?=(?P<s{n}>.*?{one}))(?P=s{n})" for n, one in enumerate(chunks[1:], 1))]
    )
    text += (".*" if chunks else "") + chunk
    try:
        return re.compile(text + r"\Z", re.DOTALL)
    except re.error as error:
        raise Refusal("invalid", f"not a glob pattern: {name}: {error}") from None


def _class(text: str) -> str:
    inside = text[1:-1]
    negated = inside[:1] in ("!", "^")
    inside = inside[1:] if negated else inside
    named = "".join(posix_class(name) for name in _NAMED_CLASS.findall(inside))
    inside = re.sub(r"[\\\[\]&~|^]", r"\\\g<0>", re.sub(r"\\(.)", r"\1", _NAMED_CLASS.sub("", inside)))
    return "[" + ("^" if negated else "") + named + inside + "]"


def posix_class(name: str) -> str:
    """Return the characters of the POSIX class `[:name:]`, in the form for a character class of Python's `re`.

    Raises Refusal for an unknown name.
    """
    if name not in _POSIX:
        raise Refusal("invalid", f"there is no class [:{name}:]; there are: {', '.join(_POSIX)}")
    return _POSIX[name]


def _expanded(pattern: str) -> list[str]:
    """Return the alternatives that the braces of a pattern describe, also nested.

    An unpaired brace is an ordinary character.
    """
    done, left = [], [pattern]
    while left:
        one = left.pop(0)
        found = _innermost(one)
        if found is None:
            done.append(one)
        else:
            start, end = found
            left = [
                one[:start] + choice + one[end + 1 :] for choice in one[start + 1 : end].split(",")
            ] + left
        if len(done) + len(left) > _MOST_ALTERNATIVES:
            raise Refusal("invalid", f"the braces stand for more than {_MOST_ALTERNATIVES} patterns")
    return done


def _innermost(pattern: str) -> tuple[int, int] | None:
    """Return the positions of the first pair of braces that contains no brace, or None when there is no pair."""
    start, skip = -1, False
    for at, character in enumerate(pattern):
        if skip:
            skip = False
        elif character == "\\":
            skip = True
        elif character == "{":
            start = at
        elif character == "}" and start >= 0:
            return start, at
    return None
