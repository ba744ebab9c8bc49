"""The invariants of money and of pending rows, judged from the history by rules of their own."""

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from nightshift.contracts.events.account import BudgetCredited, BudgetRefreshed
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    BuildWaiting,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    SleepRequested,
)
from nightshift.eventlog.port import PendingItem, RecordedEvent


def violations(history: Sequence[RecordedEvent]) -> list[str]:
    """Every broken promise about money in the log of one account, given in the order of the appends."""
    return [*reservations(history), *live_settlements(history), *charges(history), *denied_wakes(history)]


def reservations(history: Iterable[RecordedEvent]) -> Iterable[str]:
    """At every grant, posted and pending stay within the day's limit. A reservation ends at most once."""
    limit, day = 0, ""
    pending: dict[UUID, BudgetGranted] = {}
    posted: Counter[str] = Counter()
    ended: set[UUID] = set()
    asked: set[UUID] = set()
    granted: set[UUID] = set()
    for event in history:
        match event.data:
            case BudgetRefreshed() as fact:
                limit, day = fact.limit_microusd, fact.day
            case BudgetCredited() as fact:
                limit += fact.amount_microusd
            case BudgetRequested(lease_id=lease):
                asked.add(lease)
            case WakeRequested():
                asked.add(event.event_id)  # the grant of a wake has the id of the wake
            case BudgetGranted() as fact:
                if fact.lease_id in granted:
                    yield f"{fact.lease_id} was granted twice"
                granted.add(fact.lease_id)
                pending[fact.lease_id] = fact
                bound = posted[day] + sum(one.amount_microusd for one in pending.values() if one.day == day)
                if bound > limit:
                    yield f"{bound} of {limit} are bound on {day}"
            case BudgetSettled() as fact:
                if fact.lease_id in ended or fact.lease_id not in pending:
                    yield f"{fact.lease_id} was settled twice, or was never granted"
                pending.pop(fact.lease_id, None)
                ended.add(fact.lease_id)
                posted[fact.day] += fact.posted_microusd
            case _:
                pass
    if granted - asked:
        yield f"{len(granted - asked)} reservations were granted and nobody asked for them"
    if pending:
        yield f"{len(pending)} reservations were never settled"


def live_settlements(history: Iterable[RecordedEvent]) -> Iterable[str]:
    """A reservation is settled after its build asked for another, slept, waited or ended, or when it has expired."""
    live: dict[UUID, str] = {}
    calls: dict[tuple[str, str | None, int, int], UUID] = {}
    for event in history:
        match event.data:
            case BudgetGranted(lease_id=lease):
                live[lease] = event.stream_id
            case (
                BudgetRequested()
                | SleepRequested()
                | BuildWaiting()
                | BuildReady()
                | BuildFailed()
                | BuildCancelled()
            ):
                for lease in [one for one, stream in live.items() if stream == event.stream_id]:
                    del live[lease]
            case ModelCallStarted() as fact:
                calls[event.stream_id, fact.role, fact.turn, fact.attempt] = fact.lease_id
            case ModelCallResponded() | ModelCallFailed() as fact:
                calls.pop((event.stream_id, fact.role, fact.turn, fact.attempt), None)
            case BudgetSettled() as fact if fact.outcome != "expired":
                if fact.lease_id in live:
                    yield f"{event.stream_id} {event.version}: a live reservation was settled"
                if fact.lease_id in calls.values():
                    yield f"{event.stream_id} {event.version}: settled under a call in flight, at its worst case"
            case _:
                pass


def charges(history: Iterable[RecordedEvent]) -> Iterable[str]:
    """What was posted under each reservation is what its calls cost."""
    lease_of: dict[tuple[str, str | None, int, int], UUID] = {}
    cost: Counter[UUID] = Counter()
    posted: Counter[UUID] = Counter()
    for event in history:
        match event.data:
            case ModelCallStarted() as fact:
                lease_of[event.stream_id, fact.role, fact.turn, fact.attempt] = fact.lease_id
            case ModelCallResponded() | ModelCallFailed() as fact:
                cost[lease_of[event.stream_id, fact.role, fact.turn, fact.attempt]] += fact.cost_microusd
            case BudgetSettled() as fact:
                posted[fact.lease_id] += fact.posted_microusd
            case _:
                pass
    if posted != cost:
        yield f"posted {sum(posted.values())} for calls that cost {sum(cost.values())}"


def denied_wakes(history: Iterable[RecordedEvent]) -> Iterable[str]:
    """No request for money is denied between the wake of a build and its next model call."""
    woken: dict[str, str] = {}
    for event in history:
        match event.data:
            case WakeRequested(reason=reason):
                woken[event.stream_id] = reason
            case BudgetDenied() if event.stream_id in woken:
                yield f"{event.stream_id} {event.version}: a wake ({woken[event.stream_id]}) ended in a denial"
            case (
                ModelCallStarted()
                | SleepRequested()
                | BuildWaiting()
                | BuildReady()
                | BuildFailed()
                | BuildCancelled()
            ):
                woken.pop(event.stream_id, None)
            case _:
                pass


def outlived(pending: Iterable[PendingItem]) -> list[str]:
    """The pending rows that remain although every build has ended and every service had time."""
    return [f"pending {item.kind} {item.key} of {item.stream_id} outlives its purpose" for item in pending]
