"""The errors of the local stack. Each has a message for a person, and a hint that says what to do.

DevstackError
├── PartFailed             a server exited before it was ready, or did not answer in time
└── (also ConfigurationError)
    ├── BinaryMissing      a server's program is not installed
    ├── PortTaken          a port asked for by number is in use
    ├── HomeInUse          another stack runs on this home
    ├── DirectoryUnusable  a folder that this user or the database's user cannot use
    ├── BadPlan            flags or settings that contradict each other
    └── BadScenario        a scenario file that is not valid
"""

from nightshift.eventlog.errors import ConfigurationError, NightshiftError


class DevstackError(NightshiftError):
    """The base class of the local stack's errors."""


class PartFailed(DevstackError):
    """A server exited before it was ready, or did not answer in time.

    `tail` is the end of its log. `exit_code` is None when the server did not exit.
    """

    def __init__(
        self, message: str, *, tail: str, hint: str | None = None, exit_code: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.tail = tail
        self.exit_code = exit_code


class BinaryMissing(DevstackError, ConfigurationError):
    """A server's program is not installed or not executable."""


class PortTaken(DevstackError, ConfigurationError):
    """A port that the user asked for is in use by another program."""


class HomeInUse(DevstackError, ConfigurationError):
    """Another stack is running on this home folder."""


class DirectoryUnusable(DevstackError, ConfigurationError):
    """A home folder that cannot be created, or a data folder that PostgreSQL's user cannot use."""


class BadPlan(DevstackError, ConfigurationError):
    """The flags or settings of `up` are wrong or contradict each other.

    For example, an unknown service, a service without the parts it needs, or a setting that is not a number.
    """


class BadScenario(DevstackError, ConfigurationError):
    """A scenario file is not valid. The message names the turn, its line and the field."""
