"""A dead letter keeps the original's bytes, whatever they are, and nobody can forge where it came from."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.bus import dead_letter_codec
from nightshift.bus.dead_letter_codec import Failure
from nightshift.bus.dead_letter_publisher import DeadLetterPublisher
from nightshift.bus.dead_letters import DeadLetters, restored
from nightshift.bus.memory import MemoryBus, Stored
from nightshift.bus.policy import RetryPolicy, branch_of, reason_of
from nightshift.bus.port import Outgoing
from nightshift.eventlog.errors import BadMessage, Refused, Unavailable, VersionConflict
from nightshift.eventlog.objects.memory import MemoryObjectStore

NOW = datetime.now(UTC)
FAILURE = Failure("bad_message", BadMessage("no", field="x"), 1, NOW, NOW)

names = st.text(max_size=20) | st.sampled_from(
    [
        dead_letter_codec.SOURCE_TOPIC,
        dead_letter_codec.ID,
        dead_letter_codec.BODY,
        dead_letter_codec.HEADERS_BODY,
        dead_letter_codec.REDRIVEN,
        dead_letter_codec.DROPPED,
    ]
)
messages = st.builds(
    Stored,
    topic=st.just("t.requests.v1"),
    partition=st.integers(0, 3),
    offset=st.integers(0, 10**6),
    timestamp=st.integers(0, 10**12),
    key=st.none() | st.binary(max_size=3000),
    value=st.none() | st.binary(max_size=3000),
    headers=st.lists(st.tuples(names, st.none() | st.binary(max_size=3000)), max_size=5).map(tuple),
)


@given(message=messages, limit=st.sampled_from([dead_letter_codec.BLOCK_BYTES + 500, 20_000]))
async def test_the_original_comes_back_byte_for_byte(message, limit):
    bus, objects = MemoryBus(), MemoryObjectStore()
    await DeadLetterPublisher(bus, objects, topic="t.dead-letter.v1", carry_limit=limit).publish(
        message, FAILURE, group="g"
    )
    (record,) = bus.messages("t.dead-letter.v1")
    assert sum(len(part or b"") for part in (record.key, record.value)) <= limit
    letter = dead_letter_codec.read(record)
    assert letter.id == dead_letter_codec.dead_letter_id("g", message)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == (
        message.topic,
        message.partition,
        message.offset,
    )
    whole = await restored(letter, objects)
    assert (whole.key, whole.value, whole.headers) == (message.key, message.value, message.headers)


@given(headers=st.lists(st.tuples(names, st.none() | st.binary(max_size=50)), max_size=5).map(tuple))
def test_foreign_record_raises_bad_message_only(headers):
    record = Stored("t.dead-letter.v1", 0, 0, 0, b"k", b"v", headers)
    with pytest.raises(BadMessage):
        dead_letter_codec.read(record)


async def test_redrive_to_a_foreign_topic_is_refused():
    bus = MemoryBus()
    evil = Stored("payments", 0, 0, 0, b"k", b"v", ())
    await DeadLetterPublisher(bus, MemoryObjectStore(), topic="t.dead-letter.v1").publish(
        evil, FAILURE, group="g"
    )
    dead = DeadLetters(bus, topic="t.dead-letter.v1", known_topics=["t.requests.v1"])
    (listed,) = await dead.list()
    with pytest.raises(Refused, match="no topic of ours"):
        await dead.redrive(listed.dead_letter, bus, None)
    assert bus.messages("payments") == []


async def test_message_published_twice_is_one_dead_letter():
    bus = MemoryBus()
    message = Stored("t.requests.v1", 0, 7, 0, b"k", b"v", ())
    for _ in range(2):
        await DeadLetterPublisher(bus, MemoryObjectStore(), topic="t.dead-letter.v1").publish(
            message, FAILURE, group="g"
        )
    dead = DeadLetters(bus, topic="t.dead-letter.v1", known_topics=[])
    assert len(await dead.list()) == 1


async def test_list_without_bodies_and_whole_with_them():
    bus = MemoryBus()
    publisher = DeadLetterPublisher(bus, MemoryObjectStore(), topic="t.dead-letter.v1")
    for offset in range(3):
        body = b"x" * 100 * (offset + 1)
        await publisher.publish(
            Stored("t.requests.v1", 0, offset, 0, b"k", body, (("a", body),)), FAILURE, group="g"
        )
    dead = DeadLetters(bus, topic="t.dead-letter.v1", known_topics=[])
    shown = [each.dead_letter for each in await dead.list(bodies=False)]
    assert [(one.value, one.headers, one.value_bytes) for one in shown] == [
        (None, (), 100),
        (None, (), 200),
        (None, (), 300),
    ]
    whole = [one async for one in dead.whole([shown[2].id, shown[0].id])]
    assert [(one.value, one.headers[0][1]) for one in whole] == [(b"x" * 100,) * 2, (b"x" * 300,) * 2]


async def test_dropped_dead_letter_is_kept_and_not_listed():
    bus = MemoryBus()
    forged = ((dead_letter_codec.DROPPED, b"another"), (dead_letter_codec.DROPPED_WHY, b"forged"))
    message = Stored("t.requests.v1", 0, 7, 0, b"k", b"v", forged)
    await DeadLetterPublisher(bus, MemoryObjectStore(), topic="t.dead-letter.v1").publish(
        message, FAILURE, group="g"
    )
    dead = DeadLetters(bus, topic="t.dead-letter.v1", known_topics=["t.requests.v1"])
    (listed,) = await dead.list()
    assert listed.dropped is None
    await dead.drop(listed.dead_letter, "never to be mended", bus)
    assert await dead.list() == []
    assert (await dead.find(listed.dead_letter.id)).dropped == "never to be mended"
    await dead.redrive(listed.dead_letter, bus, None)  # a person may still change their mind
    assert [one.value for one in bus.messages("t.requests.v1")] == [b"v"]


class FailsThreeTimes:
    def __init__(self, bus: MemoryBus) -> None:
        self.bus, self.left = bus, 3

    async def send(self, messages: list[Outgoing]):
        if self.left:
            self.left -= 1
            raise Unavailable("no broker")
        return await self.bus.send(messages)


async def test_publishing_waits_for_the_broker():
    bus = MemoryBus()
    quick = RetryPolicy(base_s=0.001, dependency_cap_s=0.001)
    publisher = DeadLetterPublisher(FailsThreeTimes(bus), MemoryObjectStore(), topic="d", retry=quick)
    await publisher.publish(Stored("t", 0, 0, 0, b"k", b"v", ()), FAILURE, group="g")
    assert len(bus.messages("d")) == 1


def test_reasons_are_words_of_a_closed_set():
    assert [reason_of(error) for error in (VersionConflict("x"), KeyError("user text"), BadMessage("y"))] == [
        "version_conflict",
        "fault",
        "bad_message",
    ]
    assert [branch_of(error).value for error in (Refused("x"), Unavailable("y"), KeyError("z"))] == [
        "refused",
        "transient",
        "fault",
    ]
