"""Following a build: its story line by line, and, on a terminal, where it stands right now below it."""

import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nightshift.cli.exits import Exit
from nightshift.cli.output import printable, write_json
from nightshift.cli.standing import Standing, advance, dollars, short
from nightshift.cli.story import Line, lines, told_input
from nightshift.contracts.canonical import loads
from nightshift.contracts.registry import encode
from nightshift.eventlog.port import RecordedEvent

_TONES = {"plain": "", "dim": "dim", "good": "green", "bad": "red", "warn": "yellow", "strong": "bold"}

#: Ends following early: given the standing after a batch, an exit code or none to go on.
Stop = Callable[[Standing], Exit | None]


class Face(Protocol):
    """How a followed build is shown."""

    def show(self, standing: Standing, event: RecordedEvent) -> None: ...

    def idle(self, standing: Standing) -> None: ...


def event_json(event: RecordedEvent) -> dict[str, Any]:
    """One event as `--json` tells it: the envelope, and the data as the log has it."""
    return {
        "event_id": str(event.event_id),
        "stream_id": event.stream_id,
        "version": event.version,
        "type": event.data.type,
        "schema_version": event.data.version,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "causation_id": str(event.causation_id),
        "data": loads(encode(event.data)),
    }


class JsonFace:
    """One event a line."""

    def show(self, standing: Standing, event: RecordedEvent) -> None:
        write_json(event_json(event))

    def idle(self, standing: Standing) -> None:
        """Nothing to say."""


class PlainFace:
    """One line a happening, for logs and pipes."""

    def show(self, standing: Standing, event: RecordedEvent) -> None:
        for line in lines(standing, event):
            sys.stdout.write(plain(standing, line) + "\n")
        sys.stdout.flush()

    def idle(self, standing: Standing) -> None:
        """Nothing to say."""


class TerminalFace:
    """Lines that scroll, and below them what goes on right now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots")
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "TerminalFace":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, standing: Standing, event: RecordedEvent) -> None:
        for line in lines(standing, event):
            row = Table.grid(padding=(0, 2, 0, 0))  # what is too long goes on below its own beginning
            row.add_row(
                Text(elapsed(standing, line.at), "dim"),
                Text(f"{line.kind:<9}", "cyan"),
                Text(printable(line.text), _TONES[line.tone], overflow="fold"),
            )
            self._console.print(row)

    def idle(self, standing: Standing) -> None:
        self._live.update(Group(Text(""), self._now(standing)))

    def _now(self, standing: Standing) -> Text | Spinner:
        if standing.ended:
            return Text("")
        money = f"{dollars(standing.cost)} spent"
        if standing.left_today is not None:
            money += f", {dollars(standing.left_today)} left today"
        told = f"{standing.phase} · {money} · {doing(standing)}"
        if standing.preview_url is not None:
            told = f"{told} · {standing.preview_url}"
        # One line, whatever the width: a second one would leave its remains when it is redrawn.
        self._spinner.update(text=Text(short(told, max(self._console.width - 3, 20)), style="dim"))
        return self._spinner


def doing(standing: Standing, now: datetime | None = None) -> str:
    """What a build does right now, in a few words; a sleeper's countdown."""
    if standing.asleep_until is not None:
        left = (standing.asleep_until - (now or datetime.now(UTC))).total_seconds()
        return f"asleep, wakes in {_clock(max(left, 0))}"
    if standing.status == "sleeping":
        return "asleep until somebody wakes it"
    if standing.asked:
        call = next(iter(standing.asked.values()))
        more = f" and {len(standing.asked) - 1} more" if len(standing.asked) > 1 else ""
        told = f"{call.tool} {told_input(call)}" if call.purpose == "agent" else "checking that it is ready"
        return printable(f"{told}{more}")
    return "thinking" if standing.phase not in ("queued", "checks") else "waiting"


def plain(standing: Standing, line: Line) -> str:
    """A line without colour."""
    return f"{elapsed(standing, line.at)}  {line.kind:<9} {printable(line.text)}"


def elapsed(standing: Standing, at: datetime) -> str:
    """Time since the build began."""
    return _clock((at - (standing.began_at or at)).total_seconds())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes:02}:{rest:04.1f}"


def outcome(standing: Standing) -> Exit | None:
    """The exit code of a build that ended; none while it goes on."""
    ends = {"ready": Exit.OK, "failed": Exit.BUILD_FAILED, "cancelled": Exit.CANCELLED}
    return ends.get(standing.status)


async def follow(
    batches: AsyncIterator[list[RecordedEvent]], build_id: str, *, as_json: bool, stop: Stop
) -> tuple[Standing, Exit]:
    """Show a build until `stop` says so. Gives where it stands then."""
    if as_json or not sys.stdout.isatty():
        return await _follow(batches, build_id, JsonFace() if as_json else PlainFace(), stop)
    with TerminalFace(Console(highlight=False)) as face:
        return await _follow(batches, build_id, face, stop)


async def _follow(
    batches: AsyncIterator[list[RecordedEvent]], build_id: str, face: Face, stop: Stop
) -> tuple[Standing, Exit]:
    standing = Standing(build_id)
    async for batch in batches:
        for event in batch:
            before = standing
            standing = advance(standing, event)
            face.show(before if before.began_at else standing, event)
        face.idle(standing)
        code = stop(standing)
        if code is not None:
            return standing, code
    raise AssertionError("a followed build never ends by itself")
