"""Reads what the installation does now: its processes, the work in hand, the lag of consumer groups, and dead
letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.kafka.progress import PartitionProgress
from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import settings_for
from nightshift.cli.consumer_lag import group_progress
from nightshift.cli.queries import open_database
from nightshift.eventlog.database import Database
from nightshift.servicekit.replicas import GONE_AFTER_S, LIVE

_WORK = "SELECT * FROM nightshift.work_summary()"


@dataclass(frozen=True, slots=True)
class RunningReplica:
    """A running process of a service. `held` is the number of builds or calls that it works on.

    `room` is how many more of them it would take.
    """

    service: str
    replica: str
    version: str
    started_at: datetime
    held: int
    room: int
    drained: bool


@dataclass(frozen=True, slots=True)
class WorkInHand:
    """One kind of pending rows or leases. `number` counts them, and `oldest` is the time of the oldest (None for
    leases).
    """

    kind: str
    number: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class GroupLag:
    """The records of a topic that a consumer group has not handled yet.

    `waiting_s` is the age of the oldest record in seconds.
    """

    group: str
    topic: str
    unread: int
    waiting_s: float | None


@dataclass(frozen=True, slots=True)
class InstallationStatus:
    """The status of the whole installation at one moment."""

    replicas: Sequence[RunningReplica]
    work: Sequence[WorkInHand]
    lag: Sequence[GroupLag]
    open_dead_letters: int


async def installation_status(home: Path) -> InstallationStatus:
    """Return the status of the installation. Raises Unavailable and ConfigurationError."""
    settings = settings_for(KafkaSettings, home)
    async with open_database(home) as database:
        replicas = await running_replicas(database)
        work = [WorkInHand(*row) for row in await database.fetch(_WORK)]
    topics = settings.topics
    letters = DeadLetters(KafkaReader(settings), topic=topics.dead_letter, known_topics=topics.all)
    return InstallationStatus(
        replicas, work, _lags(await group_progress(settings)), len(await letters.list(bodies=False))
    )


async def running_replicas(database: Database) -> list[RunningReplica]:
    """Return the processes that have reported within the last GONE_AFTER_S seconds, sorted by service."""
    rows = await database.fetch(LIVE, timedelta(seconds=GONE_AFTER_S))
    return [
        RunningReplica(
            row["service"],
            row["replica_id"],
            row["version"],
            row["started_at"],
            row["held"],
            row["room"],
            row["drained"],
        )
        for row in rows
    ]


def _lags(progress: Sequence[PartitionProgress]) -> list[GroupLag]:
    found = []
    for (group, topic), partitions in groupby(progress, key=lambda one: (one.group, one.topic)):
        parts = list(partitions)
        ages = [one.waiting_s for one in parts if one.waiting_s is not None]
        found.append(GroupLag(group, topic, sum(one.unread for one in parts), max(ages, default=None)))
    return found
