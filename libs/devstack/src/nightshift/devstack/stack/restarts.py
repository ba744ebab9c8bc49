"""Records in a file which processes of a stack exited lately, for `ps` and `doctor`.

The supervisor restarts every process that exits. Without the record, a process that keeps exiting would look healthy.
"""

import contextlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nightshift.devstack.stack.home import is_held, write_json
from nightshift.eventlog.passwords import hide_passwords

_FILE = "restarts.json"
#: How long an exit is reported. A process with so many exits in this time keeps restarting.
WINDOW = timedelta(minutes=10)
KEEPS_RESTARTING = 3
_KEPT, _WORDS = 50, 300


@dataclass(frozen=True, slots=True)
class Exit:
    """One exit of a process. `last_words` is the last line of its log.

    `code` is the exit code, or the negative number of the signal that ended the process. It is None when the process
    could not be started.
    """

    at: datetime
    code: int | None
    last_words: str

    @property
    def how(self) -> str:
        """How the process ended, in words: its exit code or its signal."""
        if self.code is None:
            return "last start failed"
        return f"last exit code {self.code}" if self.code >= 0 else f"last ended by signal {-self.code}"


@dataclass(frozen=True, slots=True)
class RestartReport:
    """The exits of one process in the last ten minutes, oldest first. There is at least one."""

    exits: tuple[Exit, ...]
    now: datetime

    @property
    def keeps_restarting(self) -> bool:
        """Whether the process has exited so often in the last ten minutes that another restart will not help."""
        return len(self.exits) >= KEEPS_RESTARTING

    def summary(self) -> str:
        """Return one line, such as `7 times in 2 min, last exit code 1: database "x" does not exist`."""
        seconds = max((self.now - self.exits[0].at).total_seconds(), 1)
        span = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        count = len(self.exits)
        times = {1: "once", 2: "twice"}.get(
            count, f"{count} times" if count < _KEPT else f"{_KEPT} times or more"
        )
        last = self.exits[-1]
        return f"{times} in {span}, {last.how}" + (f": {last.last_words}" if last.last_words else "")


class RestartRecord:
    """Records the exits of one stack's processes in a file."""

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE
        self._exits: dict[str, deque[Exit]] = {}
        self._path.unlink(missing_ok=True)  # the file of an earlier stack

    def note(self, name: str, exit_: Exit) -> None:
        """Add an exit of the process with this name, and write the file."""
        self._exits.setdefault(name, deque(maxlen=_KEPT)).append(exit_)
        written = {each: [_to_json(one) for one in exits] for each, exits in self._exits.items()}
        with contextlib.suppress(
            OSError
        ):  # a full disk must not stop the supervisor, and stderr shows the exit too
            write_json(self._path, written)


def last_words(log_tail: str) -> str:
    """Return the last line of a log, at most 300 characters and with passwords masked."""
    lines = log_tail.strip().splitlines()
    return hide_passwords(lines[-1].strip())[:_WORDS] if lines else ""


def read_restarts(home: Path, now: datetime | None = None) -> Mapping[str, RestartReport]:
    """Return process name → report for the processes of the running stack that exited in the last ten minutes.

    The names are those in `ps`. Empty when no stack runs.
    """
    now = now or datetime.now(UTC)
    try:
        written = json.loads((home / _FILE).read_text(encoding="utf-8")) if is_held(home) else {}
    except FileNotFoundError:
        return {}
    reports = {}
    for name, all_ in written.items():
        exits = tuple(one for one in map(_from_json, all_) if now - one.at <= WINDOW)
        if exits:
            reports[name] = RestartReport(exits, now)
    return reports


def _to_json(one: Exit) -> dict[str, object]:
    return {"at": one.at.isoformat(), "code": one.code, "last_words": one.last_words}


def _from_json(value: Mapping[str, object]) -> Exit:
    code = value["code"]
    return Exit(
        datetime.fromisoformat(str(value["at"])),
        code if isinstance(code, int) else None,
        str(value["last_words"]),
    )
