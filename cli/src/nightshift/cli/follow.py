"""Follows a build: prints lines for each event and, on a terminal, a last line with what happens right now."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.event_lines import event_json
from nightshift.cli.exits import Exit
from nightshift.cli.narration import Line, input_in_words, lines
from nightshift.cli.output import printable, write_json, write_line
from nightshift.cli.text import dollars, short
from nightshift.eventlog.port import RecordedEvent

_TONES = {"plain": "", "dim": "dim", "good": "green", "bad": "red", "warn": "yellow", "strong": "bold"}

#: Called after each batch of events. Returns an exit code to stop with, or None to continue.
Stop = Callable[[BuildStatus], Exit | None]


class JsonRenderer:
    """Prints each event as one line of JSON."""

    def show(self, status: BuildStatus, event: RecordedEvent) -> None:
        write_json(event_json(event))

    def idle(self, status: BuildStatus) -> None:
        """Does nothing while no event comes, because the output is only events."""


class PlainRenderer:
    """Prints lines about events as plain text, for logs and pipes."""

    def __init__(self) -> None:
        self._waits = WaitLines()

    def show(self, status: BuildStatus, event: RecordedEvent) -> None:
        self._print(status, lines(status, event))

    def idle(self, status: BuildStatus) -> None:
        """Called while no event comes. Prints why the build waits, unless it was printed already."""
        self._print(status, self._waits.of(status, datetime.now(UTC)))

    def _print(self, status: BuildStatus, narrated: Iterable[Line]) -> None:
        for line in narrated:
            write_line(plain(status, line))


class TerminalRenderer(PlainRenderer):
    """Prints lines that scroll, and below them one line about what happens right now."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__()
        self._console = console
        self._live = live
        self._spinner = Spinner("dots")

    def idle(self, status: BuildStatus) -> None:
        """Called while no event comes. Prints why the build waits, unless it was printed already, and updates the last
        line.
        """
        super().idle(status)
        self._live.update(Group(Text(""), self._now(status)))

    def _print(self, status: BuildStatus, narrated: Iterable[Line]) -> None:
        for line in narrated:
            row = Table.grid(padding=(0, 2, 0, 0))  # a long text continues in its own column
            row.add_row(
                Text(elapsed(status, line.at), "dim"),
                Text(f"{line.kind:<9}", "cyan"),
                Text(printable(line.text), _TONES[line.tone], overflow="fold"),
            )
            self._console.print(row)

    def _now(self, status: BuildStatus) -> Text | Spinner:
        if status.ended:
            return Text("")
        money = f"{dollars(status.cost)} spent"
        if status.left_today is not None:
            money += f", {dollars(status.left_today)} left today"
        text = f"{status.phase} · {money} · {doing(status)}"
        if status.preview_url is not None:
            text = f"{text} · {status.preview_url}"
        # Cut to exactly one line, because a second one would leave characters behind when it is redrawn.
        self._spinner.update(text=Text(short(text, max(self._console.width - 3, 20)), style="dim"))
        return self._spinner


class WaitLines:
    """Makes one line for each wait of a build, and no further line while that wait lasts."""

    def __init__(self) -> None:
        self._last: tuple[str, datetime] | None = None

    def of(self, status: BuildStatus, now: datetime) -> Iterator[Line]:
        """Yields a line that says why the build waits and what to do, or nothing when this wait already has a line."""
        wait = status.waiting(now)
        if wait is None:
            self._last = None
        elif self._last != (wait.action, wait.since):
            self._last = wait.action, wait.since
            yield Line(wait.since, "waits", f"{wait.reason}; {wait.action}", "warn")


def doing(status: BuildStatus, now: datetime | None = None) -> str:
    """Returns in a few words what a build does at `now` (default: the present), or how long it still sleeps."""
    now = now or datetime.now(UTC)
    if status.asleep_until is not None and now <= status.asleep_until:
        return f"asleep, wakes in {_clock((status.asleep_until - now).total_seconds())}"
    if status.state == "sleeping" and status.asleep_until is None:
        return "asleep until somebody wakes it"
    if (wait := status.waiting(now)) is not None:
        return printable(str(wait))
    if status.judged:
        return "being judged by its criteria"
    if not status.asked:
        return "thinking" if status.phase not in ("queued", "checks") else "waiting"
    call = next(iter(status.asked.values()))
    by_agent = call.purpose in ("agent", "customer")
    text = f"{call.tool} {input_in_words(call)}" if by_agent else "checking that it is ready"
    if call.purpose == "instructions":
        text = "reading the workspace's instructions"
    return printable(text + (f" and {len(status.asked) - 1} more" if len(status.asked) > 1 else ""))


def plain(status: BuildStatus, line: Line) -> str:
    """Returns a line of the narration as plain text."""
    return f"{elapsed(status, line.at)}  {line.kind:<9} {printable(line.text)}"


def elapsed(status: BuildStatus, at: datetime) -> str:
    """Returns the time from the start of the build to `at`, as text."""
    return _clock((at - (status.began_at or at)).total_seconds())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes:02}:{rest:04.1f}"


def outcome(status: BuildStatus) -> Exit | None:
    """Returns the exit code for the end of a build, or None while it has not ended."""
    ends = {"ready": Exit.OK, "failed": Exit.BUILD_FAILED, "cancelled": Exit.CANCELLED}
    return ends.get(status.state)


async def follow(
    batches: AsyncIterator[list[RecordedEvent]], build_id: str, *, as_json: bool, stop: Stop
) -> tuple[BuildStatus, Exit]:
    """Prints the events of the batches until `stop(status)` returns an exit code.

    An empty batch means that nothing is new. Returns the last status of the build and that exit code.
    """
    renderer: JsonRenderer | PlainRenderer = JsonRenderer() if as_json else PlainRenderer()
    status = BuildStatus(build_id)
    with ExitStack() as screen:
        if not as_json and sys.stdout.isatty():
            console = Console(highlight=False)
            live = screen.enter_context(Live(console=console, refresh_per_second=8, transient=True))
            renderer = TerminalRenderer(console, live)
        async for batch in batches:
            for event in batch:
                before, status = status, evolve(status, event)
                renderer.show(before if before.began_at else status, event)
            renderer.idle(status)
            code = stop(status)
            if code is not None:
                return status, code
    raise AssertionError("a followed build never ends by itself")
