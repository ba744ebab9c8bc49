"""Creates the topics of an installation: for the command, the local stack and the relay."""

import asyncio
import re
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

#: Seconds within which a created topic must be listed, and seconds between two checks.
_VISIBLE_WITHIN, _LOOK = 15.0, 0.05


async def apply(
    settings: KafkaSettings,
    *,
    plan: Sequence[TopicPlan] | None = None,
    partitions: int | None = None,
    replication: int | None = None,
    dry_run: bool = False,
) -> tuple[TopicReport, ...]:
    """Create missing topics, and report how the existing ones differ from the plan. Existing topics are never changed.

    Without `plan`, the default plan with this installation's topic prefix is used. If `dry_run`, nothing is created.
    Raises Unavailable when the broker does not answer, and Refused when it refuses a topic.
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
    """Wait until the broker lists every topic, and return the reports. Raises Unavailable when that takes too long.

    A new topic is known to the controller first, and to the other brokers later.
    """
    try:
        async with asyncio.timeout(_VISIBLE_WITHIN):
            while True:
                reports = await _compared(admin, wanted)
                if all(report.state is not TopicState.MISSING for report in reports):
                    return reports
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise Unavailable("the broker created topics that it does not list; look at its log") from None


async def ensure(
    settings: KafkaSettings, *, create: bool, partitions: int | None, replication: int | None
) -> None:
    """Create missing topics when `create` is True, with these numbers of partitions and replicas.

    Otherwise raise Unavailable while a topic is missing.
    """
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
    """Load a plan such as `deploy/topics.yaml`, with this installation's topic prefix.

    Raises ConfigurationError when the file cannot be read, or does not name exactly the topics of the contracts.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        plan = tuple(_topic(entry, topics) for entry in document["topics"])
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file} is not a plan of topics: {error!r}", hint="see deploy/topics.yaml for the form"
        ) from error
    names = {topic.name for topic in plan}
    if names != set(topics.all):
        wrong = ", ".join(sorted(names ^ set(topics.all)))
        raise ConfigurationError(f"{file} must name exactly the topics of the contracts; look at {wrong}")
    return plan


def _topic(entry: dict[str, Any], topics: Topics) -> TopicPlan:
    name = re.sub(rf"^{re.escape(Topics().prefix)}(?=\.)", topics.prefix, str(entry["name"]))
    return TopicPlan(
        name,
        int(entry["partitions"]),
        int(entry["replication"]),
        {str(key): str(value) for key, value in entry["config"].items()},
    )
