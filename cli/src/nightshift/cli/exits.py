"""What the exit code of every `nightshift` command means. Scripts rely on the numbers: they never change."""

from enum import IntEnum


class Exit(IntEnum):
    """The outcome of a command; of the build it waited for, when it waited for one."""

    OK = 0  # done; the build is ready
    ERROR = 1
    USAGE = 2
    BUILD_FAILED = 3
    CONFIGURATION = 4  # not allowed, or a setting is missing or wrong
    NOT_FOUND = 5
    TIMED_OUT = 6  # what was waited for did not come in time
    ASLEEP = 7  # the day's budget is spent, and --fail-on-sleep was given
    CANCELLED = 8
    # 9 is reserved: a replay that differs from the log.
    INTERRUPTED = 130
