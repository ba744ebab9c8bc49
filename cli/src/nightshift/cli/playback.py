"""Plays a recorded build on the terminal at the pace of its events. Keys pause, step and skip."""

import contextlib
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.follow import plain
from nightshift.cli.narration import lines
from nightshift.cli.output import note, write_line
from nightshift.cli.text import dollars
from nightshift.contracts.events.build import ModelCallStarted
from nightshift.eventlog.port import RecordedEvent

#: The longest pause in seconds between two events, at any speed: nobody watches a whole night of sleep.
LONGEST_PAUSE_S = 2.0
KEYS = "keys: space pauses, n next event, t next turn, + faster, - slower, q quits"
_FASTEST, _SLOWEST = 4096.0, 0.25

#: Waits up to so many seconds for a key, or without a limit for None. Returns the key, or "" when none was pressed.
ReadKey = Callable[[float | None], str]


@dataclass
class Playback:
    """The mode in which the recording is played now. If `step`, each event waits for a key.

    If `until_turn`, events play without pauses up to the next turn.
    """

    speed: float
    step: bool = False
    until_turn: bool = False
    over: bool = False

    def press(self, key: str) -> bool:
        """Change the playback as this key of the person demands. Returns whether the next event plays at once."""
        match key:
            case "q" | "\x03" | "\x04":
                self.over = True
            case " ":
                self.step = not self.step
            case "+" | "=":
                self.speed = min(self.speed * 2, _FASTEST)
            case "-":
                self.speed = max(self.speed / 2, _SLOWEST)
            case "t":
                self.until_turn = True
            case "n" | "\r" | "\n":
                self.step = True
        return self.over or key in {"n", "t", "\r", "\n"}

    def wait(self, recorded_s: float, read_key: ReadKey, clock: Callable[[], float] = monotonic) -> None:
        """Wait as long as the recording did before the next event, at the present speed. A key can end the wait."""
        if self.until_turn:
            return
        deadline = clock() + min(max(recorded_s, 0.0) / self.speed, LONGEST_PAUSE_S)
        while True:
            left = None if self.step else max(deadline - clock(), 0.0)
            key = read_key(left)
            if key and self.press(key):
                return
            if not self.step and clock() >= deadline:
                return


def play(
    build_id: str, events: Sequence[RecordedEvent], playback: Playback | None, read_key: ReadKey
) -> None:
    """Prints what a build did, event by event. If `playback` is None, prints everything at once."""
    status, turn = BuildStatus(build_id), 0
    before_at = events[0].recorded_at
    for event in events:
        before, status = status, evolve(status, event)
        new_turn = isinstance(event.data, ModelCallStarted) and event.data.turn != turn
        if playback is not None:
            playback.until_turn = playback.until_turn and not new_turn
            playback.wait((event.recorded_at - before_at).total_seconds(), read_key)
            if playback.over:
                return
        before_at = event.recorded_at
        if new_turn and isinstance(event.data, ModelCallStarted):
            turn = event.data.turn
            write_line(f"\nTurn {turn}")
        for line in lines(before, event):
            write_line(f"  {plain(status, line)}")
    write_line(f"\n{status.state}: {status.turns} turns, {dollars(status.cost)}, {status.version} events")


@contextlib.contextmanager
def keyboard() -> Iterator[ReadKey]:
    """Yields a function that reads single keys from the terminal. Restores the mode of the terminal at the end."""
    import termios  # noqa: PLC0415 - not on every system, and only a terminal needs it
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        note(KEYS)
        yield _read_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _read_key(timeout_s: float | None) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return sys.stdin.read(1) or "q" if ready else ""
