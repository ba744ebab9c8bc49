"""Which snapshot a build needs, folded from its stream."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent
from nightshift.snapshotter.domain.retries import SnapshotRetries
from nightshift.snapshotter.domain.workspace import Workspace, evolve

OPENED = SandboxOpened(sandbox_id="s", driver="local", generation=1)
CLOSED = SandboxClosed(sandbox_id="s", reason="test")
LOST = SandboxLost(sandbox_id="s", detail="gone")
CHECKPOINT = CheckpointSaved(turn=1)
SLEEP = SleepRequested(reason="budget", account_id="a")
WOKEN = BuildWoken(reason="top_up")
END = BuildCancelled(reason="enough", cost_microusd=0, turns=1)


def saved(reason: str, at: int) -> SnapshotSaved:
    return SnapshotSaved(
        reason=reason,
        at_version=at,
        tree_digest="sha256:" + "0" * 64,
        files=0,
        bytes=0,
        uploaded_bytes=0,
        key="k",
    )


def failed(reason: str, at: int, *, attempt: int = 1, final: bool = False) -> SnapshotFailed:
    return SnapshotFailed(reason=reason, at_version=at, detail="", attempt=attempt, final=final)


def folded(*facts: Event) -> Workspace:
    state = Workspace()
    for version, fact in enumerate(facts, start=1):
        state = evolve(
            state,
            RecordedEvent(uuid4(), "build-b", version, fact, "b", uuid4(), "test", None, datetime.now(UTC)),
        )
    return state


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ((CHECKPOINT,), None),
        ((SLEEP,), None),
        ((END,), None),
        ((OPENED, CHECKPOINT), ("checkpoint", 2)),
        ((OPENED, CHECKPOINT, CHECKPOINT), ("checkpoint", 3)),
        ((OPENED, CHECKPOINT, SLEEP), ("pre_sleep", 3)),
        ((OPENED, SLEEP, WOKEN), None),
        ((OPENED, CHECKPOINT, SLEEP, END), ("completion", 4)),
        ((OPENED, CHECKPOINT, saved("checkpoint", 2)), None),
        ((OPENED, CHECKPOINT, CHECKPOINT, saved("checkpoint", 2)), ("checkpoint", 3)),
        ((OPENED, CHECKPOINT, SLEEP, saved("pre_sleep", 3)), None),
        ((OPENED, SLEEP, failed("pre_sleep", 2)), ("pre_sleep", 2)),
        ((OPENED, SLEEP, failed("pre_sleep", 2, final=True)), None),
        ((OPENED, CHECKPOINT, SLEEP, CLOSED), None),
        ((OPENED, END, LOST), None),
        ((OPENED, END, LOST, OPENED), None),
    ],
)
def test_the_newest_of_the_most_urgent_kind_is_wanted(facts, wanted) -> None:
    state = folded(*facts)
    assert (None if state.next is None else (state.next.reason, state.next.at_version)) == wanted


def test_an_old_failure_does_not_count_for_a_newer_snapshot() -> None:
    state = folded(OPENED, SLEEP, failed("pre_sleep", 2, attempt=4), WOKEN, SLEEP)
    assert state.next is not None
    assert state.next.attempts == 0


def test_only_an_end_is_tried_without_an_end() -> None:
    retries = SnapshotRetries(pre_sleep_attempts=3)
    assert [retries.gives_up("pre_sleep", attempt) for attempt in (1, 2, 3)] == [False, False, True]
    assert retries.gives_up("checkpoint", 1)
    assert not retries.gives_up("completion", 10**6)


def test_the_log_tells_few_of_many_failures() -> None:
    retries = SnapshotRetries()
    assert [attempt for attempt in range(1, 101) if retries.is_recorded(attempt)] == [1, 2, 4, 8, 16, 32, 64]
