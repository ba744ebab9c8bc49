"""The topics that an installation needs, and how the topics of a broker differ from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from nightshift.contracts.topics import Topics

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How a topic should be, or how it is at the broker. `config` maps the broker's setting names to values."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


class TopicState(StrEnum):
    """The state of a planned topic at the broker."""

    CREATED = "created"
    MISSING = "missing"  # does not exist
    PRESENT = "present"
    DRIFT = "drift"  # exists with other settings, which are not changed
    REFUSED = "refused"  # exists with another number of partitions, which cannot be changed


@dataclass(frozen=True, slots=True)
class TopicReport:
    """The state of one topic, and each difference from the plan as a sentence."""

    name: str
    state: TopicState
    partitions: int
    differences: tuple[str, ...] = ()


def default_plan(topics: Topics) -> tuple[TopicPlan, ...]:
    """Return the plan in `deploy/topics.yaml`: 24 partitions, 3 replicas, and 7 or 30 days of records.

    There are more partitions than a service will ever need replicas, because a later change would move keys to other
    partitions.
    """
    config = {"cleanup.policy": "delete", "max.message.bytes": "1048576", "min.insync.replicas": "2"}
    long_kept = (topics.requests, topics.dead_letter)
    return tuple(
        TopicPlan(name, 24, 3, config | {"retention.ms": str((30 if name in long_kept else 7) * _DAY_MS)})
        for name in topics.all
    )


def adjusted(
    plan: Iterable[TopicPlan], *, partitions: int | None = None, replication: int | None = None
) -> tuple[TopicPlan, ...]:
    """Return the plan with other numbers of partitions or replicas.

    `min.insync.replicas` is lowered to the number of replicas where it is higher.
    """
    topics = []
    for topic in plan:
        replicas = replication or topic.replication
        in_sync = min(int(topic.config.get("min.insync.replicas", "1")), replicas)
        config = {**topic.config, "min.insync.replicas": str(in_sync)}
        count = partitions or topic.partitions
        topics.append(replace(topic, partitions=count, replication=replicas, config=config))
    return tuple(topics)


def compare(plan: TopicPlan, found: TopicPlan | None) -> TopicReport:
    """Return how the broker's topic differs from the plan. Settings that the broker does not report are ignored."""
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
