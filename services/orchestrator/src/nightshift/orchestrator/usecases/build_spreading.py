"""Releases builds of a replica that runs more than its share, so that replicas that started later take them."""

import asyncio
import math
from collections.abc import Sequence

import structlog

from nightshift.eventlog.errors import NightshiftError
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.servicekit.replicas import Replica, ReplicaReporter

_log = structlog.get_logger(__name__)

#: Seconds between two comparisons with the other replicas.
_EVERY_S = 10.0
#: A replica may run this much more than the mean: moving a build costs reading its events again.
_TOLERANCE, _SLACK = 1.1, 1


def excess(own_id: str, replicas: Sequence[Replica]) -> int:
    """Return how many builds the replica `own_id` should release, because it runs more than its share.

    Returns 0 when it does not run more than its share, and never more than the other replicas have room for.
    """
    own = sum(one.work.held for one in replicas if one.replica_id == own_id)
    room = sum(one.work.room for one in replicas if one.replica_id != own_id)
    if not replicas or not room:
        return 0
    mean = sum(one.work.held for one in replicas) / len(replicas)
    return max(0, min(own - math.ceil(mean * _TOLERANCE) - _SLACK, room))


async def spread(scheduler: BuildScheduler, reporter: ReplicaReporter, own_id: str) -> None:
    """Compare the load with the other replicas until cancelled, and release the builds above this replica's share."""
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            number = excess(own_id, await reporter.peers())
        except NightshiftError as error:
            _log.warning("replicas.not_read", error=str(error))
            continue
        if number and not reporter.drained:
            _log.info("builds.released_to_others", builds=scheduler.release_some(number))
