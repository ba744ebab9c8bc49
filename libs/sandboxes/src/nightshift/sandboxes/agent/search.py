"""Finds files by name and lines by pattern. SIGALRM ends the process of a search that takes too long."""

from __future__ import annotations

import heapq
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

from .confined_paths import READ, Root
from .files import stat_path, walk
from .wire import Refusal

_SKIP = ["node_modules", ".git", "__pycache__", ".venv"]
_MAX_LINE = 1000
_MAX_FILE = 8 * 1024 * 1024


def pattern_to_regex(pattern: str) -> re.Pattern[str]:
    """Compile a glob pattern. `**` crosses directories; `*`, `?` and `[…]` do not. Raises Refusal when it is wrong."""
    out, rest = "", pattern.lstrip("/")
    rest = rest[2:] if rest.startswith("./") else rest
    while rest:
        if rest.startswith("**/"):
            out, rest = out + "(?:[^/]+/)*", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        elif rest[0] == "*":
            out, rest = out + "[^/]*", rest[1:]
        elif rest[0] == "?":
            out, rest = out + "[^/]", rest[1:]
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inside = rest[1:end].replace("\\", "\\\\")
            out, rest = out + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", rest[end + 1 :]
        elif rest[0] == "{" and "}" in rest:
            end = rest.index("}")
            out, rest = out + "(?:" + "|".join(map(re.escape, rest[1:end].split(","))) + ")", rest[end + 1 :]
        else:
            out, rest = out + re.escape(rest[0]), rest[1:]
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise Refusal("invalid", f"not a glob pattern: {error}") from None


def find(root: Root, path: str, pattern: str, limit: int) -> dict[str, Any]:
    """The newest `limit` files and symlinks whose path matches, and the number of all that match."""
    regex, total = pattern_to_regex(pattern), 0

    def matching() -> Iterator[dict[str, Any]]:
        nonlocal total
        for entry, _, _ in walk(root, path, [] if ".git" in pattern or "node_modules" in pattern else _SKIP):
            if entry["kind"] in ("file", "symlink") and regex.fullmatch(entry["path"]):
                total += 1
                yield entry

    newest = heapq.nlargest(limit, matching(), key=lambda entry: entry["mtime_ns"])
    return {"entries": newest, "total": total}


def grep(
    root: Root, path: str, pattern: str, *, glob: str, ignore_case: bool, limit: int, seconds: int
) -> dict[str, Any]:
    """Find lines that match in text files. SIGALRM ends the process after `seconds`."""
    try:
        regex = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise Refusal("invalid", f"not a regular expression: {error}") from None
    names = pattern_to_regex(glob)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    matches: list[dict[str, Any]] = []
    for name, text in _texts(root, path, names):
        for number, line in enumerate(text.split("\n"), 1):
            if regex.search(line):
                if len(matches) == limit:
                    return {"matches": matches, "more": True}
                matches.append({"path": name, "line": number, "text": line[:_MAX_LINE]})
    return {"matches": matches, "more": False}


def _texts(root: Root, path: str, names: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    found = stat_path(root, path)
    if found is not None and found["kind"] == "file":
        yield path, _text(root.open(path, os.O_RDONLY)) or ""
        return
    for entry, parent, name in walk(root, path, _SKIP):
        if entry["kind"] != "file" or entry["size"] > _MAX_FILE or not names.fullmatch(entry["path"]):
            continue
        try:
            handle = os.open(name, READ, dir_fd=parent)
        except OSError:
            continue
        text = _text(handle)
        if text is not None:
            yield entry["path"], text


def _text(handle: int) -> str | None:
    with os.fdopen(handle, "rb") as file:
        data = file.read(_MAX_FILE)
    return None if b"\0" in data[:8192] else data.decode("utf-8", "replace")
