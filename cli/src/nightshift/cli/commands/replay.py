"""`nightshift replay`: plays what a build did, shows its state at any moment, or writes it as an HTML page."""

import sys
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts.validators import Number

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.event_lines import event_json
from nightshift.cli.moments import At, version_at
from nightshift.cli.output import note, write_fields, write_json, write_line
from nightshift.cli.page import page
from nightshift.cli.playback import Playback, keyboard, play
from nightshift.cli.recordings import Source, recorded_events
from nightshift.cli.state_view import last_words, state_fields, state_json
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.replay import state_after

app = cyclopts.App(name="replay")

Speed = Annotated[float, cyclopts.Parameter(validator=Number(gt=0, lte=4096))]


@app.default
async def replay(
    build: Source,
    *,
    speed: Speed = 8.0,
    step: Annotated[bool, cyclopts.Parameter(negative=())] = False,
    at: At | None = None,
    html: Path | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Play what a build did, from its events. No model and no sandbox is used, so it costs nothing.

    On a terminal the build plays at the pace of its events; keys pause and step. In a pipe all of it is printed.

    For example:

        nightshift replay build-4f1c2a --speed 32

        nightshift replay build-4f1c2a --at turn:7

        nightshift replay build-4f1c2a --html build.html

        nightshift log build-4f1c2a --json | nightshift replay -

    Args:
        speed: How many times as fast as the build was. A pause takes at most two seconds.
        step: Wait for a key before each event.
        at: Print the state at this moment in place of playing.
        html: Write one page with timeline, slider, costs and changes of files, which opens without a server.
    """
    if at is not None and html is not None:
        raise WrongUsage("give --at or --html", hint="the page has a slider over all moments")
    events = await recorded_events(home, build, whole=html is not None)
    if html is not None:
        _write_page(html, events, as_json=json)
    elif at is not None:
        _show_state(events[: version_at(events, at)], as_json=json)
    elif json:
        for event in events:
            write_json(event_json(event))
        write_json(reduce(evolve, events, BuildStatus(events[0].subject)).as_json(datetime.now(UTC)))
    elif sys.stdout.isatty() and sys.stdin.isatty():
        with keyboard() as read_key:
            play(events[0].subject, events, Playback(speed, step), read_key)
    else:
        play(events[0].subject, events, None, lambda _: "")


def _show_state(events: list[RecordedEvent], *, as_json: bool) -> None:
    state, at = state_after(events), events[-1].recorded_at
    if as_json:
        write_json(state_json(state))
        return
    write_fields({name: value for name, value in state_fields(state, at).items() if value is not None})
    for text in last_words(state):
        write_line(f"\n{text}")


def _write_page(path: Path, events: list[RecordedEvent], *, as_json: bool) -> None:
    text = page(events[0].subject, events)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from error
    if as_json:
        write_json({"path": str(path), "bytes": len(text), "events": len(events)})
    else:
        note(f"{path}: {len(text):,} bytes; open it in a browser")
