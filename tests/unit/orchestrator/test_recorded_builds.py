"""The builds that each release has recorded still fold, and today's code makes the same decisions in them."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from nightshift.cli.event_lines import read_lines
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import waiting
from nightshift.orchestrator.usecases.replay import state_after, verify

_FOLDER = Path(__file__).parent / "recorded"
FILES = sorted(_FOLDER.glob("*/*.jsonl"))


@cache
def _events(path: Path) -> Sequence[RecordedEvent]:
    return read_lines(path.read_text(encoding="utf-8").splitlines(), path.name)


def test_the_present_release_has_recorded_its_builds():
    assert version("nightshift-orchestrator") in {path.parent.name for path in FILES}
    ends = {_events(path)[-1].data.type for path in FILES}
    types = {one.data.type for path in FILES for one in _events(path)}
    assert len(types) > 25
    assert {"sleep.requested", "build.cancelled", "build.waiting", "model_call.failed"} <= types, ends


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recorded_build_is_decided_as_it_was(path: Path):
    found = verify(_events(path))
    assert (found.difference, found.unchecked) == (None, {})
    assert state_after(_events(path)).version == len(_events(path))


def test_a_change_that_breaks_recorded_builds_is_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "resume", lambda *_: ())
    assert any(verify(_events(path)).difference for path in FILES)
