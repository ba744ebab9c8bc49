"""All errors of Nightshift, in three branches. The branch decides what happens to the message whose handling failed.

NightshiftError
├── Refused        the request cannot be done, now or later: dead letter at once
│   ├── VersionConflict, EventIdReused, ForeignEventType, StreamClosed   (the log's own SQLSTATEs)
│   ├── NotFound, NotPermitted, AlreadyAnswered, ConfigurationError
│   └── BadMessage     cannot be decoded or is not allowed here; names the field
├── Transient      a dependency does not answer now: retried with backoff, then dead letter
└── Fault          a defect in our code or data: dead letter at once, logged with its stack

An exception outside this tree counts as a Fault.
"""


class NightshiftError(Exception):
    """The root of all errors. `hint`, if set, advises a person how to mend the problem."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Refused(NightshiftError):
    """The request cannot be done, now or later. Never retried."""


class Transient(NightshiftError):
    """A dependency is unreachable or overloaded. Retried with backoff."""


class Fault(NightshiftError):
    """A defect in our own code or data. Never retried."""


class VersionConflict(Refused):
    """Another writer appended to the stream first. The caller must fold the stream and decide again. SQLSTATE NS001."""


class EventIdReused(Refused):
    """The log has an event with this id and different content. SQLSTATE NS002."""


class ForeignEventType(Refused):
    """The role of this connection may not append events of this type, because another service owns it.

    SQLSTATE NS003.
    """


class StreamClosed(Refused):
    """The build has ended, and this event type may not follow an end. SQLSTATE NS004."""


class BadMessage(Refused):
    """A message cannot be decoded or is not allowed on its topic. `field` names the wrong field of the message."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class NotFound(Refused):
    """The build, object or dead letter does not exist."""


class NotPermitted(Refused):
    """The principal of the request may not do this, because the build or account belongs to another account."""


class AlreadyAnswered(Refused):
    """The tool call already has another approval or another result. That one stays."""


class Unavailable(Transient):
    """A server (PostgreSQL, broker, object store, provider) cannot be reached or is restarting."""


class ConfigurationError(Refused):
    """A setting or a preparation of the installation is missing or wrong. The message names it."""
