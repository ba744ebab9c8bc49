"""Decides what follows an error of a handler: the dead letter, another attempt, or waiting for a dependency."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nightshift.bus.port import UndecodableRecord
from nightshift.contracts.errors import ContractError
from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import NightshiftError, Refused, Transient, Unavailable


class Branch(StrEnum):
    """The three branches of the error tree, as dead letters and metrics name them."""

    REFUSED = "refused"
    TRANSIENT = "transient"
    FAULT = "fault"


def branch_of(error: BaseException) -> Branch:
    """Return the branch of an error. A message that does not decode is refused; a foreign exception is a fault."""
    match error:
        case Refused() | ContractError():
            return Branch.REFUSED
        case Transient():
            return Branch.TRANSIENT
        case _:
            return Branch.FAULT


def reason_of(error: BaseException) -> str:
    """Return the class name of our own error in snake case, or the branch of a foreign one.

    The set of reasons is closed, so that it can label a metric.
    """
    if isinstance(error, NightshiftError | ContractError):
        name = type(error).__name__
        return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")
    return Branch.FAULT


#: The reason of a dead letter that holds a record which no client can decode.
UNDECODABLE: Final = reason_of(UndecodableRecord(""))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a message is handled again, and after which delays. Seconds.

    A handler raises `Unavailable` when a dependency (database, broker, object store) does not answer; the message
    then waits as long as the dependency is unavailable. When the dependency answers its probe all the time, the
    message itself is the cause: it is dead-lettered after `dependency_doubt_s`. Any other Transient has `attempts`
    attempts.
    """

    attempts: int = 5
    base_s: float = 0.2
    cap_s: float = 10.0
    dependency_cap_s: float = 2.0
    dependency_doubt_s: float = 60.0
    log_every_s: float = 10.0

    @property
    def backoff(self) -> Backoff:
        """The delays between the attempts at a message."""
        return Backoff(self.base_s, self.cap_s)

    @property
    def dependency_backoff(self) -> Backoff:
        """The delays while a dependency is unavailable: short, so that work continues soon after it is back."""
        return Backoff(self.base_s, self.dependency_cap_s)


@dataclass(frozen=True, slots=True)
class ConsumerPolicy:
    """How the messages of a subscription are handled. Seconds.

    `take_grace_s`: how long a poll waits for its batch before it pauses the partitions that are still busy.
    `commit_every_s`: the shortest time between two commits; after a crash, so much is handled again.
    `drain_s`: how long a message in hand may take when its partition is revoked or the service stops.
    """

    retry: RetryPolicy = RetryPolicy()
    take_grace_s: float = 0.2
    commit_every_s: float = 0.25
    drain_s: float = 5.0
    seen_subjects: int = 50_000


def is_dependency_unavailable(error: BaseException) -> bool:
    """Whether the error says that a dependency cannot be reached."""
    return isinstance(error, Unavailable)
