"""Decides how long the relay waits before it reads the log again."""

#: The shortest and the longest wait, in seconds.
_WITHOUT_NOTIFICATIONS = (0.002, 0.05)
#: While notifications arrive, polling only finds what was appended without one.
_WITH_NOTIFICATIONS = (0.01, 0.25)


def next_wait(wait: float, *, found: bool, notified: bool) -> float:
    """Return the wait after one of `wait` seconds: the shortest when the read found events, else twice as long.

    `notified`: notifications arrive.
    """
    shortest, longest = _WITH_NOTIFICATIONS if notified else _WITHOUT_NOTIFICATIONS
    return shortest if found else min(max(wait, shortest) * 2, longest)
