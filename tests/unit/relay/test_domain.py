"""What the relay decides, case by case."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.relay.domain.divergence import BrokerFact, StreamVersion, diverged, explanation, token
from nightshift.relay.domain.polling import PollInterval
from nightshift.relay.domain.readback import OffsetRange, loss, to_read
from nightshift.relay.domain.records import (
    AcknowledgedOffsets,
    Lane,
    LastPublished,
    Record,
    lay_out,
    shards_of,
)

LANE = Lane("nightshift.build.v1", 3)


def record(shard: int, position: int, lane: Lane = LANE) -> Record:
    return Record(lane, b"b1", b"{}", [], shard, position, "build-b1", position, uuid4())


class TestBatches:
    def test_records_keep_the_order_of_the_log_within_their_lane(self):
        other = Lane("nightshift.sandbox.v1", 0)
        records = [record(1, 1), record(1, 2, other), record(1, 3), record(2, 2), record(2, 9, other)]
        batch = lay_out(records)
        assert batch is not None
        assert [r.position for r in batch.lanes[LANE]] == [1, 3, 2]
        assert [r.position for r in batch.lanes[other]] == [2, 9]

    def test_cursors_go_to_the_last_row_of_each_shard(self):
        batch = lay_out([record(1, 1), record(1, 7), record(5, 3)])
        assert batch is not None
        assert batch.cursors == {1: 7, 5: 3}
        assert batch.count == 3

    def test_no_rows_are_no_batch(self):
        assert lay_out([]) is None

    @given(st.integers(1, 64))
    def test_the_groups_have_each_shard_once(self, groups: int):
        shards = [shard for group in range(groups) for shard in shards_of(group, groups, 64)]
        assert sorted(shards) == list(range(64))

    @pytest.mark.parametrize(("group", "groups"), [(1, 1), (-1, 2), (0, 65)])
    def test_a_group_that_cannot_be_is_refused(self, group: int, groups: int):
        with pytest.raises(ValueError, match="group"):
            shards_of(group, groups, 64)


class TestAcknowledgements:
    def test_offsets_that_go_on_are_believed(self):
        seen = AcknowledgedOffsets()
        assert seen.take(LANE, 0, 0, 4)
        assert seen.take(LANE, 5, 5, 5)
        assert seen.take(LANE, 9, 11, 12)  # somebody else wrote in between

    @pytest.mark.parametrize("first", [0, 3, 4])
    def test_an_offset_given_again_is_a_log_that_was_lost(self, first: int):
        seen = AcknowledgedOffsets()
        assert seen.take(LANE, 0, 2, 4)
        assert not seen.take(LANE, first, first, first + 2)

    def test_lanes_are_apart(self):
        seen = AcknowledgedOffsets()
        assert seen.take(LANE, 7, 7, 7)
        assert seen.take(Lane("nightshift.budget.v1", 3), 0, 0, 0)


class TestReadBack:
    event_id = uuid4()
    published = LastPublished(LANE, 10, event_id, "build-b1", 4)

    def test_the_same_record_at_its_offset_is_well(self):
        assert loss(self.published, {LANE: OffsetRange(0, 11)}, str(self.event_id)) is None

    def test_records_after_it_are_well(self):
        assert loss(self.published, {LANE: OffsetRange(4, 900)}, str(self.event_id)) is None

    @pytest.mark.parametrize("offsets", [OffsetRange(11, 11), OffsetRange(500, 900)])
    def test_retention_and_deleted_records_are_no_loss(self, offsets: OffsetRange):
        assert not to_read(self.published, {LANE: offsets})
        assert loss(self.published, {LANE: offsets}, None) is None

    @pytest.mark.parametrize("offsets", [OffsetRange(0, 0), OffsetRange(0, 10)])
    def test_a_lane_that_ends_before_it_lost_it(self, offsets: OffsetRange):
        assert not to_read(self.published, {LANE: offsets})
        assert "was acknowledged" in (loss(self.published, {LANE: offsets}, None) or "")

    @pytest.mark.parametrize("found", [None, "6b10b099-df0e-4e00-a1b3-80c5578c9e25"])
    def test_another_record_in_its_place_is_a_loss(self, found: str | None):
        assert "another record" in (loss(self.published, {LANE: OffsetRange(0, 11)}, found) or "")

    def test_a_partition_that_is_gone_is_a_loss(self):
        assert "is not there" in (loss(self.published, {}, None) or "")


class TestDivergence:
    def fact(self, version: int = 3, subject: str = "b1") -> BrokerFact:
        return BrokerFact(LANE, 17, UUID(int=version), subject, version)

    def test_what_the_log_has_at_its_place_is_true(self):
        fact = self.fact()
        assert diverged([fact], {fact.event_id: StreamVersion("build-b1", 3)}) == ()

    @pytest.mark.parametrize("place", [None, StreamVersion("build-b1", 4), StreamVersion("build-b2", 3)])
    def test_what_the_log_has_not_or_elsewhere_is_not(self, place: StreamVersion | None):
        fact = self.fact()
        log = {} if place is None else {fact.event_id: place}
        assert diverged([fact], log) == (fact,)

    def test_an_account_fact_is_told_by_its_account(self):
        fact = self.fact(subject="acme")
        assert diverged([fact], {fact.event_id: StreamVersion("account-acme", 3)}) == ()

    def test_the_token_names_these_facts_in_any_order_and_no_others(self):
        facts = [self.fact(1), self.fact(2)]
        assert token(facts) == token(reversed(facts))
        assert token(facts) != token([*facts, self.fact(3)])

    def test_the_explanation_names_a_fact_and_the_way_on(self):
        facts = (self.fact(),)
        message, hint = explanation(facts)
        assert message.startswith("log.diverged")
        assert str(facts[0].event_id) in message
        assert f"NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE={token(facts)}" in hint


class TestPace:
    interval = PollInterval(alone=(0.002, 0.05), notified=(0.01, 0.25))

    def test_a_find_is_followed_at_once(self):
        assert self.interval.following(0.05, found=True, notifications=False) == 0.002
        assert self.interval.following(0.25, found=True, notifications=True) == 0.01

    def test_quiet_doubles_up_to_the_bound_for_its_way_of_waking(self):
        for notifications, first, bound in ((False, 0.004, 0.05), (True, 0.02, 0.25)):
            waits, wait = [], 0.0
            for _ in range(12):
                wait = self.interval.following(wait, found=False, notifications=notifications)
                waits.append(wait)
            assert waits[:2] == [first, 2 * first]
            assert waits[-1] == bound
