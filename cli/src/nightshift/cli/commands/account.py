"""`nightshift account`: opens accounts, sets their budgets, tops them up and shows their statements."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.budget.adapters.statements import AccountStatement, check_time_zone, statement, statements
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_fields, write_json, write_table
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_database
from nightshift.cli.text import dollars
from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.model import Request
from nightshift.eventlog.errors import NotFound

app = cyclopts.App(name="account", help="Open accounts, set their budgets, top them up, show them.")

#: The amounts of today in a list: the fields `<name>_microusd` of a statement.
_TODAY = ("limit", "posted", "reserved", "left_today")


@app.command
def open(
    account: str,
    budget: str,
    *,
    days: int = 30,
    time_zone: str = "UTC",
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Open an account with a budget for a period. Each day of the period may spend its share.

    Example:

        nightshift account open family 20.00 --days 30 --time-zone Europe/Berlin

    Parameters
    ----------
    account
        The account's id.
    budget
        US dollars for the period.
    days
        Length of the period in days.
    time_zone
        The time zone in which a day ends at midnight.
    """
    check_time_zone(time_zone)
    fields = {"period_budget_microusd": microdollars(budget), "period_days": days, "time_zone": time_zone}
    _ask(home, checked(AccountOpened, {"account_id": account, **fields}), json=json)


@app.command
def budget(
    account: str, budget: str, *, days: int = 30, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Set the budget of an account from now on.

    Example:

        nightshift account budget family 40.00

    Parameters
    ----------
    account
        The account's id.
    budget
        US dollars for the period.
    days
        Length of the period in days.
    """
    fields = {"period_budget_microusd": microdollars(budget), "period_days": days}
    _ask(home, checked(AccountBudgetSet, {"account_id": account, **fields}), json=json)


@app.command(name="top-up")
def top_up(account: str, amount: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Add money to an account for today. Its builds that sleep for want of money wake at once.

    Example:

        nightshift account top-up family 1.50

    Parameters
    ----------
    account
        The account's id.
    amount
        US dollars.
    """
    fields = {"account_id": account, "amount_microusd": microdollars(amount)}
    _ask(home, checked(AccountToppedUp, fields), json=json)


@app.command
def show(account: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Show an account's statement: its period, and how much of today is spent, reserved and left.

    Amounts marked as estimated are worst cases of model calls whose answer nobody received: the provider may have
    billed less.

    Example:

        nightshift account show family --json

    Parameters
    ----------
    account
        The account's id.
    """
    found = asyncio.run(_statement(home, account))
    if json:
        write_json(asdict(found))
    else:
        write_fields(shown(found))


def shown(one: AccountStatement) -> dict[str, object]:
    """Returns the fields of a statement for a person: amounts in dollars, estimates marked."""
    fields = asdict(one)
    amounts = {
        name.removesuffix("_microusd"): dollars(value)
        for name, value in fields.items()
        if name.endswith("_microusd") and name != "estimated_microusd"
    }
    if one.estimated_microusd:
        amounts["spent_in_period"] += f", of which {dollars(one.estimated_microusd)} estimated"
    return {name: fields[name] for name in ("account_id", "time_zone", "day", "refresh_at")} | amounts


@app.command(name="list")
def list_(
    *,
    limit: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1, lte=1000))] = 100,
    after: str = "",
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """List the accounts in the order of their ids, with how much of today is spent and left.

    Example:

        nightshift account list --json | jq '.[].account_id'

    Parameters
    ----------
    limit
        The largest number of accounts to list.
    after
        List accounts whose id comes after this one: the next page.
    """
    found = asyncio.run(_statements(home, limit + 1, after))
    listed = found[:limit]
    if json:
        write_json([asdict(one) for one in listed])
    elif listed:
        write_table(
            ("ACCOUNT", "DAY", "LIMIT", "SPENT", "RESERVED", "LEFT", "REFRESH", "ESTIMATED"),
            [
                (
                    one.account_id,
                    one.day,
                    *(dollars(getattr(one, f"{name}_microusd")) for name in _TODAY),
                    one.refresh_at,
                    dollars(one.estimated_microusd) if one.estimated_microusd else None,
                )
                for one in listed
            ],
        )
    else:
        note("no accounts; `nightshift account open` opens one, and so does a build")
    if len(found) > limit:
        note(f"more follow: --after {listed[-1].account_id} lists them")


def microdollars(text: str) -> int:
    """Converts US dollars as a person writes them to whole microdollars. Raises WrongUsage."""
    try:
        amount = Decimal(text.removeprefix("$")) * 1_000_000
    except InvalidOperation:
        raise WrongUsage(f"{text!r} is not an amount in dollars", hint="write it as 20 or 0.50") from None
    if not amount.is_finite() or amount != amount.to_integral_value() or amount <= 0:
        raise WrongUsage(
            f"{text!r} cannot be a budget", hint="give more than 0, with at most six digits after the point"
        )
    return int(amount)


def _ask(home: Path, request: Request, *, json: bool) -> None:
    asyncio.run(send(home, request))
    if json:
        write_json({"requested": request.type, **request.model_dump(mode="json")})
    else:
        note("sent; `nightshift account show` shows it as soon as the budget service has recorded it")


async def _statement(home: Path, account: str) -> AccountStatement:
    async with open_database(home) as database:
        found = await statement(database, account)
    if found is None:
        raise NotFound(
            f"there is no account {account}", hint="`nightshift account open` opens one, and so does a build"
        )
    return found


async def _statements(home: Path, limit: int, after: str) -> Sequence[AccountStatement]:
    async with open_database(home) as database:
        return await statements(database, limit, after=after)
