"""Every error of the ground, in three branches. The branch decides what happens to the message that met it.

NightshiftError
├── Refused        what was asked cannot be done; trying again gives the same: dead letter at once
│   ├── VersionConflict, EventIdReused, ForeignEventType, StreamClosed   (the log's own SQLSTATEs)
│   ├── NotFound, ConfigurationError
│   └── BadMessage     cannot be decoded or is not allowed here; names the field
├── Transient      the world's fault, now: tried again with backoff, then dead letter
└── Fault          ours: dead letter at once, logged with its stack

An exception from outside this tree is a Fault.
"""


class NightshiftError(Exception):
    """The root. `hint` says what a person can do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Refused(NightshiftError):
    """What was asked cannot be done, now or later. Never retried."""


class Transient(NightshiftError):
    """Something outside is not there or too busy. Retried with backoff."""


class Fault(NightshiftError):
    """A broken promise of our own code or data. Never retried."""


class VersionConflict(Refused):
    """The stream is not at the expected version: somebody else appended. Fold and decide again. SQLSTATE NS001."""


class EventIdReused(Refused):
    """An event with this id is in the log with other content. SQLSTATE NS002."""


class ForeignEventType(Refused):
    """This role does not own this event type. SQLSTATE NS003."""


class StreamClosed(Refused):
    """The build has ended, and this event type is not one that may follow an end. SQLSTATE NS004."""


class BadMessage(Refused):
    """A message that cannot be decoded, or that must not come this way. `field` names the place."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class NotFound(Refused):
    """What was named (a build, an object, a dead letter) is not there."""


class Unavailable(Transient):
    """A server (PostgreSQL, broker, object store, provider) cannot be reached or is restarting."""


class ConfigurationError(Refused):
    """A setting is missing or wrong; the message names it."""
