"""The errors of sandboxes, in the branches of `nightshift.eventlog.errors`.

NightshiftError
├── Refused
│   ├── SandboxGone
│   │   └── CallRecordLost
│   │       └── AgentBroken
│   ├── FileRefused
│   ├── PortRefused
│   ├── HostileTree
│   └── ConfigurationError
│       ├── ProviderRefused
│       └── NoSandboxHere
└── Transient
    └── SandboxUnavailable
        ├── AnswerCut
        └── SandboxHung
"""

from typing import Literal

from nightshift.eventlog.errors import ConfigurationError, Refused, Transient

FileProblem = Literal[
    "not_found",
    "is_directory",
    "not_directory",
    "outside",
    "too_large",
    "denied",
    "exists",
    "invalid",
    "busy",
]


class SandboxGone(Refused):
    """The sandbox does not exist any more, or another one has its id."""


class CallRecordLost(SandboxGone):
    """Commands have destroyed the sandbox's record of calls. A call without a result may have run in it.

    The sandbox must not be used any more.
    """


class AgentBroken(CallRecordLost):
    """The agent in the sandbox gave an answer that its protocol does not allow. Commands may have replaced it."""


class FileRefused(Refused):
    """A file operation that cannot be done. The message is for the model."""

    def __init__(self, message: str, *, kind: FileProblem) -> None:
        super().__init__(message)
        self.kind = kind


class PortRefused(Refused):
    """The port cannot be opened now: nothing listens on it, or too many are open. The message is for the model."""


class HostileTree(Refused):
    """A manifest or a tree that breaks a rule or a limit. Nothing of it was used."""


class SandboxUnavailable(Transient):
    """The provider or the sandbox does not answer now."""


class AnswerCut(SandboxUnavailable):
    """The agent's process for one request ended before its answer did."""


class SandboxHung(SandboxUnavailable):
    """A request to the sandbox had no answer in time."""


class ProviderRefused(ConfigurationError):
    """The provider refuses until a person changes what `hint` says."""


class NoSandboxHere(ConfigurationError):
    """This machine cannot run local sandboxes; the hint says what to change."""
