"""A fetch that the broker had no time for is given more, until it has."""

import pytest

from nightshift.bus.kafka.embedded.fetch_timeout import FetchTimeout


class LongPartition:
    """A broker that needs so many milliseconds to look."""

    def __init__(self, needs_ms: int) -> None:
        self.needs_ms = needs_ms
        self.wait_ms = 0
        self.timeout = FetchTimeout(self.set_wait)
        self.timeout.ask(3)

    def set_wait(self, wait_ms: int) -> None:
        self.wait_ms = wait_ms

    def fetch(self, *, there: bool = True) -> bool:
        found = there and self.wait_ms >= self.needs_ms
        self.timeout.fetched(found=found, missed=there and not found)
        return found


@pytest.mark.parametrize("needs_ms", [1, 4, 40, 4000])
def test_records_are_found_after_a_few_fetches(needs_ms):
    broker = LongPartition(needs_ms)
    assert any(broker.fetch() for _ in range(13))
    assert broker.wait_ms <= max(3, 2 * needs_ms)


def test_longer_wait_holds_while_nothing_arrives():
    broker = LongPartition(40)
    while not broker.fetch():
        pass
    for _ in range(1000):
        broker.fetch(there=False)
    assert broker.fetch()


def test_wait_shortens_when_the_broker_answers_quickly():
    broker = LongPartition(40)
    while not broker.fetch():
        pass
    broker.needs_ms = 1
    for _ in range(150):
        assert broker.fetch()
    assert broker.wait_ms == 3


def test_single_miss_changes_nothing():
    broker = LongPartition(1)
    for _ in range(5):
        broker.timeout.fetched(found=False, missed=True)
        assert broker.wait_ms == 3
        assert broker.fetch()


def test_longer_wait_than_needed_may_be_asked_for():
    broker = LongPartition(4)
    while not broker.fetch():
        pass
    broker.timeout.ask(500)
    assert broker.wait_ms == 500
    broker.timeout.ask(3)
    assert broker.wait_ms >= 4
