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
    """The sandbox does not exist any more, or its id now belongs to another sandbox."""


class CallRecordLost(SandboxGone):
    """Commands have destroyed the sandbox's record of calls, so the sandbox must not be used any more.

    A call without a recorded result may have run in the sandbox.
    """


class AgentBroken(CallRecordLost):
    """The agent program in the sandbox gave an answer that breaks its protocol. Commands may have replaced it."""


class FileRefused(Refused):
    """A file operation cannot be done, for the reason `kind`. The message is for the model."""

    def __init__(self, message: str, *, kind: FileProblem) -> None:
        super().__init__(message)
        self.kind = kind


class PortRefused(Refused):
    """The port cannot be opened now: nothing listens on it, or too many are open. The message is for the model."""


class HostileTree(Refused):
    """A manifest or a tree breaks a rule or a limit. Nothing of it was used, because it may be an attack."""


class SandboxUnavailable(Transient):
    """The provider or the sandbox does not answer now."""


class AnswerCut(SandboxUnavailable):
    """The answer of the agent program in the sandbox ended too early, for example because its process was killed."""


class SandboxHung(SandboxUnavailable):
    """A request to the sandbox had no answer in time."""


class ProviderRefused(ConfigurationError):
    """The provider refuses requests until a person follows the `hint`, such as to set a valid key."""


class NoSandboxHere(ConfigurationError):
    """This machine cannot run local sandboxes. The hint says what to change."""
