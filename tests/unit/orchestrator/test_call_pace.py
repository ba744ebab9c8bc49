"""The calls of a replica while its provider has too many of them: paused, spaced, and soon as fast as before."""

from datetime import timedelta

import pytest
from tests.unit.orchestrator.build_scenario import NOW

from nightshift.orchestrator.usecases.call_pace import CallPace


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_calls_start_at_once_until_the_provider_refuses_one():
    pace = CallPace()
    assert [pace.turn(NOW) for _ in range(5)] == [NOW] * 5
    pace.refused(NOW, NOW, retry_after_s=7.0)
    assert [pace.turn(NOW) for _ in range(3)] == [NOW + s(7)] * 3
    assert pace.turn(NOW + s(7)) == NOW + s(7)
    assert [pace.turn(NOW + s(7)) for _ in range(3)] == [NOW + s(7.25)] * 3


def test_calls_that_were_in_flight_together_slow_down_once():
    pace = CallPace()
    for _ in range(30):
        pace.refused(NOW - s(1), NOW, retry_after_s=None)
    assert pace.interval_s == 0.25
    pace.refused(NOW + s(1), NOW + s(2), retry_after_s=None)
    assert pace.interval_s == 0.5


@pytest.mark.parametrize("asked", [1e9, 301.0])
def test_a_pause_of_all_builds_is_bounded(asked):
    pace = CallPace()
    pace.refused(NOW, NOW, retry_after_s=asked)
    assert pace.turn(NOW) == NOW + s(300)
    pace = CallPace()
    pace.pause_until(NOW + timedelta(days=30), NOW)
    assert pace.turn(NOW) == NOW + s(300)


def test_answers_make_the_calls_fast_again():
    pace = CallPace()
    pace.refused(NOW, NOW, retry_after_s=0.0)
    for _ in range(40):
        pace.answered()
    assert pace.interval_s == 0.0
    assert pace.turn(NOW + s(1)) == NOW + s(1)
