#!/usr/bin/env python3
"""Records `nightshift demo` in a terminal: docs/demo.cast (asciicast v2) and docs/demo.svg, drawn from it.

record_demo.py          run the demo and write both (a minute)
record_demo.py --svg    only draw docs/demo.svg again from docs/demo.cast
"""

import argparse
import codecs
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CAST, SVG = ROOT / "docs" / "demo.cast", ROOT / "docs" / "demo.svg"
COLUMNS, ROWS = 100, 28
#: A pause of the recording that is longer, in seconds, is shown this long.
LONGEST_PAUSE = 1.5
#: Seconds that the last picture stays before the drawing begins again.
HOLD = 6.0

Event = tuple[float, str]

#: The demo's own folder is a new one each time; everybody sees the same here.
_HOME = re.compile(r"\S*/nightshift-demo-[A-Za-z0-9_]+")
_STYLES = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y", "36": "c"}
_TITLE = "nightshift demo: an agent builds a web app, sleeps when the day's money is gone, and wakes"
_STYLE_SHEET = (
    "text{fill:#d8dee9;white-space:pre}.b{font-weight:bold}.d{fill:#8a93a6}.r{fill:#e06c75}.g{fill:#98c379}"
    ".y{fill:#e5c07b}.c{fill:#56b6c2}"
)
_CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])")


def record(command: Sequence[str]) -> list[Event]:
    """Run a command in a terminal of its own; returns what it wrote, with seconds since the start.

    Raises CalledProcessError when the command fails.
    """
    hidden = ("NIGHTSHIFT_", "ANTHROPIC_", "E2B_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=inside,
        stderr=inside,
        env={**environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
    )
    os.close(inside)
    began, events = time.monotonic(), list[Event]()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := _read(terminal):
        events.append(
            (round(time.monotonic() - began, 3), _HOME.sub("a folder of its own", decoder.decode(data)))
        )
    os.close(terminal)
    if code := process.wait():
        raise subprocess.CalledProcessError(code, command)
    return events


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux: nobody has the other side open any more
        return b""


@dataclass
class Row:
    """One row of the terminal: pieces of text with their styles, and when it was last written to."""

    pieces: list[tuple[str, str]] = field(default_factory=list)
    at: float = 0.0


class Terminal:
    """As much of a terminal as the demo uses: colours, the start of a row, one row up, erase a row.

    Rows are never scrolled away: at the end they are the whole transcript.
    """

    def __init__(self) -> None:
        self.rows = [Row()]
        self._row = 0
        self._fresh = True  # nothing was written since the cursor went to the start of the row
        self._style = ""

    def feed(self, at: float, text: str) -> None:
        """Take what was written at this second."""
        end = 0
        for found in _CONTROL.finditer(text):
            self._write(at, text[end : found.start()])
            end = found.end()
            self._control(at, found)
        self._write(at, text[end:])

    def _control(self, at: float, found: "re.Match[str]") -> None:
        match found[3] or found[2]:
            case "\r":
                self._fresh = True
            case "\n":
                self._row += 1
                if self._row == len(self.rows):
                    self.rows.append(Row(at=at))
            case "A":
                self._row = max(0, self._row - int(found[1] or 1))
            case "K":
                self.rows[self._row] = Row(at=at)
            case "m":
                codes = [code for code in (found[1] or "0").split(";") if code in _STYLES]
                self._style = " ".join(_STYLES[code] for code in codes)

    def _write(self, at: float, text: str) -> None:
        if not text:
            return
        if self._fresh:
            self.rows[self._row] = Row()
            self._fresh = False
        row = self.rows[self._row]
        row.pieces.append((self._style, text))
        row.at = at


def transcript(events: Iterable[Event]) -> list[Row]:
    """Return the rows that stand in the end, each with the second of its last change."""
    terminal = Terminal()
    for at, text in events:
        terminal.feed(at, text)
    rows = terminal.rows
    while rows and not "".join(text for _, text in rows[-1].pieces).strip():
        rows.pop()
    return rows


def shortened(rows: Sequence[Row]) -> Iterator[float]:
    """Yield when each row is shown, in seconds, with long pauses made short. Never earlier than the row before."""
    shown, before = 0.0, 0.0
    for row in rows:
        shown += min(max(row.at - before, 0.0), LONGEST_PAUSE)
        before = max(row.at, before)
        yield shown


def draw(rows: Sequence[Row]) -> str:
    """Return an SVG in which the rows come up one after the other, again and again. It needs no script."""
    height, size = 17, 14
    times = list(shortened(rows))
    total = times[-1] + HOLD
    lines = "\n".join(
        f'<text y="{(number + 1) * height}">{_spans(row)}</text>' for number, row in enumerate(rows)
    )
    offsets = [(ROWS - number - 1) * height for number in range(len(rows))]
    values = ";".join(f"0 {min(offset, 0)}" for offset in offsets)
    moments = ";".join(f"{at / total:.4f}" for at in [0.0, *times[1:]])
    covers = ";".join(str((number + 1) * height) for number in range(len(rows)))
    width, tall = COLUMNS * 8 + 24, ROWS * height + 24
    timing = f'calcMode="discrete" dur="{total:.1f}s" repeatCount="indefinite" keyTimes="{moments}"'
    page = f'viewBox="0 0 {width} {tall}" font-family="ui-monospace,monospace" font-size="{size}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" {page}>
<title>{_TITLE}</title>
<style>{_STYLE_SHEET}</style>
<rect width="{width}" height="{tall}" rx="8" fill="#1d2129"/>
<defs><clipPath id="window"><rect x="12" y="12" width="{COLUMNS * 8}" height="{ROWS * height}"/></clipPath>
<clipPath id="shown"><rect width="{COLUMNS * 8}" height="{len(rows) * height}">
<animate attributeName="height" {timing} values="{covers}"/></rect></clipPath></defs>
<g clip-path="url(#window)"><g transform="translate(12 4)"><g transform="translate(0 {min(offsets[-1], 0)})">
<animateTransform attributeName="transform" type="translate" {timing} values="{values}"/>
<g clip-path="url(#shown)">
{lines}
</g></g></g></g>
</svg>
"""


def _spans(row: Row) -> str:
    return "".join(
        f'<tspan class="{style}">{escape(text)}</tspan>' if style else escape(text)
        for style, text in row.pieces
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--svg", action="store_true", help="only draw the SVG again")
    if not parser.parse_args().svg:
        events = record([sys.executable, "-m", "nightshift.cli", "demo"])
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "idle_time_limit": LONGEST_PAUSE}
        written = [
            json.dumps(header),
            *(json.dumps([at, "o", text], ensure_ascii=False) for at, text in events),
        ]
        CAST.write_text("\n".join(written) + "\n", encoding="utf-8")
    _, *lines = CAST.read_text(encoding="utf-8").splitlines()
    SVG.write_text(draw(transcript((at, text) for at, _, text in map(json.loads, lines))), encoding="utf-8")


if __name__ == "__main__":
    main()
