"""The fold of a build's stream, and the order of its calls."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from nightshift.contracts.events.build import BuildCancelled, BuildWoken, SleepRequested, ToolCallRequested
from nightshift.contracts.events.sandbox import (
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
    SandboxStalled,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandbox_gateway.domain.call_order import groups
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall, SandboxState, evolve

DIGEST = "sha256:" + "0" * 64


def fold(*events: Any) -> SandboxState:
    state = SandboxState("b")
    for version, data in enumerate(events, 1):
        state = evolve(
            state,
            RecordedEvent(uuid4(), "build-b", version, data, "b", uuid4(), "test", None, datetime.now(UTC)),
        )
    return state


def asked(index: int, tool: str) -> ToolCallRequested:
    return ToolCallRequested(
        call_id=f"b/1/{index}", turn=1, index=index, tool=tool, tool_use_id="t", input={}
    )


def done(index: int) -> ToolCallCompleted:
    return ToolCallCompleted(call_id=f"b/1/{index}", is_error=False, output="", duration_ms=0)


def saved(reason: str, at: int) -> SnapshotSaved:
    return SnapshotSaved(
        reason=reason, at_version=at, tree_digest=DIGEST, files=0, bytes=0, uploaded_bytes=0, key=f"k{at}"
    )


OPENED = SandboxOpened(sandbox_id="s", driver="local", generation=0)
SLEEP = SleepRequested(reason="budget", account_id="a", wake_at=None)
WOKEN = BuildWoken(reason="refresh")
FAILED = SnapshotFailed(reason="pre_sleep", at_version=2, detail="", attempt=3, final=True)


def test_a_sleeping_sandbox_is_closed_after_its_own_snapshot_only() -> None:
    assert fold(OPENED, SLEEP).to_close is None
    assert fold(OPENED, SLEEP, saved("checkpoint", 2)).to_close is None
    assert fold(OPENED, SLEEP, saved("pre_sleep", 1)).to_close is None, "of an earlier sleep"
    assert fold(OPENED, SLEEP, saved("pre_sleep", 2)).to_close is not None
    assert fold(OPENED, SLEEP, saved("pre_sleep", 2), WOKEN).to_close is None
    assert (
        fold(OPENED, SLEEP, saved("pre_sleep", 2), SandboxClosed(sandbox_id="s", reason="sleep")).to_close
        is None
    )


def test_a_failed_snapshot_pauses_once() -> None:
    assert fold(OPENED, SLEEP, FAILED).to_pause is not None
    assert fold(OPENED, SLEEP, FAILED.model_copy(update={"final": False})).to_pause is None
    assert fold(OPENED, SLEEP, FAILED, SandboxPaused(sandbox_id="s", reason="r")).to_pause is None
    assert fold(OPENED, SLEEP, FAILED, WOKEN).to_pause is None


def test_a_cancelled_sandbox_is_closed_after_its_last_snapshot() -> None:
    cancelled = BuildCancelled(reason="r", cost_microusd=0, turns=0)
    assert fold(OPENED, cancelled).to_close is None
    assert fold(OPENED, cancelled, saved("completion", 2)).to_close is not None


def test_a_sandbox_after_a_snapshot_must_be_restored() -> None:
    state = fold(OPENED, saved("checkpoint", 1), SandboxLost(sandbox_id="s", detail=""), OPENED.model_copy())
    assert state.sandbox is not None
    assert not state.sandbox.restored
    assert fold(OPENED, SandboxLost(sandbox_id="s", detail="")).generations == 1
    restored = SandboxRestored(sandbox_id="s", from_snapshot="k1", tree_digest=DIGEST, files=0, healed=0)
    again = fold(saved("checkpoint", 1), OPENED, restored)
    assert again.sandbox is not None
    assert again.sandbox.restored


def test_the_newest_snapshot_is_the_one_with_the_highest_version() -> None:
    state = fold(OPENED, saved("checkpoint", 9), saved("checkpoint", 3))
    assert state.snapshot is not None
    assert state.snapshot.key == "k9"


def test_only_a_snapshot_at_rest_makes_a_loss_harmless() -> None:
    assert not fold(OPENED, asked(0, "bash"), done(0), saved("checkpoint", 3)).safe_to_lose
    assert fold(OPENED, asked(0, "bash"), done(0), SLEEP, saved("pre_sleep", 4)).safe_to_lose
    assert not fold(OPENED, SLEEP, saved("pre_sleep", 2), WOKEN, asked(0, "bash"), done(0)).safe_to_lose


@given(st.lists(st.sampled_from(["bash", "read_file", "grep", "write_file", "nonsense"]), max_size=12))
def test_calls_keep_log_order_and_only_reads_are_grouped(tools: list[str]) -> None:
    calls = [PendingCall(uuid4(), version, asked(version, tool)) for version, tool in enumerate(tools)]
    found = groups(reversed(calls))
    assert [call for group in found for call in group] == calls
    for group in found:
        changing = [call for call in group if call.asked.tool in ("bash", "write_file")]
        assert not changing or len(group) == 1


def test_a_sandbox_opened_after_the_end_is_closed_at_once() -> None:
    cancelled = BuildCancelled(reason="r", cost_microusd=0, turns=0)
    assert fold(cancelled, OPENED).to_close is not None
    assert fold(saved("completion", 0), OPENED, cancelled).to_close is None, "a snapshot of no end"


def test_a_stall_lasts_until_the_next_fact_of_the_gateway() -> None:
    stalled = SandboxStalled(
        reason="unavailable", detail="503", action="wait", attempt=2, since=datetime.now(UTC)
    )
    state = fold(asked(0, "bash"), stalled)
    assert (state.stalled, state.stalls) == (stalled, 1)
    assert fold(asked(0, "bash"), stalled, asked(1, "bash")).stalled == stalled
    state = fold(asked(0, "bash"), stalled, OPENED)
    assert (state.stalled, state.stalls) == (None, 1)
