"""The ids, JSON and pending changes that an append is turned into."""

import subprocess
import sys
from datetime import UTC, datetime
from uuid import UUID

import pytest
from tests.support import facts

from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.ids import event_id
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import NewEvent, Row
from nightshift.eventlog.prepare import pending_changes, prepare, recorded

CAUSE = UUID(int=7)


def saved(at_version: int) -> NewEvent:
    return facts.new(
        SnapshotSaved(
            reason="checkpoint",
            at_version=at_version,
            tree_digest="sha256:" + "0" * 64,
            files=0,
            bytes=0,
            uploaded_bytes=0,
            key="k",
        )
    )


def net(*events: NewEvent) -> list[tuple[str, int | None, int | None]]:
    return [
        (one.change.key, one.event, one.change.through_version) for one in pending_changes("build-b", events)
    ]


def test_ids_are_derived_from_the_cause_the_type_and_the_index():
    first, second = prepare(
        "build-b", [facts.note(cause=CAUSE), facts.note(cause=CAUSE, index=1)], actor="me"
    )
    assert first.event_id == event_id(CAUSE, "agent.steered", 0)
    assert second.event_id == event_id(CAUSE, "agent.steered", 1)
    assert (first.correlation_id, first.actor) == ("b", "me")


def test_metadata_of_the_event_overrides_the_writers():
    event = NewEvent(facts.note().data, CAUSE, correlation_id="c", actor="other", traceparent="00-1-2-01")
    (one,) = prepare("build-b", [event], actor="me")
    assert (one.correlation_id, one.actor, one.traceparent) == ("c", "other", "00-1-2-01")


def test_the_last_change_of_each_key_counts():
    assert net(facts.checkpoint(1), facts.checkpoint(2)) == [("b/checkpoint", 2, None)]
    assert net(facts.call("b/1/0"), facts.result("b/1/0")) == [("b/1/0", None, None)]
    assert net(facts.result("b/1/0"), facts.call("b/1/0")) == [("b/1/0", 2, None)]


def test_a_close_through_a_version_spares_its_own_batch():
    assert net(facts.checkpoint(1), saved(5)) == [("b/checkpoint", 1, None)]
    assert net(saved(5), saved(3)) == [("b/checkpoint", None, 5)]


def test_data_that_this_release_cannot_read_is_a_fault():
    row = Row(
        shard=0,
        position=1,
        stream_id="build-b",
        version=1,
        event_id=CAUSE,
        type="agent.steered",
        schema_version=99,
        data="{}",
        correlation_id="b",
        causation_id=CAUSE,
        actor="me",
        traceparent=None,
        recorded_at=datetime.now(UTC),
    )
    with pytest.raises(Fault, match="version 1 cannot be read"):
        recorded(row)


_PROGRAM = """
from tests.support import facts
from nightshift.eventlog.prepare import prepare
from uuid import UUID
event = facts.call("b/1/0", "\\x00 \\ud800 1e400")
data = event.data.model_copy(update={"input": {"z": {"b": 1, "a": 0.1}, "a": float("inf"), "é": "é"}})
print(prepare("build-b", [facts.new(data, cause=UUID(int=7))], actor="me")[0].data)
"""


@pytest.mark.timeout(120)
def test_another_process_writes_the_same_bytes():
    """Equal bytes in every process: a request rebuilt after a restart must hit the provider's prompt cache."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
    assert '"input":{"a":1e999,"z":{"a":0.1,"b":1},"\\u00e9":"\\u00e9"}' in texts.pop()
