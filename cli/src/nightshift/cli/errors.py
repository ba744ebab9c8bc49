"""The command's own errors.

NightshiftError
└── Refused
    └── WrongUsage   the command line itself is wrong: exit code 2, and nothing was done
"""

from nightshift.eventlog.errors import Refused


class WrongUsage(Refused):
    """An argument cannot be understood or contradicts another one. Raised before the command does anything."""
