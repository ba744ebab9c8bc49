"""The conformance suite of event logs. An adapter's test subclasses it and defines two fixtures."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from tests.support import facts

from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.model import Owner, PendingKind
from nightshift.eventlog.errors import (
    EventIdReused,
    ForeignEventType,
    Refused,
    StreamClosed,
    VersionConflict,
)
from nightshift.eventlog.port import SHARDS, Append, EventLog, shard_of

Writer = Callable[[Owner], EventLog]


async def versions(log: EventLog, stream: str, **how) -> list[int]:
    return [event.version async for event in log.read_stream(stream, **how)]


class LogConformance:
    """Needs the fixtures `log`, which may append every type, and `writer`, a log of one owner over the same data."""

    @pytest.fixture
    def stream(self) -> str:
        return f"build-b{uuid4().hex[:12]}"

    # --- append ---

    async def test_versions_count_from_one_without_a_gap(self, log, stream):
        first = await log.append(stream, [facts.note(), facts.phase()], expected_version=0)
        second = await log.append(stream, [facts.note()], expected_version=2)
        third = await log.append(stream, [facts.note()])
        assert (first.versions, second.versions, third.versions) == ((1, 2), (3,), (4,))
        assert (first.version, third.version) == (2, 4)
        assert first.fresh
        assert second.fresh
        assert await versions(log, stream) == [1, 2, 3, 4]

    async def test_events_are_read_as_they_were_appended(self, log, stream):
        event = facts.note("hear me")
        done = await log.append(stream, [event])
        (read,) = [one async for one in log.read_stream(stream)]
        assert read.data == event.data
        assert read.event_id == done.event_ids[0]
        assert read.causation_id == event.causation_id
        assert read.correlation_id == read.subject == stream.removeprefix("build-")
        assert read.actor == "tester"
        assert abs(read.recorded_at - datetime.now(UTC)) < timedelta(minutes=5)

    @pytest.mark.parametrize(
        ("actors", "traces"),
        [
            ((None, None, None), ("00-1-2-01", "00-1-2-01", "00-1-2-01")),
            (("a", "b", "a"), (None, None, "00-1-2-01")),
            (("a", None, "a"), ("00-1-2-01", None, None)),
        ],
    )
    async def test_each_event_of_a_batch_keeps_its_own_metadata(self, log, stream, actors, traces):
        batch = [
            replace(facts.note(), actor=actor, traceparent=trace, correlation_id=actor)
            for actor, trace in zip(actors, traces, strict=True)
        ]
        await log.append_all([Append(stream, batch), Append(f"{stream}2", [facts.note()])])
        await log.append(stream, [replace(event, causation_id=uuid4()) for event in batch])
        read = [one async for one in log.read_stream(stream)]
        assert [one.traceparent for one in read] == [*traces, *traces]
        assert [one.actor for one in read] == [actor or "tester" for actor in (*actors, *actors)]
        assert [one.correlation_id for one in read] == [a or read[0].subject for a in (*actors, *actors)]

    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("expected", [0, 1, 3, 7])
    async def test_another_version_than_expected_is_a_conflict(self, log, stream, expected, count):
        await log.append(stream, [facts.note(), facts.note()], expected_version=0)
        with pytest.raises(VersionConflict):
            await log.append(stream, [facts.note() for _ in range(count)], expected_version=expected)
        assert await versions(log, stream) == [1, 2]

    async def test_a_stream_that_must_exist_is_a_conflict_when_it_does_not(self, log, stream):
        with pytest.raises(VersionConflict):
            await log.append(stream, [facts.note()], expected_version=1)

    async def test_an_append_without_events_is_refused(self, log, stream):
        with pytest.raises(Refused):
            await log.append(stream, [])

    @pytest.mark.parametrize(
        "name", ["", "build-", "build-a b", "other-1", "build-a/b", "build-" + "a" * 200]
    )
    async def test_an_invalid_stream_id_is_refused(self, log, name):
        with pytest.raises(Refused):
            await log.append(name, [facts.note()])

    # --- once ---

    @pytest.mark.parametrize("count", [1, 3])
    async def test_a_repeated_append_returns_what_was_recorded(self, log, stream, count):
        cause = uuid4()
        await log.append(stream, [facts.phase()])
        batch = [facts.note(str(index), cause=cause, index=index) for index in range(count)]
        first = await log.append(stream, batch, expected_version=1)
        await log.append(stream, [facts.phase()])
        for expected in (1, None, 0, first.version + 1):
            again = await log.append(stream, batch, expected_version=expected)
            assert not again.fresh
            assert (again.version, again.versions, again.event_ids) == (
                first.version,
                first.versions,
                first.event_ids,
            )
        assert len(await versions(log, stream)) == 2 + count

    async def test_another_writer_does_not_make_another_event(self, log, stream, writer):
        cause = uuid4()
        await log.append(stream, [facts.note(cause=cause)])
        assert not (await writer(Owner.ORCHESTRATOR).append(stream, [facts.note(cause=cause)])).fresh

    @pytest.mark.parametrize("expected", [None, 1])
    async def test_the_same_id_with_other_content_is_an_error(self, log, stream, expected):
        cause = uuid4()
        await log.append(stream, [facts.note("one", cause=cause)])
        with pytest.raises(EventIdReused):
            await log.append(stream, [facts.note("two", cause=cause)], expected_version=expected)
        assert await versions(log, stream) == [1]

    async def test_the_same_id_on_another_stream_is_an_error(self, log, stream):
        cause = uuid4()
        await log.append(stream, [facts.note(cause=cause)])
        await log.append(f"{stream}x", [facts.phase()])
        with pytest.raises(EventIdReused):
            await log.append(f"{stream}x", [facts.note(cause=cause)])

    async def test_a_partly_recorded_batch_is_an_error(self, log, stream):
        cause = uuid4()
        known, unknown = facts.note(cause=cause), facts.note(cause=cause, index=1)
        await log.append(stream, [known])
        for batch in ([known, unknown], [unknown, known]):
            with pytest.raises(EventIdReused):
                await log.append(stream, batch)
        assert await versions(log, stream) == [1]

    async def test_one_id_twice_in_a_batch_is_an_error(self, log, stream):
        cause = uuid4()
        with pytest.raises(EventIdReused):
            await log.append(stream, [facts.note(cause=cause), facts.note(cause=cause)])
        assert await versions(log, stream) == []

    # --- owners and ends ---

    async def test_a_foreign_type_is_refused(self, log, stream, writer):
        await log.append(stream, [facts.phase()])
        budget, gateway = writer(Owner.BUDGET), writer(Owner.SANDBOX_GATEWAY)
        for batch in ([facts.phase()], [facts.result("b/1/0"), facts.phase()], [facts.accepted("b")]):
            with pytest.raises(ForeignEventType):
                await budget.append(stream, batch)
        await gateway.append(stream, [facts.result("b/1/0")])
        assert await versions(log, stream) == [1, 2]

    async def test_a_closed_stream_takes_only_what_may_follow(self, log, stream):
        await log.append(stream, [facts.phase(), facts.cancelled()])
        for late in (facts.note(), facts.checkpoint(), facts.cancelled()):
            with pytest.raises(StreamClosed):
                await log.append(stream, [late])
        with pytest.raises(StreamClosed):
            await log.append(stream, [facts.result("b/1/0"), facts.note()])
        await log.append(stream, [facts.result("b/1/1")], expected_version=2)
        with pytest.raises(StreamClosed):
            await log.append(stream, [facts.note()])
        assert await versions(log, stream) == [1, 2, 3]

    async def test_an_event_after_the_end_of_its_batch_is_refused(self, log, stream):
        with pytest.raises(StreamClosed):
            await log.append(stream, [facts.cancelled(), facts.note()])
        assert await versions(log, stream) == []
        await log.append(stream, [facts.cancelled(), facts.result("b/1/0")])

    async def test_the_append_that_closed_a_stream_can_be_repeated(self, log, stream):
        batch = [facts.phase(), facts.cancelled()]
        await log.append(stream, batch, expected_version=0)
        assert (await log.append(stream, batch, expected_version=0)).versions == (1, 2)

    # --- several streams ---

    async def test_several_streams_are_appended_together(self, log, stream):
        parts = [Append(f"{stream}{n}", [facts.note(), facts.phase()], 0) for n in "abc"]
        done = await log.append_all(parts)
        assert [one.stream_id for one in done] == [one.stream_id for one in parts]
        assert all(one.versions == (1, 2) and one.fresh for one in done)
        again = await log.append_all(parts)
        assert not any(one.fresh for one in again)

    async def test_a_conflict_on_one_stream_appends_to_none(self, log, stream):
        await log.append(f"{stream}b", [facts.note()])
        with pytest.raises(VersionConflict):
            await log.append_all(
                [
                    Append(f"{stream}a", [facts.sandbox(), facts.checkpoint()], 0),
                    Append(f"{stream}b", [facts.note()], 0),
                ]
            )
        assert await versions(log, f"{stream}a") == []
        assert await log.pending(PendingKind.SNAPSHOT) == []

    # --- reading ---

    async def test_a_range_is_read_forwards_and_backwards(self, log, stream):
        await log.append(stream, [facts.note() for _ in range(7)])
        assert await versions(log, stream, from_version=3, to_version=5) == [3, 4, 5]
        assert await versions(log, stream, from_version=3, to_version=5, backwards=True) == [5, 4, 3]
        assert await versions(log, stream, backwards=True, limit=2) == [7, 6]
        assert await versions(log, stream, limit=0) == []
        assert await versions(log, stream, from_version=8) == []
        assert await versions(log, f"{stream}x") == []

    async def test_a_shard_is_read_in_the_order_of_its_commits(self, log, stream):
        for _ in range(3):
            await log.append(stream, [facts.note(), facts.note()])
        shard = shard_of(stream)
        rows = await log.read_shards({shard: 0}, limit=100)
        assert [row.version for row in rows] == [1, 2, 3, 4, 5, 6]
        assert sorted(row.position for row in rows) == [row.position for row in rows]
        assert {row.shard for row in rows} == {shard}
        rest = await log.read_shards({shard: rows[3].position}, limit=1)
        assert [row.version for row in rest] == [5]

    async def test_many_shards_are_read_in_one_call(self, log):
        names = [f"build-many{n}" for n in range(40)]
        for name in names:
            await log.append(name, [facts.note() for _ in range(3)])
        rows = await log.read_shards(dict.fromkeys(range(SHARDS), 0), limit=100)
        assert {(row.stream_id, row.version) for row in rows} == {(n, v) for n in names for v in (1, 2, 3)}
        assert all(row.shard == shard_of(row.stream_id) for row in rows)
        few = await log.read_shards({shard_of(names[0]): 0}, limit=2)
        assert len(few) == 2
        assert await log.read_shards({row.shard: row.position for row in rows}, limit=10) == []
        assert await log.read_shards({}, limit=10) == []

    async def test_unfinished_streams_are_read_page_by_page(self, log, writer):
        await log.append("build-closed", [facts.note(), facts.cancelled()])
        done = SnapshotSaved(
            reason="completion",
            at_version=2,
            tree_digest="sha256:" + "0" * 64,
            files=0,
            bytes=0,
            uploaded_bytes=0,
            key="k",
        )
        await log.append("build-open", [facts.note() for _ in range(3)])
        await log.append("build-waiting", [facts.sandbox(), facts.cancelled()])
        await writer(Owner.SNAPSHOTTER).append("build-closed", [facts.new(done)])
        found: list[tuple[str, int]] = []
        while page := await log.read_open_streams(
            range(SHARDS), after=found[-1] if found else ("", 0), limit=2
        ):
            found += [(row.stream_id, row.version) for row in page]
        waiting = [("build-waiting", 1), ("build-waiting", 2)]
        assert found == [("build-open", 1), ("build-open", 2), ("build-open", 3), *waiting]
        others = [shard for shard in range(SHARDS) if shard != shard_of("build-open")]
        rows = await log.read_open_streams(others, limit=10)
        assert "build-open" not in {row.stream_id for row in rows}

    # --- text ---

    @pytest.mark.parametrize(
        "text",
        [
            "\x00\x01",
            "\ud800 alone \udfff",
            '{"a": 1, "a": 2, "b": 1e400}',
            "🌙 é \u2028",
            "\\u0000 \\",
        ],
    )
    async def test_every_text_is_read_back_exactly(self, log, stream, text):
        await log.append(stream, [facts.result("b/1/0", text), facts.call("b/1/1", text)])
        output, asked = [event.data async for event in log.read_stream(stream)]
        assert output.output == text
        assert asked.input == {"command": text}

    async def test_an_infinite_number_is_stored(self, log, stream):
        event = facts.call("b/1/0")
        data = event.data.model_copy(update={"input": {"limit": float("inf"), "low": [-1e400, 0.1]}})
        await log.append(stream, [facts.new(data)])
        (read,) = [one.data async for one in log.read_stream(stream)]
        assert read.input == {"limit": float("inf"), "low": [float("-inf"), 0.1]}

    async def test_data_without_a_json_form_is_refused(self, log, stream):
        data = facts.call("b/1/0").data.model_copy(update={"input": {"limit": float("nan")}})
        with pytest.raises(Refused):
            await log.append(stream, [facts.new(data)])
