"""The fetch's wait follows the traffic."""

from nightshift.runtime.bus.kafka.fetch_pace import STEPS, FetchPace


def test_short_while_messages_flow_longer_the_longer_none_came():
    now, waits = [0.0], []
    pace = FetchPace(clock=lambda: now[0])
    pace.add(waits.append)
    for second in (1.0, 2.5, 29.0, 31.0):
        now[0] = second
        pace.tick()
    pace.flowed()
    pace.tick()
    short, middle, long = (wait for _, wait in STEPS)
    assert waits == [short, middle, long, short]


def test_a_consumer_that_comes_later_gets_the_pace_of_now():
    now, waits = [0.0], []
    pace = FetchPace(clock=lambda: now[0])
    now[0] = 100.0
    pace.tick()
    pace.add(waits.append)
    assert waits == [STEPS[-1][1]]
