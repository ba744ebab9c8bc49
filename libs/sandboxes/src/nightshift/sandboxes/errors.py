"""The errors of sandboxes, in the branches of `nightshift.eventlog.errors`.

NightshiftError
├── Refused
│   ├── SandboxGone          the sandbox does not exist any more; a new one gets the files of the snapshot
│   │   └── CallRecordLost   the sandbox runs, but which calls ran in it is not known any more
│   ├── FileRefused          a file operation that cannot be done; `kind` says why
│   ├── HostileTree          a manifest or tree that breaks a rule or a limit; nothing of it is used
│   └── ConfigurationError
│       ├── ProviderRefused  the provider refuses until a person changes a setting or the account
│       └── NoSandboxHere    this machine cannot run local sandboxes
└── Transient
    └── SandboxUnavailable   the provider or the sandbox does not answer now
        └── AnswerCut        the agent's process for one request ended before its answer did
"""

from typing import Literal

from nightshift.eventlog.errors import ConfigurationError, Refused, Transient

FileProblem = Literal[
    "not_found", "is_directory", "not_directory", "outside", "too_large", "denied", "exists", "invalid"
]


class SandboxGone(Refused):
    """The sandbox does not exist any more, or another one has its id."""


class CallRecordLost(SandboxGone):
    """The sandbox runs, but commands have destroyed its record of calls. It must not be used any more.

    A call that has no result yet may have run in it.
    """


class FileRefused(Refused):
    """A file operation that cannot be done. The agent may read the message."""

    def __init__(self, message: str, *, kind: FileProblem) -> None:
        super().__init__(message)
        self.kind = kind


class HostileTree(Refused):
    """A manifest or a tree that breaks a rule or a limit. Nothing of it was used."""


class SandboxUnavailable(Transient):
    """The provider or the sandbox does not answer now."""


class AnswerCut(SandboxUnavailable):
    """The agent's process for one request ended before its answer did."""


class ProviderRefused(ConfigurationError):
    """The provider refuses, and goes on refusing until a person changes what `hint` says."""


class NoSandboxHere(ConfigurationError):
    """This machine cannot run local sandboxes; the hint says what to change."""
