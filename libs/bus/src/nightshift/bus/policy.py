"""Decides what follows when a handler raises: a dead letter, another attempt, or waiting for a dependency."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nightshift.bus.port import UndecodableRecord
from nightshift.contracts.errors import ContractError
from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import NightshiftError, Refused, Transient, Unavailable


class Branch(StrEnum):
    """The three branches of errors, by the names that dead letters and metrics use.

    Refused errors are never retried, transient errors are retried, and faults are bugs.
    """

    REFUSED = "refused"
    TRANSIENT = "transient"
    FAULT = "fault"


def branch_of(error: BaseException) -> Branch:
    """Return the branch of an error. A message that does not decode is refused; an exception that is not ours is a
    fault.
    """
    match error:
        case Refused() | ContractError():
            return Branch.REFUSED
        case Transient():
            return Branch.TRANSIENT
        case _:
            return Branch.FAULT


def reason_of(error: BaseException) -> str:
    """Return the reason that a dead letter gives for this error: the class name of our own error in snake case.

    An exception that is not ours has the reason `fault`. So the set of reasons is finite and can label a metric.
    """
    if isinstance(error, NightshiftError | ContractError):
        name = type(error).__name__
        return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")
    return Branch.FAULT


#: The reason of a dead letter whose bytes no Kafka client can decode.
UNDECODABLE: Final = reason_of(UndecodableRecord(""))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which delays a message is handled again. Times are in seconds.

    After a Transient error other than Unavailable, a message has `attempts` attempts in all.

    A handler raises Unavailable when the database, the broker or the object store does not answer. The message then
    waits as long as a check of them (DependencyProbe) says that one does not answer. When all of them answer, the
    message itself may be the cause. It is then dead-lettered after `dependency_doubt_s`.
    """

    attempts: int = 5
    base_s: float = 0.2
    cap_s: float = 10.0
    dependency_cap_s: float = 2.0
    dependency_doubt_s: float = 60.0
    log_every_s: float = 10.0

    @property
    def backoff(self) -> Backoff:
        """The delays between two attempts at one message."""
        return Backoff(self.base_s, self.cap_s)

    @property
    def dependency_backoff(self) -> Backoff:
        """The delays while a dependency is unavailable.

        They stay short, so that work resumes soon after the dependency answers again.
        """
        return Backoff(self.base_s, self.dependency_cap_s)


@dataclass(frozen=True, slots=True)
class ConsumerPolicy:
    """How the consumers of a process take, commit and finish messages. Times are in seconds.

    - `take_grace_s`: how long a poll waits until the messages it received are handled. Then it pauses the partitions
      whose messages are not.
    - `commit_every_s`: the shortest time between two commits. After a crash, the messages of about this time are read
      again.
    - `drain_s`: how long a message being processed may take after its partition is revoked or the service stops.
    - `seen_subjects`: of how many streams the dispatcher remembers which version was handled last.
    """

    retry: RetryPolicy = RetryPolicy()
    take_grace_s: float = 0.2
    commit_every_s: float = 0.25
    drain_s: float = 5.0
    seen_subjects: int = 50_000


def is_dependency_unavailable(error: BaseException) -> bool:
    """Return whether the error says that a dependency (database, broker, object store) does not answer."""
    return isinstance(error, Unavailable)
