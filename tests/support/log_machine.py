"""Hypothesis draws appends for an event log and for a model of it. Both must agree after each append."""

import asyncio
from typing import ClassVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.support import facts

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import EventIdReused, StreamClosed, VersionConflict
from nightshift.eventlog.port import SHARDS, Append, EventLog, NewEvent

STREAMS = ("build-m1", "build-m2", "account-m3")
_streams = st.sampled_from(STREAMS)
_causes = st.integers(1, 6).map(lambda number: UUID(int=number))
_expected = st.none() | st.integers(0, 4)


def _event(draw: tuple[str, UUID, int]) -> NewEvent:
    kind, cause, text = draw
    match kind:
        case "note":
            return facts.note(str(text), cause=cause)
        case "call":
            return facts.new(facts.call(f"m/{text}/0").data, cause=cause)
        case "result":
            return facts.result(f"m/{text}/0", cause=cause)
        case _:
            return facts.new(facts.cancelled().data, cause=cause)


_kinds = st.sampled_from(["note", "note", "note", "call", "call", "result", "end"])
_batches = st.lists(
    st.tuples(_kinds, _causes, st.integers(0, 2)).map(_event),
    min_size=1,
    max_size=3,
    unique_by=lambda one: (one.causation_id, one.data.type),
)


class LogMachine(RuleBasedStateMachine):
    """The model keeps each stream as a list of events and derives ids and pending rows from the lists."""

    loop: ClassVar[asyncio.AbstractEventLoop]

    def make_log(self) -> EventLog:
        """Returns an empty log."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.log = self.make_log()
        self.streams: dict[str, list[NewEvent]] = {name: [] for name in STREAMS}

    @rule(stream=_streams, batch=_batches, expected=_expected)
    def append(self, stream: str, batch: list[NewEvent], expected: int | None) -> None:
        refusal = self._refusal(stream, batch, expected)
        if refusal is not None:
            with pytest.raises(refusal):
                self.loop.run_until_complete(self.log.append(stream, batch, expected_version=expected))
            return
        done = self.loop.run_until_complete(self.log.append(stream, batch, expected_version=expected))
        if done.fresh:
            self.streams[stream] += batch
        keys = [_key(one) for one in self.streams[stream]]
        assert done.versions == tuple(keys.index(_key(one)) + 1 for one in batch)
        assert done.version == max(done.versions)

    @rule(
        batches=st.lists(st.tuples(_streams, _batches), min_size=2, max_size=2, unique_by=lambda one: one[0])
    )
    def append_to_two(self, batches: list[tuple[str, list[NewEvent]]]) -> None:
        ids = [_key(one) for _, batch in batches for one in batch]
        if len(set(ids)) < len(ids):
            return
        refusals = [self._refusal(stream, batch, None) for stream, batch in batches]
        refused = next((one for one in refusals if one is not None), None)
        appends = [Append(stream, batch) for stream, batch in batches]
        if refused is not None:
            with pytest.raises(refused):
                self.loop.run_until_complete(self.log.append_all(appends))
            return
        done = self.loop.run_until_complete(self.log.append_all(appends))
        for (stream, batch), one in zip(batches, done, strict=True):
            if one.fresh:
                self.streams[stream] += batch

    @invariant()
    def reads_the_same(self) -> None:
        rows = self.loop.run_until_complete(self.log.read_shards(dict.fromkeys(range(SHARDS), 0), limit=1000))
        for name, events in self.streams.items():
            assert [row.version for row in rows if row.stream_id == name] == list(range(1, len(events) + 1))
            assert [row.causation_id for row in rows if row.stream_id == name] == [
                one.causation_id for one in events
            ]

    @invariant()
    def the_same_waits(self) -> None:
        items = self.loop.run_until_complete(self.log.pending(PendingKind.TOOL_CALL))
        assert {(item.stream_id, item.key, item.version) for item in items} == self._open_calls()

    def _refusal(self, stream: str, batch: list[NewEvent], expected: int | None) -> type[Exception] | None:
        events = self.streams[stream]
        known = {_key(one): (name, one.data) for name, all_ in self.streams.items() for one in all_}
        there = [known.get(_key(one)) for one in batch]
        if any(there):
            same = there == [(stream, one.data) for one in batch]
            return None if same else EventIdReused
        closed = any(one.data.terminal for one in events)
        if closed and not all(one.data.after_close for one in batch):
            return StreamClosed
        if expected is not None and expected != len(events):
            return VersionConflict
        ends = [place for place, one in enumerate(batch) if one.data.terminal]
        if ends and not all(one.data.after_close for one in batch[ends[0] + 1 :]):
            return StreamClosed
        return None

    def _open_calls(self) -> set[tuple[str, str, int]]:
        waiting: dict[tuple[str, str], int] = {}
        for name, events in self.streams.items():
            for version, one in enumerate(events, start=1):
                for change in one.data.pending("m"):
                    if change.kind is PendingKind.TOOL_CALL and change.opens:
                        waiting[name, change.key] = version
                    elif change.kind is PendingKind.TOOL_CALL:
                        waiting.pop((name, change.key), None)
        return {(name, key, version) for (name, key), version in waiting.items()}


def _key(event: NewEvent) -> tuple[UUID, str]:
    return event.causation_id, event.data.type
