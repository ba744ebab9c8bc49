"""The exit codes of the `nightshift` command. Scripts rely on the numbers, so they never change."""

from enum import IntEnum


class Exit(IntEnum):
    """The outcome of a command, or of the build that it waited for."""

    OK = 0  # the command succeeded; the build is ready
    ERROR = 1
    USAGE = 2
    BUILD_FAILED = 3
    CONFIGURATION = 4  # access is denied, or a setting is missing or wrong
    NOT_FOUND = 5
    TIMED_OUT = 6  # the awaited condition was not met in time
    ASLEEP = 7  # the build fell asleep, and --fail-on-sleep was given
    CANCELLED = 8
    DIFFERS = 9  # this release or a fresh sandbox gives another result than the log
    INTERRUPTED = 130
