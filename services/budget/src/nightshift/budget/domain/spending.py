"""Computes what a build spent under one reservation, from the build's own events."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted
from nightshift.contracts.model import Event


@dataclass(frozen=True, slots=True)
class Spent:
    """Money in microdollars. `estimated` is the part of `total` for which the provider gave no final usage.

    `in_flight` is True while a call has no answer.
    """

    total: int
    estimated: int = 0
    in_flight: bool = False


def spent_under(lease_id: UUID, events: Iterable[Event]) -> Spent:
    """Add up the calls that were started under the lease. `events` are in version order.

    A call without an answer counts at its worst case. Only an answer, or a malformed one, carries the final usage; the
    rest is estimated.
    """
    costs: dict[tuple[int, int, str | None], Spent] = {}
    in_flight: set[tuple[int, int, str | None]] = set()
    for event in events:
        match event:
            case ModelCallStarted(lease_id=under) if under == lease_id:
                call = _call_of(event)
                costs[call] = Spent(event.reserve_microusd, event.reserve_microusd)
                in_flight.add(call)
            case ModelCallResponded() | ModelCallFailed() if _call_of(event) in costs:
                cost = event.cost_microusd
                billed = isinstance(event, ModelCallResponded) or event.kind == "malformed"
                costs[_call_of(event)] = Spent(cost, 0 if billed else cost)
                in_flight.discard(_call_of(event))
            case _:
                pass
    total = sum(one.total for one in costs.values())
    return Spent(total, sum(one.estimated for one in costs.values()), bool(in_flight))


def _call_of(event: ModelCallStarted | ModelCallResponded | ModelCallFailed) -> tuple[int, int, str | None]:
    return event.turn, event.attempt, event.role
