"""Decides how long the relay waits before it reads the log again."""

#: (The shortest, the longest) wait in seconds, while no notifications arrive.
_WITHOUT_NOTIFICATIONS = (0.002, 0.05)
#: The same while notifications arrive. Polling then only finds events whose notification was lost.
_WITH_NOTIFICATIONS = (0.01, 0.25)


def next_wait(wait: float, *, found: bool, notified: bool) -> float:
    """Return the seconds to wait after a read of the log. `wait` is the wait before that read.

    After a read that `found` events, the wait is the shortest; otherwise it doubles up to a limit. If `notified`,
    notifications tell of new events, so the waits are longer.
    """
    shortest, longest = _WITH_NOTIFICATIONS if notified else _WITHOUT_NOTIFICATIONS
    return shortest if found else min(max(wait, shortest) * 2, longest)
