"""Searches lines of files for a regular expression in the syntax of ripgrep."""

from __future__ import annotations

import codecs
import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

from .globs import posix_class
from .wire import Refusal

_SHOWN = 1000
_BEFORE = 200
#: The most bytes of a line, and of a file that is searched as one text: in another encoding, or across lines.
_MOST_BYTES = 64 * 1024 * 1024
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMED = 5
_TOKEN = re.compile(
    r"\[:(?P<posix>\w+):\]|\\x\{(?P<hex>[0-9A-Fa-f]+)\}|\\(?P<escape>.)|\(\?<(?P<name>[A-Za-z_]\w*)>"
    r"|(?P<set>&&|--|~~)|(?P<open>\[\^?\]?)|(?P<close>\])",
    re.DOTALL,
)


def compile_regex(pattern: str, ignore_case: bool, multiline: bool) -> re.Pattern[str]:
    r"""Compile a pattern in ripgrep's syntax, with POSIX classes, `\<`, `\>` and `\z`, for Python's `re`.

    If `multiline`, `.` matches line breaks too. Raises Refusal for a pattern that Python cannot express.
    """
    flags = (re.IGNORECASE if ignore_case else 0) | (re.MULTILINE | re.DOTALL if multiline else 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(_translated(pattern), flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise Refusal("invalid", f"not a regular expression: {error}") from None


def _translated(pattern: str) -> str:
    out, end, inside = [], 0, False
    for found in _TOKEN.finditer(pattern):
        out.append(pattern[end : found.start()])
        end, text = found.end(), found[0]
        if found["posix"] is not None:
            text = posix_class(found["posix"]) if inside else text
        elif found["hex"] is not None:
            text = re.escape(chr(min(int(found["hex"], 16), 0x10FFFF)))
        elif found["escape"] is not None:
            text = _escape(found["escape"], text, inside)
        elif found["name"] is not None:
            text = text if inside else f"(?P<{found['name']}>"
        elif found["set"] is not None and inside:
            if found["set"] != "--":
                raise Refusal("invalid", f"{found['set']} in a class is not supported; write the class out")
        elif found["open"] is not None:
            if inside:
                end, text = found.start() + 1, "\\["
            inside = True
        elif found["close"] is not None:
            inside = False
        out.append(text)
    return "".join([*out, pattern[end:]])


def _escape(letter: str, text: str, inside: bool) -> str:
    if letter in "pP":
        raise Refusal(
            "invalid", f"{text} (Unicode classes) is not supported; use \\w or a class such as [[:alpha:]]"
        )
    if inside:
        return text
    return {"<": r"\b(?=\w)", ">": r"\b(?<=\w)", "z": r"\Z", "h": r"[ \t]"}.get(letter, text)


class Query:
    """A search of lines: its pattern, how many rows it must still skip, and how many it may still return.

    A row is one result: a line, or a file with its number of matching lines. `more` is set when the limit left out a
    row. `notes` tells the caller, for example, which files could not be read.
    """

    def __init__(self, ask: dict[str, Any]) -> None:
        self._regex = compile_regex(ask["pattern"], ask["ignore_case"], ask["multiline"])
        self._mode: str = ask["mode"]
        self._before, self._after = int(ask["before"]), int(ask["after"])
        self._multiline = bool(ask["multiline"])
        self._skip, self._left = int(ask["offset"]), int(ask["limit"])
        self.more = False
        self.unreadable: list[str] = []
        self._binary: list[str] = []
        self._partly: list[str] = []

    def notes(self) -> list[str]:
        notes = []
        for what, paths in (
            ("binary files that match", self._binary),
            (f"searched only in their first {_MOST_BYTES} bytes", self._partly),
            ("cannot be read", self.unreadable),
        ):
            if paths:
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                notes.append(f"{what}: {', '.join(paths[:_NAMED])}{more}")
        return notes

    def search(self, handle: int, path: str, rows: list[dict[str, Any]]) -> None:
        """Search one open file and append the results to `rows`. Closes the handle.

        Raises Refusal unless it is a regular file. A binary file gives no rows; if it matches, a note names it.
        """
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refusal("invalid", f"{path}: is not a regular file")
            head = file.read(8192)
            file.seek(0)
            mark = next((mark for mark in _MARKS if head.startswith(mark[0])), None)
            if mark is None and b"\0" in head:
                if self._regex.search(self._whole(file, path, "utf-8")):
                    self._binary.append(path)
            elif self._multiline:
                self._blocks(self._whole(file, path, mark[1] if mark else "utf-8"), path, rows)
            else:
                lines = self._whole(file, path, mark[1]).splitlines() if mark else _lines(file)
                self._one_by_one(lines, path, rows)

    def _whole(self, file: BinaryIO, path: str, encoding: str) -> str:
        data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            self._partly.append(path)
        return _decoded(data[:_MOST_BYTES], encoding).replace("\r\n", "\n")

    def _one_by_one(self, lines: Iterator[str] | list[str], path: str, rows: list[dict[str, Any]]) -> None:
        behind: deque[tuple[int, str]] = deque(maxlen=self._before)
        follow = count = 0
        for number, ended in enumerate(lines, 1):
            line = ended[:-1] if ended.endswith("\r") else ended
            found = self._regex.search(line)
            if found is None:
                if follow:
                    rows.append(_row(path, number, _around(line, 0), True))
                    follow -= 1
                elif self._before:
                    behind.append((number, line))
                continue
            count += 1
            if self._mode == "files_with_matches":
                break
            if self._mode == "content" and self._takes():
                rows += [_row(path, at, _around(text, 0), True) for at, text in behind]
                rows.append(_row(path, number, _around(line, found.start()), False))
                behind.clear()
                follow = self._after
            if self.more:
                return
        self._sum(path, count, rows)

    def _blocks(self, text: str, path: str, rows: list[dict[str, Any]]) -> None:
        """Search a file as one text, so that a match may span several lines. Each line of a match becomes a row."""
        lines = (text[:-1] if text.endswith("\n") else text).split("\n")
        count, number, at, shown = 0, 1, 0, 0
        for found in self._regex.finditer(text):
            count += 1
            if self._mode == "files_with_matches":
                break
            if self._mode != "content":
                continue
            first = number + text.count("\n", at, found.start())
            last = first + text.count("\n", found.start(), max(found.start(), found.end() - 1))
            number, at = first, found.start()
            if not self._takes():
                if self.more:
                    return
                continue
            for line in range(
                max(first - self._before, shown + 1, 1), min(last + self._after, len(lines)) + 1
            ):
                rows.append(_row(path, line, _around(lines[line - 1], 0), not first <= line <= last))
                shown = line
        self._sum(path, count, rows)

    def _sum(self, path: str, count: int, rows: list[dict[str, Any]]) -> None:
        if count and self._mode != "content" and self._takes():
            rows.append({"path": path, "count": count})

    def _takes(self) -> bool:
        """Count the next row, and return whether to add it.

        The first rows are skipped, and those beyond the limit are left out.
        """
        if self._skip:
            self._skip -= 1
            return False
        if not self._left:
            self.more = True
            return False
        self._left -= 1
        return True


def _lines(file: BinaryIO) -> Iterator[str]:
    while True:
        data = file.readline(_MOST_BYTES)
        if not data:
            return
        if file.tell() <= len(data):
            data = data[3:] if data.startswith(codecs.BOM_UTF8) else data
        yield _decoded(data[:-1] if data.endswith(b"\n") else data, "utf-8")


def _decoded(data: bytes, encoding: str) -> str:
    if encoding != "utf-8":
        return data.decode(encoding, "replace")[1:]  # without the byte order mark
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _row(path: str, line: int, text: str, context: bool) -> dict[str, Any]:
    return {"path": path, "line": line, "text": text, "context": context}


def _around(line: str, at: int) -> str:
    """Return the part of a long line around position `at`, with a note at each end where the line was cut."""
    if len(line) <= _SHOWN:
        return line
    start = 0 if at < _SHOWN - _BEFORE else at - _BEFORE
    end = start + _SHOWN
    before = f"[... {start} characters cut] " if start else ""
    after = f" [... {len(line) - end} characters cut]" if len(line) > end else ""
    return before + line[start:end] + after
