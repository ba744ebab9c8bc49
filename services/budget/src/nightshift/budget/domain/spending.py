"""Computes from a build's events what was spent of a reservation."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted
from nightshift.contracts.model import Event


@dataclass(frozen=True, slots=True)
class Spent:
    """Money spent, in microdollars. `estimated` is the part for which the provider reported no final usage.

    `in_flight` is True while a call has no answer.
    """

    total: int
    estimated: int = 0
    in_flight: bool = False


def spent_under(lease_id: UUID, events: Iterable[Event]) -> Spent:
    """Return what the model calls cost that the reservation with the id `lease_id` pays for. `events` are in version
    order.

    A call without an answer counts with its highest possible cost. Only answers, complete or malformed, report final
    usage; the cost of other calls is an estimate.
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
