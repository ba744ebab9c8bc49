"""What a build spent under a reservation, and which part of it is only a worst case."""

from uuid import uuid4

import pytest

from nightshift.budget.domain.sleepers import Need, share
from nightshift.budget.domain.spending import Spent, spent_under
from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted, Usage

LEASE = uuid4()


def started(turn: int, reserve: int, lease=LEASE) -> ModelCallStarted:
    return ModelCallStarted(turn=turn, attempt=1, model="m", lease_id=lease, reserve_microusd=reserve)


def responded(turn: int, cost: int) -> ModelCallResponded:
    return ModelCallResponded(
        turn=turn,
        attempt=1,
        model="m",
        message_id="m",
        content=(),
        stop_reason="end_turn",
        usage=Usage(),
        price_version="1",
        cost_microusd=cost,
        latency_ms=1,
        first_token_ms=1,
    )


def failed(turn: int, cost: int, kind: str) -> ModelCallFailed:
    return ModelCallFailed(turn=turn, attempt=1, kind=kind, detail="x", cost_microusd=cost)


@pytest.mark.parametrize(
    ("events", "spent"),
    [
        ([], Spent(0, 0)),
        ([started(1, 900), responded(1, 20)], Spent(20, 0)),
        ([started(1, 900)], Spent(900, 900, in_flight=True)),
        ([started(1, 900), failed(1, 900, "abandoned")], Spent(900, 900)),
        ([started(1, 900), failed(1, 30, "cancelled")], Spent(30, 30)),
        ([started(1, 900), failed(1, 30, "malformed")], Spent(30, 0)),
        ([started(1, 900), failed(1, 0, "overloaded")], Spent(0, 0)),
        ([started(1, 900), responded(1, 20), started(2, 700)], Spent(720, 700, in_flight=True)),
        ([started(1, 900, uuid4()), responded(1, 20)], Spent(0, 0)),
    ],
)
def test_only_what_the_provider_never_confirmed_is_estimated(events, spent) -> None:
    assert spent_under(LEASE, events) == spent


@pytest.mark.parametrize(
    ("left", "later", "amount"),
    [
        (99, [], None),
        (100, [], 100),
        (1_000, [], 500),
        (400, [(500, 100)], 300),
        (400, [(500, 301)], 400),
        (400, [(500, 301), (500, 50)], 350),
        (100, [(500, 1)], 100),
    ],
)
def test_a_sleeper_leaves_those_behind_it_their_minimum(left, later, amount) -> None:
    shared = share(left, Need(500, 100), [Need(*one) for one in later])
    assert (None if shared is None else shared.amount) == amount
