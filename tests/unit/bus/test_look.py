"""A fetch that the broker had no time for is given more, until it has."""

import pytest

from nightshift.bus.kafka.look import Look


class LongPartition:
    """A broker that needs so many milliseconds to look."""

    def __init__(self, needs_ms: int) -> None:
        self.needs_ms = needs_ms
        self.wait_ms = 0
        self.look = Look(self.set_wait)
        self.look.ask(3)

    def set_wait(self, wait_ms: int) -> None:
        self.wait_ms = wait_ms

    def fetch(self, *, there: bool = True) -> bool:
        found = there and self.wait_ms >= self.needs_ms
        self.look.fetched(found=found, missed=there and not found)
        return found


@pytest.mark.parametrize("needs_ms", [1, 4, 40, 4000])
def test_what_is_there_is_found_after_a_few_fetches(needs_ms):
    broker = LongPartition(needs_ms)
    assert any(broker.fetch() for _ in range(13))
    assert broker.wait_ms <= max(3, 2 * needs_ms)


def test_what_was_learnt_holds_while_nothing_comes():
    broker = LongPartition(40)
    while not broker.fetch():
        pass
    for _ in range(1000):
        broker.fetch(there=False)
    assert broker.fetch()


def test_a_broker_that_needs_little_again_is_soon_given_little():
    broker = LongPartition(40)
    while not broker.fetch():
        pass
    broker.needs_ms = 1
    for _ in range(150):
        assert broker.fetch()
    assert broker.wait_ms == 3


def test_one_fetch_in_vain_between_others_changes_nothing():
    broker = LongPartition(1)
    for _ in range(5):
        broker.look.fetched(found=False, missed=True)
        assert broker.wait_ms == 3
        assert broker.fetch()


def test_the_pace_may_ask_for_more_than_the_broker_needs():
    broker = LongPartition(4)
    while not broker.fetch():
        pass
    broker.look.ask(500)
    assert broker.wait_ms == 500
    broker.look.ask(3)
    assert broker.wait_ms >= 4
