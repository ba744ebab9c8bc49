"""`wake` refuses at once what the budget service would refuse later, unseen."""

from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from tests.unit.cli.events import ACCEPTED, status_after
from tests.unit.cli.test_account import STATEMENT

from nightshift.cli.commands import wake as command
from nightshift.contracts.events.build import BudgetRequested, SleepRequested
from nightshift.eventlog.errors import Refused

ASKED = BudgetRequested(
    lease_id=UUID(int=1), account_id="ada", amount_microusd=900_000, minimum_microusd=291_000
)
ASLEEP = SleepRequested(reason="budget", account_id="ada", wake_at=None)


@pytest.fixture
def sent(monkeypatch, request):
    """The requests that were sent, for a build after `facts` whose account has `left` microdollars."""
    facts, left = request.param
    requests = []

    @asynccontextmanager
    async def open_database(home):
        yield None

    async def status(self, build_id):
        return status_after(*facts)

    async def statement(database, account_id):
        return replace(STATEMENT, left_today_microusd=left)

    async def send(home, asked):
        requests.append(asked.build_id)

    monkeypatch.setattr(command, "open_database", open_database)
    monkeypatch.setattr(command.Builds, "status", status)
    monkeypatch.setattr(command, "statement", statement)
    monkeypatch.setattr(command, "send", send)
    return requests


@pytest.mark.parametrize("sent", [((ACCEPTED, ASLEEP), 1)], indirect=True)
async def test_a_sleeping_build_with_money_is_asked_to_wake(sent):
    await command.wake("b")
    assert sent == ["b"]


@pytest.mark.parametrize(
    ("sent", "left", "cost"),
    [
        (((ACCEPTED, ASLEEP), 0), "0.0000", "0.0000"),
        (((ACCEPTED, ASKED, ASLEEP), 289_999), "0.2900", "0.2910"),
    ],
    indirect=["sent"],
)
async def test_a_build_without_money_is_not_asked_and_the_hint_says_top_up(sent, left, cost):
    with pytest.raises(Refused, match=rf"ada has \${left} left today; .* may cost \${cost}") as refused:
        await command.wake("b")
    assert "account top-up ada AMOUNT" in refused.value.hint
    assert sent == []


@pytest.mark.parametrize("sent", [((ACCEPTED,), 1)], indirect=True)
async def test_a_build_that_is_awake_is_not_asked(sent):
    with pytest.raises(Refused, match="not asleep"):
        await command.wake("b")
    assert sent == []
