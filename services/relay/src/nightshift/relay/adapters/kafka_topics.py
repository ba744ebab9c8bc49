"""Makes a broker's topics what the plan says: for the command, the embedded stack, and the relay itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.relay.adapters.kafka_admin import KafkaAdmin, kafka_admin
from nightshift.relay.domain.topics import (
    TopicPlan,
    TopicReport,
    TopicState,
    adjusted,
    compare,
    default_plan,
)

__all__ = ["TopicReport", "TopicState", "apply", "ensure", "load_plan"]

#: Seconds in which a topic that was made must show, and between two looks for it.
_VISIBLE_WITHIN, _LOOK = 15.0, 0.05


async def apply(
    settings: KafkaSettings,
    *,
    plan: Sequence[TopicPlan] | None = None,
    partitions: int | None = None,
    replication: int | None = None,
    dry_run: bool = False,
) -> tuple[TopicReport, ...]:
    """Create what is missing and notify what differs; nothing that exists is changed. The same again changes nothing.

    Without a plan: the default one under the installation's prefix. Raises Unavailable, Refused.
    """
    wanted = adjusted(plan or default_plan(settings.topics), partitions=partitions, replication=replication)
    async with kafka_admin(settings) as admin:
        reports = await _compared(admin, wanted)
        missing = {report.name for report in reports if report.state is TopicState.MISSING}
        if dry_run or not missing:
            return reports
        created = await admin.create([topic for topic in wanted if topic.name in missing])
        reports = await _visible(admin, wanted)
    return tuple(
        replace(report, state=TopicState.CREATED) if report.name in created else report for report in reports
    )


async def _compared(admin: KafkaAdmin, wanted: Sequence[TopicPlan]) -> tuple[TopicReport, ...]:
    found = await admin.describe([topic.name for topic in wanted])
    return tuple(compare(topic, found.get(topic.name)) for topic in wanted)


async def _visible(admin: KafkaAdmin, wanted: Sequence[TopicPlan]) -> tuple[TopicReport, ...]:
    """The reports once the broker tells of every topic: a controller has a topic before the brokers notify of it."""
    try:
        async with asyncio.timeout(_VISIBLE_WITHIN):
            while True:
                reports = await _compared(admin, wanted)
                if all(report.state is not TopicState.MISSING for report in reports):
                    return reports
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise Unavailable("the broker made topics that it does not notify of; look at its log") from None


async def ensure(
    settings: KafkaSettings, *, create: bool, partitions: int | None, replication: int | None
) -> None:
    """Raise Unavailable while a topic is missing, after creating it where that is allowed."""
    if create:
        await apply(settings, partitions=partitions, replication=replication)
        return
    async with kafka_admin(settings) as admin:
        missing = sorted(set(settings.topics.facts) - await admin.names())
    if missing:
        raise Unavailable(
            f"topics are missing: {', '.join(missing)}",
            hint="`nightshift topics apply` creates them; with NIGHTSHIFT_RELAY_CREATE_TOPICS=true the relay does",
        )


def load_plan(file: Path, topics: Topics) -> tuple[TopicPlan, ...]:
    """The plan in a file such as `deploy/topics.yaml`, under this installation's prefix. Raises ConfigurationError."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        plan = tuple(_topic(entry, topics) for entry in document["topics"])
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file} is no plan of topics: {error!r}", hint="see deploy/topics.yaml for the form"
        ) from error
    names = {topic.name for topic in plan}
    if names != set(topics.all):
        wrong = ", ".join(sorted(names ^ set(topics.all)))
        raise ConfigurationError(f"{file} must name exactly the topics of the contracts; look at {wrong}")
    return plan


def _topic(entry: dict[str, Any], topics: Topics) -> TopicPlan:
    standard = Topics().prefix
    name = str(entry["name"])
    if name.startswith(f"{standard}."):
        name = topics.prefix + name.removeprefix(standard)
    return TopicPlan(
        name,
        int(entry["partitions"]),
        int(entry["replication"]),
        {str(key): str(value) for key, value in entry["config"].items()},
    )
