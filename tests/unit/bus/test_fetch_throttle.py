"""When a broker that does not wake a waiting fetch is asked again."""

import asyncio

import pytest

from nightshift.bus.kafka.embedded.fetch_throttle import NOTIFIED_S, STEPS, FetchThrottle


class Notifications:
    """The relay's notifications, connected or not."""

    connected = True

    def subscribe(self, topic, notify):
        raise AssertionError("a throttle does not subscribe by itself")


def test_delay_grows_with_the_time_since_the_last_message():
    now = [0.0]
    throttle = FetchThrottle(clock=lambda: now[0])
    waits = []
    waits.append(throttle.wait_s)
    throttle.fetched(found=True, missed=False)
    for second in (1.0, 2.5, 29.0, 31.0):
        now[0] = second
        throttle.fetched(found=False, missed=False)
        waits.append(throttle.wait_s)
    throttle.fetched(found=True, missed=False)
    waits.append(throttle.wait_s)
    short, middle, long = (wait for _, wait in STEPS)
    assert waits == [long, short, middle, middle, long, short]  # the longest before the first one


def test_empty_fetch_doubles_the_delay_with_notifications():
    notifications, waits = Notifications(), []
    throttle = FetchThrottle(notifications, clock=lambda: 0.0)
    for _ in range(12):
        waits.append(throttle.wait_s)
        throttle.fetched(found=False, missed=False)
    first, longest = NOTIFIED_S
    assert waits[:3] == [first, 2 * first, 4 * first]
    assert waits[-1] == longest
    notifications.connected = False
    assert throttle.wait_s == STEPS[-1][1]
    notifications.connected = True
    throttle.notify()
    throttle.fetching()
    throttle.fetched(found=False, missed=False)
    assert throttle.wait_s == 2 * first


async def test_notification_during_a_fetch_ends_the_next_delay(monkeypatch):
    monkeypatch.setattr("nightshift.bus.kafka.embedded.fetch_throttle.NOTIFIED_S", (3600.0, 3600.0))
    throttle = FetchThrottle(Notifications())
    throttle.notify()
    throttle.fetching()  # it finds what the notification was about
    waiting = asyncio.create_task(throttle.pause())
    await asyncio.sleep(0)
    assert not waiting.done()
    throttle.notify()
    await waiting
    throttle.fetching()
    throttle.notify()
    await throttle.pause()


async def test_fetch_delay_starts_with_the_second_fetch(
    monkeypatch,
):
    now, slept = [100.0], []

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    throttle = FetchThrottle(Notifications(), max_fetch_delay_s=0.5, clock=lambda: now[0])
    monkeypatch.setattr("nightshift.bus.kafka.embedded.fetch_throttle.asyncio.sleep", sleep)
    await throttle.rest()
    throttle.leaving()
    assert slept == []
    now[0] += 0.2
    await throttle.rest()
    throttle.leaving()
    assert slept == [pytest.approx(0.3)]
    now[0] += 7
    await throttle.rest()
    assert len(slept) == 1


async def test_without_a_fetch_delay_no_fetch_rests():
    throttle = FetchThrottle(Notifications())
    for _ in range(3):
        resting = asyncio.create_task(throttle.rest())
        await asyncio.sleep(0)
        assert resting.done()
        throttle.leaving()
