"""The one backoff of the product: doubling, a cap, and jitter that never goes below half."""

import pytest

from nightshift.eventlog.backoff import Backoff, RetryDelay


def test_the_delay_doubles_up_to_the_cap():
    backoff = Backoff(first_s=0.5, cap_s=3.0)
    assert [backoff.delay(n, jitter=1.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)])
def test_jitter_takes_at_most_half_of_the_delay(jitter, seconds):
    assert Backoff(first_s=2.0, cap_s=60.0).delay(1, jitter=jitter) == seconds


def test_any_number_of_failures_stays_at_the_cap():
    assert Backoff(first_s=0.1, cap_s=7.0).delay(10**9, jitter=1.0) == 7.0


def test_no_failure_yet_waits_like_the_first():
    assert Backoff(first_s=2.0, cap_s=60.0).delay(0, jitter=1.0) == 2.0


def test_a_retry_loop_starts_again_after_a_success():
    delay = RetryDelay(Backoff(first_s=1.0, cap_s=60.0), lambda: 1.0)
    assert [delay.after_failure() for _ in range(3)] == [1.0, 2.0, 4.0]
    delay.reset()
    assert delay.after_failure() == 1.0
