"""The books: whatever happens in whatever order, nothing is granted that the day has not."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.budget.domain.calendar import Period, day_at
from nightshift.budget.domain.ledger import (
    Account,
    Reservation,
    credit,
    daily_limit,
    open_account,
    refresh,
    reserve,
    set_period_budget,
    settle,
)
from nightshift.budget.domain.spending import Spent

START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD = Period("UTC", START, days=30)
NAMESPACE = UUID(int=7)


def account(budget: int = 3_000_000) -> Account:
    return open_account("ada", PERIOD, budget, day_at(PERIOD, START))


def reservation(number: int, amount: int, day: str) -> Reservation:
    lease = uuid5(NAMESPACE, str(number))
    return Reservation(lease, "ada", "shop", day, amount, uuid5(lease, "granted"), START)


def test_the_first_day_has_its_share_of_the_period() -> None:
    assert account().limit == 100_000


def test_an_unspent_day_is_shared_by_the_days_that_are_left() -> None:
    books = refresh(account(), day_at(PERIOD, START + timedelta(days=1)))
    assert books.limit == 3_000_000 // 29


def test_the_share_is_divided_by_days_once_only() -> None:
    books = account()
    for number in range(1, 30):
        books, granted = reserve(books, books.limit, 1)
        books, _ = settle(books, reservation(number, granted, books.day), Spent(granted), expired=False)
        books = refresh(books, day_at(PERIOD, START + timedelta(days=number)))
    assert books.spent_in_period == 2_900_000
    assert books.limit == 100_000


def test_a_request_over_what_is_left_gets_what_is_left() -> None:
    books, granted = reserve(account(), 250_000, 50_000)
    assert granted == 100_000
    assert books.left_today == 0


def test_a_request_below_its_minimum_is_denied_and_changes_nothing() -> None:
    books, _ = reserve(account(), 80_000, 1)
    denied, granted = reserve(books, 50_000, 30_000)
    assert granted == 0
    assert denied == books


def test_what_was_not_spent_is_free_again() -> None:
    books, granted = reserve(account(), 60_000, 1)
    books, end = settle(books, reservation(1, granted, books.day), Spent(15_000), expired=False)
    assert (end.outcome, end.posted_amount, end.released) == ("posted", 15_000, 45_000)
    assert books.left_today == 85_000


@pytest.mark.parametrize(
    ("spent", "expired", "outcome"),
    [
        (0, False, "voided"),
        (1, False, "posted"),
        (1, True, "expired"),
        (60_001, False, "overrun"),
        (60_001, True, "overrun"),
    ],
)
def test_a_reservation_ends_in_one_of_four_ways(spent: int, expired: bool, outcome: str) -> None:
    books, granted = reserve(account(), 60_000, 1)
    _, end = settle(books, reservation(1, granted, books.day), Spent(spent), expired=expired)
    assert end.outcome == outcome


def test_an_overrun_is_posted_whole_and_owed_by_the_days_after() -> None:
    books, granted = reserve(account(), 100_000, 1)
    books, end = settle(books, reservation(1, granted, books.day), Spent(390_000), expired=False)
    assert (end.outcome, end.posted_amount, end.released) == ("overrun", 390_000, 0)
    assert books.left_today == 0
    assert refresh(books, day_at(PERIOD, START + timedelta(days=1))).limit == 90_000


def test_a_reservation_settled_on_a_later_day_leaves_that_day_alone() -> None:
    books, granted = reserve(account(), 100_000, 1)
    yesterday = reservation(1, granted, books.day)
    books = refresh(books, day_at(PERIOD, START + timedelta(days=1)))
    assert books.limit == 2_900_000 // 29
    settled, _ = settle(books, yesterday, Spent(40_000), expired=False)
    assert (settled.posted, settled.pending, settled.reserved_before) == (0, 0, 0)
    assert settled.spent_in_period == 40_000


def test_a_credit_is_for_today_and_later_days_do_not_pay_for_it() -> None:
    books = credit(account(), 500_000)
    assert books.left_today == 600_000
    books, granted = reserve(books, 600_000, 1)
    books, _ = settle(books, reservation(1, granted, books.day), Spent(600_000), expired=False)
    assert refresh(books, day_at(PERIOD, START + timedelta(days=1))).limit == 100_000


def test_a_new_period_starts_afresh_and_keeps_what_was_paid() -> None:
    books = credit(account(), 500_000)
    books = refresh(books, day_at(PERIOD, START + timedelta(days=30)))
    assert books.limit == 3_500_000 // 30
    assert books.spent_in_period == 0


def test_a_smaller_budget_never_takes_back_what_is_bound_today() -> None:
    books, _ = reserve(account(), 70_000, 1)
    books = set_period_budget(books, 300_000, PERIOD, day_at(PERIOD, START))
    assert books.limit == 70_000
    assert books.left_today == 0


def test_a_day_with_no_days_left_is_not_divided_by_zero() -> None:
    assert daily_limit(100, 0, 0, 0) == 100


@dataclass
class Bank:
    """The checker: its own sums, kept beside the books."""

    books: Account
    open: dict[int, Reservation] = field(default_factory=dict)
    posted: int = 0
    overrun: int = 0


STEP = st.one_of(
    st.tuples(st.just("reserve"), st.integers(1, 150_000), st.integers(1, 60_000)),
    st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 110)),
    st.tuples(st.just("refresh"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("credit"), st.integers(1, 50_000), st.just(0)),
)


@given(st.lists(STEP, max_size=60))
def test_in_any_order_spent_and_reserved_stay_within_the_day(steps: list[tuple[str, int, int]]) -> None:
    bank, now = Bank(account()), START
    for number, (what, one, two) in enumerate(steps):
        books = bank.books
        if what == "reserve":
            bank.books, granted = reserve(books, one, two)
            assert bank.books.posted + bank.books.pending <= max(
                bank.books.limit, books.posted + books.pending
            )
            if granted:
                assert bank.books.posted + bank.books.pending <= bank.books.limit
                bank.open[number] = reservation(number, granted, books.day)
        elif what == "settle" and bank.open:
            key = sorted(bank.open)[one % len(bank.open)]
            held = bank.open.pop(key)
            spent = held.amount * two // 100
            bank.books, end = settle(books, held, Spent(spent), expired=bool(one % 2))
            bank.posted += end.posted_amount
            assert end.posted_amount == spent
            assert end.released == max(held.amount - spent, 0)
        elif what == "refresh":
            now += timedelta(days=one)
            bank.books = refresh(books, day_at(PERIOD, now))
        elif what == "credit":
            bank.books = credit(books, one)
        today = sum(r.amount for r in bank.open.values() if r.day == bank.books.day)
        assert bank.books.pending == today
        assert bank.books.reserved_before == sum(r.amount for r in bank.open.values()) - today
        assert bank.books.pending >= 0
