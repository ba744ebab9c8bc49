"""Decides whether Kafka and the log disagree: every fact on a topic must be in the log, at the same stream version.

A database that lost its last commits gives their versions to other facts, and Kafka still holds the lost ones. Only a
person can decide which of the two is true.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from nightshift.bus.port import TopicPartition


@dataclass(frozen=True, slots=True)
class BrokerFact:
    """A fact as the broker holds it: `subject` is the build or account id, `version` its `ce_sequence`."""

    partition: TopicPartition
    offset: int
    event_id: UUID
    subject: str
    version: int


def diverged(facts: Iterable[BrokerFact], log: Mapping[UUID, tuple[str, int]]) -> tuple[BrokerFact, ...]:
    """Return the facts that differ from the log. `log` has the subject and the stream version of each event id."""
    return tuple(fact for fact in facts if log.get(fact.event_id) != (fact.subject, fact.version))


def token(facts: Iterable[BrokerFact]) -> str:
    """Return a token for exactly this set of facts, so that accepting it covers no later divergence."""
    ids = sorted(f"{fact.event_id}/{fact.version}" for fact in facts)
    return sha256("\n".join(ids).encode()).hexdigest()[:16]


def explanation(facts: tuple[BrokerFact, ...]) -> tuple[str, str]:
    """Return the message and the hint for a person: what is wrong, and what to do."""
    first = facts[0]
    message = (
        f"log.diverged: Kafka holds {len(facts)} facts that the log does not have, such as event {first.event_id} "
        f"(version {first.version} of {first.subject}) at {first.partition.topic}[{first.partition.partition}] offset "
        f"{first.offset}. The database lost commits after they were published; nothing more is published"
    )
    hint = (
        "restore the database that has them (promote the replica that is furthest, or recover from its WAL) and start "
        "again. If they are lost for good: stop every service, start the relay with "
        f"NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE={token(facts)}, which publishes all unfinished builds again as the log "
        "has them, then start the services, so that none remembers the lost facts"
    )
    return message, hint
