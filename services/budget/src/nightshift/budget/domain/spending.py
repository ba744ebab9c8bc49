"""What a build spent under one reservation, read from its own events: the log is the bill."""

from collections.abc import Iterable
from uuid import UUID

from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted
from nightshift.contracts.model import Event


def spent_under(lease_id: UUID, events: Iterable[Event]) -> int:
    """Microdollars of the calls started under the lease, in version order.

    A call that was started and never answered counts at its worst case: the provider may bill it, and money lost
    track of is a bug.
    """
    costs: dict[tuple[int, int], int] = {}
    for event in events:
        match event:
            case ModelCallStarted(lease_id=under) if under == lease_id:
                costs[event.turn, event.attempt] = event.reserve_microusd
            case ModelCallResponded() | ModelCallFailed() if (event.turn, event.attempt) in costs:
                costs[event.turn, event.attempt] = event.cost_microusd
            case _:
                pass
    return sum(costs.values())
