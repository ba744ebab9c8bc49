"""Checks whether every consumer group makes progress in each of its partitions, without joining the groups."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain

from nightshift.bus.kafka.progress import PartitionProgress, partition_progress
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.readers import EVERY_REPLICA, subscribed

#: After so many seconds, a record that is not handled is late.
LATE_S = 60.0
#: Seconds between two reads of the offsets. A late partition whose offset did not change makes no progress.
_BETWEEN_S = 2.0


def shared_groups(settings: KafkaSettings) -> Mapping[str, str]:
    """Returns consumer group → topic for the groups that all replicas of a service share.

    Groups of single replicas are left out: they start at the end of a topic, and their names contain process ids.
    """
    topics = settings.topics
    return {
        topics.group(service, topics.family(family)): topics.family(family)
        for service, family, _ in subscribed()
        if (service, family) not in EVERY_REPLICA
    }


async def late_partitions(settings: KafkaSettings) -> tuple[Sequence[PartitionProgress], bool]:
    """Returns the partitions with a record that has waited for over a minute, and whether one of them makes no
    progress.

    Raises Unavailable when the broker does not answer.
    """
    late = _late(await _progress(settings, shared_groups(settings)))
    if not late:
        return late, False
    await asyncio.sleep(_BETWEEN_S)
    before = {(one.group, one.partition): one.committed for one in late}
    late = _late(await _progress(settings, {one.group: one.topic for one in late}))
    return late, any(before.get((one.group, one.partition), -1) == one.committed for one in late)


async def group_progress(settings: KafkaSettings) -> list[PartitionProgress]:
    """Returns the progress of each shared group in each partition of its topic. Raises Unavailable."""
    return await _progress(settings, shared_groups(settings))


def _late(found: Sequence[PartitionProgress]) -> list[PartitionProgress]:
    return [one for one in found if one.waiting_s is not None and one.waiting_s > LATE_S]


async def _progress(settings: KafkaSettings, groups: Mapping[str, str]) -> list[PartitionProgress]:
    asked = (partition_progress(settings, {group: topic}) for group, topic in groups.items())
    return list(chain.from_iterable(await asyncio.gather(*asked)))
