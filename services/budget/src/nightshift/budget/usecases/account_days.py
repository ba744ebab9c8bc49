"""Moves an account to the current day, and opens a new account with the default budget."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid5

from nightshift.budget.domain import events
from nightshift.budget.domain.calendar import Day, Period, day_at, period_start
from nightshift.budget.domain.ledger import Account, Reservation, open_account, refresh, reserve
from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.budget.domain.sleepers import Need
from nightshift.budget.ports import LedgerSnapshot
from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.ids import NAMESPACE, event_id
from nightshift.contracts.model import Event
from nightshift.eventlog.port import Append, NewEvent, account_stream


class AccountDays:
    """Moves the account in a ledger snapshot to the day of the snapshot's time."""

    def __init__(self, policy: BudgetPolicy) -> None:
        self.policy = policy

    def today(self, account_id: str, snapshot: LedgerSnapshot) -> tuple[Account, Day, Sequence[Append]]:
        """Return the account today, the day, and the appends of events about a new day or a new account.

        Today is the day of the snapshot's time. An account that does not exist is opened with the default budget.
        """
        appends: list[Append] = []
        account = snapshot.account
        if account is None:
            policy = self.policy
            account = self.open(
                account_id,
                snapshot.now,
                budget=policy.default_period_budget,
                days=policy.default_period_days,
                time_zone=policy.default_time_zone,
            )
            cause = uuid5(NAMESPACE, f"period/{account_id}/{snapshot.now.isoformat()}")
            appends.append(on_account(account_id, cause, events.period_set(account)))
        day = day_at(account.period, snapshot.now)
        before = account.day
        account = refresh(account, day)
        if account.day != before or snapshot.account is None:
            cause = uuid5(NAMESPACE, f"day/{account_id}/{day.label}")
            appends.append(on_account(account_id, cause, events.refreshed(account, day)))
        return account, day, joined(appends)

    def open(self, account_id: str, now: datetime, *, budget: int, days: int, time_zone: str) -> Account:
        """Return a new account whose first period, of `days` days, begins today."""
        day_seconds = self.policy.day_seconds
        period = Period(time_zone, period_start(time_zone, now, day_seconds), days, day_seconds)
        return open_account(account_id, period, budget, day_at(period, now))

    def grant(
        self, account: Account, need: Need, *, lease_id: UUID, build_id: str, cause: UUID, now: datetime
    ) -> tuple[Account, BudgetGranted, Reservation] | None:
        """Reserve money for a build. `lease_id` becomes the id of the reservation.

        Returns the changed account, the event `budget.granted`, and the reservation. Returns None when the account has
        less left than `need.minimum`.
        """
        account, amount = reserve(account, need.amount, need.minimum)
        if not amount:
            return None
        fact = events.granted(
            account, lease_id=lease_id, amount=amount, expires_at=now + self.policy.grant_lasts
        )
        granted_event = event_id(cause, fact.type)
        return (
            account,
            fact,
            Reservation(
                lease_id, account.account_id, build_id, account.day, amount, granted_event, fact.expires_at
            ),
        )


def on_account(account_id: str, cause: UUID, *facts: Event) -> Append:
    """Return an append of the events `facts` to the account's stream. All of them get the cause `cause`."""
    return Append(account_stream(account_id), tuple(NewEvent(fact, cause) for fact in facts))


def joined(appends: Sequence[Append]) -> Sequence[Append]:
    """Return the appends with all events of one stream in one append, because a transaction may name a stream only
    once.
    """
    streams: dict[str, list[NewEvent]] = {}
    for append in appends:
        streams.setdefault(append.stream_id, []).extend(append.events)
    return [Append(stream_id, tuple(events)) for stream_id, events in streams.items()]
