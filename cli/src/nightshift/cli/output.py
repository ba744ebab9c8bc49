"""Writes data to stdout, and progress, notes and errors to stderr.

Data never goes through rich's console, which would wrap and colour what a script reads.
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size

# Escape sequences (CSI, OSC and similar, two-byte ones), then the remaining characters of C0, DEL and C1, and
# characters that hide or reverse text. The texts of a build come from a model or a stranger and must not control a
# terminal.
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


def ready_streams() -> None:
    """Makes the standard streams usable, even when the shell closed them or their encoding lacks characters.

    A closed stream is replaced by the null device. Otherwise the next opened file would get its file descriptor. A
    character that the encoding lacks is written as `?`.
    """
    # In the order of their file descriptors.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we live
        elif mode == "w":
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """Returns the text without escape sequences. Line breaks and tabs stay; lone surrogates become `?`."""
    return _UNSAFE.sub("", text).encode("utf-8", "replace").decode("utf-8")


def write_json(value: Any) -> None:
    """Writes one JSON value as one line to stdout and flushes it. Times are in ISO 8601."""
    sys.stdout.write(json.dumps(value, default=_json_default) + "\n")
    sys.stdout.flush()


def write_line(text: str = "") -> None:
    """Writes one line for a person to stdout, without escape sequences."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def write_result(value: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """Writes the result of a command. If `as_json`, writes the value to stdout, otherwise the text to stderr."""
    if as_json:
        write_json(value)
    else:
        note(text)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes rows below their column names. Columns are aligned.

    On a terminal each row is cut to one line. Into a pipe or file it is written as a whole.
    """
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True))
        whole = "  ".join(padded).rstrip()
        write_line(whole if cell_len(whole) <= room else set_cell_size(whole, max(room - 1, 0)) + "…")


def write_fields(fields: Mapping[str, object]) -> None:
    """Writes a field per line: its name, then its value."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        write_line(f"{name + ':':<{width + 1}}  {_cell(value)}".rstrip())


def note(text: str) -> None:
    """Writes a note for a person to stderr. Does nothing when stderr is closed."""
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except OSError:  # the terminal was closed, or the reader of the pipe has exited
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Redirects the stream to the null device, so that later writes to it cannot fail."""
    with contextlib.suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def progress(text: str) -> None:
    """Writes a progress message to stderr, if stderr is a terminal."""
    if sys.stderr.isatty():
        note(text)


def report_error(message: str, hint: str | None = None) -> None:
    """Writes two lines to stderr: what failed and why, then what to do."""
    note(f"error: {_one_line(message)}")
    if hint:
        note(f"hint: {_one_line(hint)}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return _one_line(printable(str(value)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _json_default(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
