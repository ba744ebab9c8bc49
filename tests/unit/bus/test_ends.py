"""When a partition counts as shortened: what the broker lost is read again, what it tells oddly is not."""

from aiokafka import TopicPartition

from nightshift.bus.kafka.partition_feed import Ends

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


def test_end_that_goes_back_is_a_loss_reported_once() -> None:
    ends = Ends()
    assert ends.shrunk({ONE: 9, TWO: 4}) == []
    assert ends.shrunk({ONE: 2, TWO: 5}) == [ONE]
    assert ends.shrunk({ONE: 2, TWO: 5}) == []


def test_an_end_that_was_never_seen_is_no_loss() -> None:
    ends = Ends()
    assert ends.shrunk({ONE: 9}) == []
    assert ends.shrunk({TWO: 1}) == []
    ends.forget()  # another member had the partition meanwhile
    assert ends.shrunk({ONE: 0}) == []


def test_an_end_is_remembered_while_other_partitions_are_asked() -> None:
    ends = Ends()
    assert ends.shrunk({ONE: 9}) == []
    assert ends.shrunk({TWO: 1}) == []
    assert ends.shrunk({ONE: 0}) == [ONE]
