"""Which topics an installation needs, and how a broker's topics differ from that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from nightshift.contracts.topics import Topics

_DAY_MS = 24 * 60 * 60 * 1000

#: As many as the replicas of a service that will ever be wanted: adding partitions later moves keys.
PARTITIONS = 24
REPLICATION = 3
RETENTION_DAYS = MappingProxyType({"requests": 30, "dead-letter": 30})
FACT_RETENTION_DAYS = 7
MAX_MESSAGE_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it should be. `config` in the broker's own words."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


class TopicState(StrEnum):
    """How a topic of the plan stands."""

    CREATED = "created"
    MISSING = "missing"  # would be created
    PRESENT = "present"
    DRIFT = "drift"  # there, with other settings; nothing is changed
    REFUSED = "refused"  # there, with another number of partitions


@dataclass(frozen=True, slots=True)
class TopicReport:
    """One topic's state, and each difference in words."""

    name: str
    state: TopicState
    partitions: int
    differences: tuple[str, ...] = ()


def default_plan(topics: Topics) -> tuple[TopicPlan, ...]:
    """The plan that `deploy/topics.yaml` spells out."""
    return tuple(_planned(topics, name) for name in topics.all)


def _planned(topics: Topics, name: str) -> TopicPlan:
    family = name.removeprefix(f"{topics.prefix}.").removesuffix(".v1")
    days = RETENTION_DAYS.get(family, FACT_RETENTION_DAYS)
    config = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "min.insync.replicas": "2",
        "retention.ms": str(days * _DAY_MS),
    }
    return TopicPlan(name, PARTITIONS, REPLICATION, MappingProxyType(config))


def adjusted(
    plan: Iterable[TopicPlan], *, partitions: int | None = None, replication: int | None = None
) -> tuple[TopicPlan, ...]:
    """The plan for another size of cluster; no more replicas must be in sync than there are."""
    return tuple(_adjusted(topic, partitions, replication) for topic in plan)


def _adjusted(topic: TopicPlan, partitions: int | None, replication: int | None) -> TopicPlan:
    replicas = replication or topic.replication
    in_sync = min(int(topic.config.get("min.insync.replicas", "1")), replicas)
    config = {**topic.config, "min.insync.replicas": str(in_sync)}
    return replace(topic, partitions=partitions or topic.partitions, replication=replicas, config=config)


def compare(plan: TopicPlan, found: TopicPlan | None) -> TopicReport:
    """How a topic of the plan stands, given the broker's. What the broker does not notify is not compared."""
    if found is None:
        return TopicReport(plan.name, TopicState.MISSING, plan.partitions)
    if found.partitions != plan.partitions:
        moved = (
            f"{found.partitions} partitions instead of {plan.partitions}: changing that would move keys to other "
            "partitions and break the order within a build"
        )
        return TopicReport(plan.name, TopicState.REFUSED, found.partitions, (moved,))
    differences = [
        f"{key} is {found.config[key]} instead of {value}"
        for key, value in sorted(plan.config.items())
        if key in found.config and found.config[key] != value
    ]
    if found.replication != plan.replication:
        differences.insert(0, f"{found.replication} replicas instead of {plan.replication}")
    state = TopicState.DRIFT if differences else TopicState.PRESENT
    return TopicReport(plan.name, state, found.partitions, tuple(differences))
