"""The pure decisions of the relay, case by case."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.port import Row
from nightshift.relay.domain.data_loss import OffsetRange, can_be_read, data_loss
from nightshift.relay.domain.divergence import BrokerFact, diverged, explanation, token
from nightshift.relay.domain.poll_interval import next_wait
from nightshift.relay.domain.records import (
    AcknowledgedOffsets,
    LastPublished,
    Record,
    group_by_partition,
    shards_of,
)

PARTITION = TopicPartition("nightshift.build.v1", 3)


def record(shard: int, position: int, partition: TopicPartition = PARTITION) -> Record:
    row = Row(
        shard,
        position,
        "build-b1",
        position,
        uuid4(),
        "t",
        1,
        "{}",
        "b1",
        uuid4(),
        "relay",
        None,
        datetime.now(UTC),
    )
    return Record(partition, b"b1", b"{}", [], row)


class TestBatches:
    def test_records_keep_the_log_order_within_a_partition(self):
        other = TopicPartition("nightshift.sandbox.v1", 0)
        records = [record(1, 1), record(1, 2, other), record(1, 3), record(2, 2), record(2, 9, other)]
        batch = group_by_partition(records)
        assert batch is not None
        assert [r.row.position for r in batch.records[PARTITION]] == [1, 3, 2]
        assert [r.row.position for r in batch.records[other]] == [2, 9]

    def test_cursors_point_at_the_last_row_of_each_shard(self):
        batch = group_by_partition([record(1, 1), record(1, 7), record(5, 3)])
        assert batch is not None
        assert batch.cursors == {1: 7, 5: 3}
        assert batch.count == 3

    def test_no_rows_make_no_batch(self):
        assert group_by_partition([]) is None

    @given(st.integers(1, 64))
    def test_each_shard_is_in_exactly_one_group(self, groups: int):
        shards = [shard for group in range(groups) for shard in shards_of(group, groups, 64)]
        assert sorted(shards) == list(range(64))

    @pytest.mark.parametrize(("group", "groups"), [(1, 1), (-1, 2), (0, 65)])
    def test_an_unknown_group_raises_value_error(self, group: int, groups: int):
        with pytest.raises(ValueError, match="group"):
            shards_of(group, groups, 64)


class TestAcknowledgements:
    def test_growing_offsets_are_accepted(self):
        seen = AcknowledgedOffsets()
        assert seen.take(PARTITION, 0, 0, 4)
        assert seen.take(PARTITION, 5, 5, 5)
        assert seen.take(PARTITION, 9, 11, 12)  # somebody else wrote in between

    @pytest.mark.parametrize("first", [0, 3, 4])
    def test_an_offset_given_twice_is_a_loss(self, first: int):
        seen = AcknowledgedOffsets()
        assert seen.take(PARTITION, 0, 2, 4)
        assert not seen.take(PARTITION, first, first, first + 2)

    def test_partitions_are_compared_separately(self):
        seen = AcknowledgedOffsets()
        assert seen.take(PARTITION, 7, 7, 7)
        assert seen.take(TopicPartition("nightshift.budget.v1", 3), 0, 0, 0)


class TestDataLoss:
    event_id = uuid4()
    published = LastPublished(PARTITION, 10, event_id, "build-b1", 4)

    def test_the_same_record_at_its_offset_is_no_loss(self):
        assert data_loss(self.published, {PARTITION: OffsetRange(0, 11)}, str(self.event_id)) is None

    def test_records_after_it_are_no_loss(self):
        assert data_loss(self.published, {PARTITION: OffsetRange(4, 900)}, str(self.event_id)) is None

    @pytest.mark.parametrize("offsets", [OffsetRange(11, 11), OffsetRange(500, 900)])
    def test_retention_and_deleted_records_are_no_loss(self, offsets: OffsetRange):
        assert not can_be_read(self.published, {PARTITION: offsets})
        assert data_loss(self.published, {PARTITION: offsets}, None) is None

    @pytest.mark.parametrize("offsets", [OffsetRange(0, 0), OffsetRange(0, 10)])
    def test_an_end_before_the_acknowledged_offset_is_a_loss(self, offsets: OffsetRange):
        assert not can_be_read(self.published, {PARTITION: offsets})
        assert "was acknowledged" in (data_loss(self.published, {PARTITION: offsets}, None) or "")

    @pytest.mark.parametrize("found", [None, "6b10b099-df0e-4e00-a1b3-80c5578c9e25"])
    def test_another_record_at_the_offset_is_a_loss(self, found: str | None):
        assert "another record" in (data_loss(self.published, {PARTITION: OffsetRange(0, 11)}, found) or "")

    def test_a_missing_partition_is_a_loss(self):
        assert "does not exist" in (data_loss(self.published, {}, None) or "")


class TestDivergence:
    def fact(self, version: int = 3, subject: str = "b1") -> BrokerFact:
        return BrokerFact(PARTITION, 17, UUID(int=version), subject, version)

    def test_a_fact_at_the_same_version_is_no_divergence(self):
        fact = self.fact()
        assert diverged([fact], {fact.event_id: ("b1", 3)}) == ()

    @pytest.mark.parametrize("place", [None, ("b1", 4), ("b2", 3)])
    def test_a_missing_or_moved_fact_is_a_divergence(self, place: tuple[str, int] | None):
        fact = self.fact()
        log = {} if place is None else {fact.event_id: place}
        assert diverged([fact], log) == (fact,)

    def test_a_fact_of_an_account_is_compared_by_its_account(self):
        fact = self.fact(subject="acme")
        assert diverged([fact], {fact.event_id: ("acme", 3)}) == ()

    def test_the_token_covers_exactly_these_facts(self):
        facts = [self.fact(1), self.fact(2)]
        assert token(facts) == token(reversed(facts))
        assert token(facts) != token([*facts, self.fact(3)])

    def test_the_explanation_names_a_fact_and_what_to_do(self):
        facts = (self.fact(),)
        message, hint = explanation(facts)
        assert message.startswith("log.diverged")
        assert str(facts[0].event_id) in message
        assert f"NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE={token(facts)}" in hint


class TestNextWait:
    def test_a_read_with_events_is_followed_at_once(self):
        assert next_wait(0.05, found=True, notified=False) == 0.002
        assert next_wait(0.25, found=True, notified=True) == 0.01

    def test_the_wait_doubles_up_to_its_bound(self):
        for notified, first, bound in ((False, 0.004, 0.05), (True, 0.02, 0.25)):
            waits, wait = [], 0.0
            for _ in range(12):
                wait = next_wait(wait, found=False, notified=notified)
                waits.append(wait)
            assert waits[:2] == [first, 2 * first]
            assert waits[-1] == bound
