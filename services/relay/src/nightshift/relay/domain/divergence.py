"""What it means that Kafka holds a fact: the log must have it, at the same version of the same stream.

When a database comes back without its last commits (a replica promoted too early, an old backup), Kafka holds facts
that the log never had, and the log will give their versions to others. No machine can decide which is true.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from nightshift.relay.domain.records import Lane


@dataclass(frozen=True, slots=True)
class BrokerFact:
    """A fact as the broker holds it."""

    lane: Lane
    offset: int
    event_id: UUID
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class StreamVersion:
    """Where the log has an event."""

    stream_id: str
    version: int

    @property
    def subject(self) -> str:
        """The build or account id."""
        return self.stream_id.partition("-")[2]


def diverged(told: Iterable[BrokerFact], log: Mapping[UUID, StreamVersion]) -> tuple[BrokerFact, ...]:
    """The facts that the log does not have, or has elsewhere."""
    return tuple(fact for fact in told if not _same(fact, log.get(fact.event_id)))


def token(facts: Iterable[BrokerFact]) -> str:
    """Names exactly this set of facts, so that a decision on it covers no later divergence."""
    ids = sorted(f"{fact.event_id}/{fact.version}" for fact in facts)
    return sha256("\n".join(ids).encode()).hexdigest()[:16]


def explanation(facts: tuple[BrokerFact, ...]) -> tuple[str, str]:
    """What a person must know, and what to do: message and hint."""
    first = facts[0]
    message = (
        f"log.diverged: Kafka holds {len(facts)} facts that the log does not have, such as event {first.event_id} "
        f"(version {first.version} of {first.subject}) at {first.lane.topic}[{first.lane.partition}] offset "
        f"{first.offset}. The database lost commits after they were published; nothing more is published"
    )
    hint = (
        "restore the database that has them (promote the replica that is furthest, or recover from its WAL) and start "
        "again. If they are lost for good: stop every service, start the relay with "
        f"NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE={token(facts)}, which publishes all unfinished builds again as the log "
        "has them, then start the services, so that none remembers the lost facts"
    )
    return message, hint


def _same(fact: BrokerFact, place: StreamVersion | None) -> bool:
    return place is not None and (place.subject, place.version) == (fact.subject, fact.version)
