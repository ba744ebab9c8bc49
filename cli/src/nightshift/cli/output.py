"""How the command talks: data on stdout and nothing else there; progress and errors on stderr.

Data is written plainly and never through a rich console, which would wrap and colour what a script reads.
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

# Escape sequences (CSI, OSC and its kin, two-byte ones), then what is left of C0, DEL and C1, and characters
# that hide or turn text around: a build's text is written by a model or a stranger and must not steer a terminal.
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


def ready_streams() -> None:
    """Make the standard streams fit for use, whatever the shell gave us.

    One that was closed (`>&-`) leads nowhere from now on; its number must not go to the next file that is opened. One
    of a locale that lacks a character shows `?` in its place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we live
        elif mode == "w":
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """The text without what steers a terminal; new lines and tabs stay, lone surrogates become `?`."""
    return _UNSAFE.sub("", text).encode("utf-8", "replace").decode("utf-8")


def write_json(value: Any) -> None:
    """One JSON value on one line of stdout, at once: for `--json`. Times are written in ISO 8601."""
    sys.stdout.write(json.dumps(value, default=_json_default) + "\n")
    sys.stdout.flush()


def write_line(text: str = "") -> None:
    """One line of data for a person, made safe for the terminal."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under their column names, aligned by the width each character takes on a terminal.

    On a terminal a row is one line, cut where it is too long; into a pipe or a file it is written whole.
    """
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True))
        write_line(_fitting("  ".join(padded).rstrip(), room))


def write_fields(fields: Mapping[str, object]) -> None:
    """One thing, a field a line: the name, then its value."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        write_line(f"{name + ':':<{width + 1}}  {_cell(value)}".rstrip())


def note(text: str) -> None:
    """Something a person should know beside the data; on stderr. Whether anybody hears it changes nothing."""
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except OSError:  # the terminal was closed, or who read the pipe is gone
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """From now on what is written there goes nowhere, and fails no more: also what it still holds."""
    with contextlib.suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def progress(text: str) -> None:
    """What is going on right now; only where somebody is looking."""
    if sys.stderr.isatty():
        note(text)


def report_error(message: str, hint: str | None = None) -> None:
    """What was not done and why, then what to do about it, a line each; on stderr."""
    note(f"error: {_one_line(message)}")
    if hint:
        note(f"hint: {_one_line(hint)}")


def _fitting(line: str, room: int | None) -> str:
    if room is None or cell_len(line) <= room:
        return line
    return set_cell_size(line, max(room - 1, 0)) + "…"


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
