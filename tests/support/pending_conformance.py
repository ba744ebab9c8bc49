"""The conformance suite of pending rows. An adapter's test subclasses it and defines its fixtures."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from tests.support import facts

from nightshift.contracts.events.build import SleepRequested
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.port import PENDING_ALLOWED, PendingItem

#: Writes a pending row without an event, as a bug or an older release may have left it.
LeavePending = Callable[[PendingItem], Awaitable[None]]


class PendingConformance:
    """Needs the fixtures `log`, which may append every type, and `leave_pending`, a LeavePending over the same data."""

    @pytest.fixture
    def stream(self) -> str:
        return f"build-b{uuid4().hex[:12]}"

    async def test_what_an_event_opens_another_closes(self, log, stream):
        await log.append(stream, [facts.call("b/1/0"), facts.call("b/1/1")])
        items = await log.pending(PendingKind.TOOL_CALL)
        assert [(item.key, item.stream_id, item.version) for item in items] == [
            ("b/1/0", stream, 1),
            ("b/1/1", stream, 2),
        ]
        assert [item.key for item in await log.pending(PendingKind.TOOL_CALL, after_key="b/1/0")] == ["b/1/1"]
        assert len(await log.pending(PendingKind.TOOL_CALL, limit=1)) == 1
        await log.append(stream, [facts.result("b/1/0")])
        assert [item.key for item in await log.pending(PendingKind.TOOL_CALL)] == ["b/1/1"]

    async def test_a_repeated_append_does_not_open_again(self, log, stream):
        asked, answered = facts.call("b/1/0"), facts.result("b/1/0")
        for event in (asked, answered, asked):
            await log.append(stream, [event])
        assert await log.pending(PendingKind.TOOL_CALL) == []

    async def test_a_row_opened_and_closed_in_one_batch_is_not_pending(self, log, stream):
        await log.append(stream, [facts.call("b/1/0"), facts.result("b/1/0")])
        assert await log.pending(PendingKind.TOOL_CALL) == []

    async def test_a_close_through_a_version_leaves_the_later_opening(self, log, stream):
        await log.append(stream, [facts.sandbox(), facts.checkpoint(1), facts.checkpoint(2)])
        (item,) = await log.pending(PendingKind.SNAPSHOT)
        assert item.version == 3
        for at_version, left in ((2, 1), (3, 0)):
            saved = SnapshotSaved(
                reason="checkpoint",
                at_version=at_version,
                tree_digest="sha256:" + "0" * 64,
                files=0,
                bytes=0,
                uploaded_bytes=0,
                key="k",
            )
            await log.append(stream, [facts.new(saved)])
            assert len(await log.pending(PendingKind.SNAPSHOT)) == left

    async def test_a_snapshot_is_pending_only_with_a_sandbox(self, log, stream):
        for other in (stream, f"{stream}x"):
            await log.append(other, [facts.note()])
        await log.append(f"{stream}x", [facts.sandbox()])
        await log.append(stream, [facts.checkpoint(1)])
        assert await log.pending(PendingKind.SNAPSHOT) == []
        await log.append(stream, [facts.sandbox()])
        for turn in (2, 3):
            await log.append(stream, [facts.checkpoint(turn)])
            (item,) = await log.pending(PendingKind.SNAPSHOT)
            assert (item.stream_id, item.version) == (stream, turn + 2)

    async def test_a_closed_sandbox_closes_the_snapshots_that_waited(self, log, stream):
        await log.append(stream, [facts.sandbox(), facts.checkpoint(1)])
        await log.append(stream, [facts.cancelled()])
        assert await log.pending(PendingKind.SNAPSHOT) != []
        await log.append(stream, [facts.sandbox_closed()])
        assert await log.pending(PendingKind.SNAPSHOT) == []

    async def test_another_stream_cannot_close_it(self, log, stream):
        await log.append(stream, [facts.call("b/1/0")])
        await log.append(f"{stream}x", [facts.result("b/1/0")])
        assert len(await log.pending(PendingKind.TOOL_CALL)) == 1

    async def test_due_rows_come_soonest_first(self, log):
        now = datetime.now(UTC)
        for name, hours in (("c", 3), ("a", 1), ("b", 2), ("d", None)):
            wake = None if hours is None else now + timedelta(hours=hours)
            await log.append(
                f"build-{name}", [facts.new(SleepRequested(reason="budget", account_id="a1", wake_at=wake))]
            )
        due = await log.pending(PendingKind.SLEEPER, due_before=now + timedelta(hours=2))
        assert [item.key for item in due] == ["a", "b"]
        assert due[0].due_at == now + timedelta(hours=1)
        later = await log.pending(
            PendingKind.SLEEPER,
            due_before=now + timedelta(hours=9),
            after_due=now + timedelta(hours=1),
            after_key="a",
        )
        assert [item.key for item in later] == ["b", "c"]
        assert len(await log.pending(PendingKind.SLEEPER)) == 4

    # --- stale rows ---

    async def test_a_log_at_work_has_no_stale_pending_row(self, log, stream):
        await log.append(stream, [facts.accepted("b1"), facts.checkpoint(), facts.call("b/1/0")])
        assert await log.stale_pending(grace_s=0) == []

    @pytest.mark.parametrize(
        ("kind", "key", "stale"),
        [
            (PendingKind.BUILD, "b1", True),
            (PendingKind.TOOL_CALL, "b1/1/0", True),
            (PendingKind.BUDGET_REQUEST, "lease", True),
            (PendingKind.RESERVATION, "lease", True),
            (PendingKind.SLEEPER, "b1", True),
            (PendingKind.WAKE, "b1", True),
            (PendingKind.SNAPSHOT, "b1/checkpoint", True),
            (PendingKind.SNAPSHOT, "b1/pre_sleep", True),
            (PendingKind.SNAPSHOT, "b1/completion", False),
            (PendingKind.SANDBOX, "b1", True),
        ],
    )
    async def test_a_row_of_an_ended_build_is_stale(self, log, leave_pending, stream, kind, key, stale):
        await self._ended_with(log, leave_pending, stream, (kind, key))
        found = await log.stale_pending(grace_s=0)
        assert [(one.kind, one.key, one.stream_id, one.reason) for one in found] == [
            (kind, key, stream, "build_ended")
        ] * stale

    async def test_an_ended_build_may_still_answer_within_the_grace(self, log, leave_pending, stream):
        await self._ended_with(log, leave_pending, stream, (PendingKind.TOOL_CALL, "b1/1/0"))
        assert await log.stale_pending(grace_s=60) == []

    async def test_a_sandbox_may_wait_for_the_completion_snapshot(self, log, leave_pending, stream):
        await self._ended_with(
            log, leave_pending, stream, (PendingKind.SANDBOX, "b1"), (PendingKind.SNAPSHOT, "b1/completion")
        )
        assert await log.stale_pending(grace_s=0) == []

    async def test_the_sandbox_of_a_ready_build_may_stay(self, log, leave_pending, stream):
        """It serves the preview. Without this rule `doctor` failed ten minutes after the first build was ready."""
        await log.append(stream, [facts.sandbox(), facts.ready()])
        saved = SnapshotFailed(reason="completion", at_version=2, detail="", attempt=1, final=True)
        await log.append(stream, [facts.new(saved)])
        await leave_pending(_item(PendingKind.TOOL_CALL, "b1/1/0", stream))
        assert [one.kind for one in await log.stale_pending(grace_s=0)] == [PendingKind.TOOL_CALL]

    @pytest.mark.parametrize(
        ("beside", "stale"), [(None, True), (PendingKind.SLEEPER, False), (PendingKind.WAKE, False)]
    )
    async def test_a_pre_sleep_snapshot_is_stale_once_awake(self, log, leave_pending, stream, beside, stale):
        await log.append(stream, [facts.note()])
        await leave_pending(_item(PendingKind.SNAPSHOT, "b1/pre_sleep", stream))
        if beside is not None:
            await leave_pending(_item(beside, "b1", stream))
        found = await log.stale_pending(grace_s=0)
        assert [(one.key, one.reason) for one in found] == [("b1/pre_sleep", "build_awake")] * stale
        assert await log.stale_pending(grace_s=60) == []

    @pytest.mark.parametrize("kind", list(PendingKind))
    async def test_a_row_is_stale_when_its_kind_waits_too_long(self, log, leave_pending, stream, kind):
        await log.append(stream, [facts.note()])
        allowed = PENDING_ALLOWED.get(kind)
        long_ago = datetime.now(UTC) - timedelta(days=400)
        on_time = [] if allowed is None else [datetime.now(UTC) - allowed + timedelta(minutes=1)]
        for due in on_time:  # counted from when it is due, however long ago it was opened
            await leave_pending(_item(kind, "k", stream, opened_at=long_ago, due_at=due))
            assert await log.stale_pending(grace_s=60) == []
        await leave_pending(_item(kind, "k", stream, opened_at=long_ago))
        found = await log.stale_pending(grace_s=60)
        assert [one.reason for one in found] == ["overdue"] * (allowed is not None)

    async def test_stale_rows_come_oldest_first_up_to_the_limit(self, log, leave_pending, stream):
        await log.append(stream, [facts.note()])
        for days in (30, 50, 40):
            opened = datetime.now(UTC) - timedelta(days=days)
            await leave_pending(_item(PendingKind.TOOL_CALL, f"b1/{days}/0", stream, opened_at=opened))
        found = await log.stale_pending(limit=2)
        assert [one.key for one in found] == ["b1/50/0", "b1/40/0"]

    async def _ended_with(self, log, leave_pending, stream: str, *rows: tuple[PendingKind, str]) -> None:
        """End a build that never ran, and leave only these rows."""
        await log.append(stream, [facts.note(), facts.cancelled()])
        given_up = SnapshotFailed(reason="completion", at_version=2, detail="", attempt=1, final=True)
        await log.append(stream, [facts.new(given_up)])
        for kind, key in rows:
            await leave_pending(_item(kind, key, stream))


def _item(
    kind: PendingKind,
    key: str,
    stream: str,
    *,
    opened_at: datetime | None = None,
    due_at: datetime | None = None,
) -> PendingItem:
    return PendingItem(kind, key, stream, 1, opened_at or datetime.now(UTC), due_at)
