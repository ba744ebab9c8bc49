"""What can go wrong with the local stack, each with a message for a person.

DevstackError
├── BinaryMissing   a server's program is not installed
├── PortTaken       a port asked for by number is in use
├── PartFailed      a server ended, or did not answer in time; holds the end of its log
├── HomeInUse       another stack runs on this home
└── PlaceUnusable   no folder can be found that the database's user may use
"""

from nightshift.runtime.errors import Refused


class DevstackError(Refused):
    """The root. The message says what happened, `hint` what to do."""


class BinaryMissing(DevstackError):
    """A server's program is not installed or not executable."""


class PortTaken(DevstackError):
    """The port that was asked for is in use by somebody else."""


class PartFailed(DevstackError):
    """A server ended before it was ready, or did not answer in time."""


class HomeInUse(DevstackError):
    """Another stack runs on this home."""


class PlaceUnusable(DevstackError):
    """The data folder cannot be used by the user that PostgreSQL must run as."""
