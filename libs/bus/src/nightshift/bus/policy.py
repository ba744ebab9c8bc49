"""What an error of a handler leads to: the dead letter, another attempt, or waiting until the ground is back."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nightshift.bus.port import UndecodableRecord
from nightshift.contracts.errors import ContractError
from nightshift.eventlog.errors import NightshiftError, Refused, Transient, Unavailable


class Branch(StrEnum):
    """The three branches of the error tree, as dead letters and metrics name them."""

    REFUSED = "refused"
    TRANSIENT = "transient"
    FAULT = "fault"


def branch_of(error: BaseException) -> Branch:
    """What does not decode is refused; what is outside our tree is a fault."""
    match error:
        case Refused() | ContractError():
            return Branch.REFUSED
        case Transient():
            return Branch.TRANSIENT
        case _:
            return Branch.FAULT


def reason_of(error: BaseException) -> str:
    """A word for a metric's label, from a closed set: our own error's name, or the branch for a foreign one."""
    if isinstance(error, NightshiftError | ContractError):
        name = type(error).__name__
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    return Branch.FAULT


#: The reason of a dead letter that holds a record which no client can decode.
UNDECODABLE: Final = reason_of(UndecodableRecord(""))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently. Seconds.

    `Unavailable` means that our own ground (database, broker, object store) is away: it is waited for as long as it
    takes. When the ground answers its probe all that while, the message itself is to blame: `ground_doubt_s` later it
    is parked. Any other Transient has `attempts` tries.
    """

    attempts: int = 5
    base_s: float = 0.2
    cap_s: float = 10.0
    ground_cap_s: float = 2.0
    ground_doubt_s: float = 60.0
    say_every_s: float = 10.0

    def delay(self, failures: int) -> float:
        """The pause after this many failed attempts: exponential, with full jitter above half."""
        return self._jittered(min(self.cap_s, self.base_s * 2 ** min(failures - 1, 30)))

    def ground_delay(self, failures: int) -> float:
        """The pause while the ground is away: short at the end, so that work goes on soon after it is back."""
        return self._jittered(min(self.ground_cap_s, self.base_s * 2 ** min(failures - 1, 30)))

    def _jittered(self, seconds: float) -> float:
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True, slots=True)
class ConsumerPolicy:
    """How a subscription's messages are taken. Seconds."""

    retry: RetryPolicy = RetryPolicy()
    take_grace_s: float = (
        0.2  # how long the poll waits for a batch before it pauses the partitions still at work
    )
    commit_every_s: float = (
        0.25  # the shortest time between two commits: after a crash so much is handled again
    )
    drain_s: float = (
        5.0  # what is in hand may be finished for this long when partitions go or the service stops
    )
    seen_subjects: int = 50_000


def is_ground_away(error: BaseException) -> bool:
    """Whether this says that something we stand on cannot be reached."""
    return isinstance(error, Unavailable)
