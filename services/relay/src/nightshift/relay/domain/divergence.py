"""Decides whether Kafka and the log contradict each other. Every fact in Kafka must be in the log, at the same version.

A database that has lost its last commits gives their versions to new facts, while Kafka still has the lost facts. Only
a person can decide whether Kafka or the log is right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from nightshift.bus.port import TopicPartition


@dataclass(frozen=True, slots=True)
class BrokerFact:
    """A fact as Kafka has it. `subject` is the build or account id, and `version` is its `ce_sequence` header."""

    partition: TopicPartition
    offset: int
    event_id: UUID
    subject: str
    version: int


def diverged(facts: Iterable[BrokerFact], log: Mapping[UUID, tuple[str, int]]) -> tuple[BrokerFact, ...]:
    """Return the facts that the log does not have, or has under another subject or version.

    `log` maps event ids to (subject, version).
    """
    return tuple(fact for fact in facts if log.get(fact.event_id) != (fact.subject, fact.version))


def token(facts: Iterable[BrokerFact]) -> str:
    """Return the token by which a person accepts that exactly these facts diverge. Other facts have another token."""
    ids = sorted(f"{fact.event_id}/{fact.version}" for fact in facts)
    return sha256("\n".join(ids).encode()).hexdigest()[:16]


def explanation(facts: tuple[BrokerFact, ...]) -> tuple[str, str]:
    """Return the message and the hint that tell a person what is wrong and what to do."""
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
