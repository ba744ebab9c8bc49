"""Writes a build as one HTML file that needs no server: timeline, slider, cost of each turn, file changes. Pure."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any, Final

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.event_lines import event_json
from nightshift.cli.file_changes import file_changes
from nightshift.cli.narration import lines
from nightshift.cli.output import printable
from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.replay import INITIAL, BuildState, fold

#: The most bytes of a page. When a page would be larger, raw data is left out, and then diffs.
MOST_BYTES: Final = 2_000_000
#: How many characters of an event's data, and how many lines of a diff, the page contains.
_DATA, _DIFF_LINES = 400, 120


def page(build_id: str, events: Sequence[RecordedEvent]) -> str:
    """Returns the HTML of the page, at most MOST_BYTES bytes if possible. For that, shortens texts and diffs."""
    for characters, diff_lines in ((_DATA, _DIFF_LINES), (0, _DIFF_LINES), (0, 20), (0, 0)):
        html = _html(_data(build_id, events, characters, diff_lines))
        if len(html) <= MOST_BYTES:
            break
    return html


def _html(data: dict[str, Any]) -> str:
    """Returns the HTML template with the data in it. The page allows only the template's own script to run."""
    template = (files("nightshift.cli") / "page.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = json.dumps(data, separators=(",", ":"))  # ASCII
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")  # so no text of a build can end the script element
    return template.replace("__SCRIPT__", f"sha256-{digest}").replace("__DATA__", text)


def _data(build_id: str, events: Sequence[RecordedEvent], characters: int, diff_lines: int) -> dict[str, Any]:
    status, state = BuildStatus(build_id), INITIAL
    began = events[0].recorded_at
    rows = []
    turns: dict[int, dict[str, Any]] = {}
    for event in events:
        before, status, state = status, evolve(status, event), fold(state, event)
        _count(turns, state, event)
        row = {
            "v": event.version,
            "t": round((event.recorded_at - began).total_seconds(), 1),
            "n": state.conversation.turn,
            "k": event.data.type,
            "by": event.actor.partition("/")[0],
            "c": state.funds.spent,
            "p": state.phase.value,
            "m": state.mode.value,
            "l": [[line.kind, printable(line.text), line.tone] for line in lines(before, event)],
        }
        if characters:
            row["d"] = json.dumps(event_json(event)["data"], sort_keys=True)[:characters]
        rows.append(row)
    changes = list(file_changes(events, longest=diff_lines)) if diff_lines else []
    for turn, made in groupby(changes, key=lambda change: change.turn):
        if turn in turns:
            turns[turn]["files"] = [[one.version, one.path, list(one.diff), one.cut] for one in made]
    return {
        "build": build_id,
        "project": status.project_id,
        "account": status.account_id,
        "model": status.model,
        "brief": printable(status.brief)[:2_000],
        "state": status.state,
        "began": began.isoformat(),
        "complete": bool(characters and diff_lines),
        "events": rows,
        "turns": list(turns.values()),
    }


def _count(turns: dict[int, dict[str, Any]], state: BuildState, event: RecordedEvent) -> None:
    fact = event.data
    if isinstance(fact, ModelCallStarted):
        turns.setdefault(
            fact.turn,
            {"n": fact.turn, "v": event.version, "cost": 0, "in": 0, "out": 0, "ms": 0, "files": []},
        )
    elif isinstance(fact, ModelCallResponded | ModelCallFailed) and fact.turn in turns:
        row, usage = turns[fact.turn], fact.usage
        row["cost"] += fact.cost_microusd
        row["out"] += usage.output_tokens
        row["in"] += usage.input_tokens + usage.cache_read_input_tokens
        row["in"] += usage.cache_write_5m_input_tokens + usage.cache_write_1h_input_tokens
        row["ms"] += fact.latency_ms if isinstance(fact, ModelCallResponded) else 0
