"""`nightshift account`: money of an account: open it, change its budget, top it up, look at it."""

import asyncio
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.domain.calendar import check_time_zone, day_at
from nightshift.budget.domain.ledger import Account, refresh
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_fields, write_json, write_table
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_database
from nightshift.cli.text import dollars
from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.model import Request
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.postgres import PostgresEventLog

app = cyclopts.App(name="account", help="Open accounts, set their budgets, top them up, look at them.")

#: What is told of a day in a list, as in the names of the fields.
_DAY = ("limit", "posted", "reserved", "left_today")


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
    """Open an account with a budget for a period.

    Example:

        nightshift account open family 20.00 --days 30 --time-zone Europe/Berlin

    Parameters
    ----------
    account
        The account's id.
    budget
        US dollars for the period, shared by its days.
    days
        How long a period is.
    time_zone
        Where its midnight is.
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
        How long a period is.
    """
    fields = {"period_budget_microusd": microdollars(budget), "period_days": days}
    _ask(home, checked(AccountBudgetSet, {"account_id": account, **fields}), json=json)


@app.command(name="top-up")
def top_up(account: str, amount: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Give an account money for today; its sleeping builds wake at once.

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
    """Show an account: its period, and what of today is spent, reserved and left.

    Example:

        nightshift account show family --json

    Parameters
    ----------
    account
        The account's id.
    """
    told = asyncio.run(_standing(home, account))
    if json:
        write_json(told)
        return
    shown = {
        name.removesuffix("_microusd"): dollars(told[name]) for name in told if name.endswith("_microusd")
    }
    write_fields({name: told[name] for name in ("account_id", "time_zone", "day", "refresh_at")} | shown)


@app.command(name="list")
def list_(
    *,
    limit: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1, lte=1000))] = 100,
    after: str = "",
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """List the accounts, by their ids, and what of today is spent and left.

    Example:

        nightshift account list --json | jq '.[].account_id'

    Parameters
    ----------
    limit
        At most so many.
    after
        Only ids that come after this one: the next page.
    """
    found = asyncio.run(_accounts(home, limit + 1, after))
    shown = found[:limit]
    if json:
        write_json(shown)
    elif shown:
        write_table(
            ("ACCOUNT", "DAY", "LIMIT", "SPENT", "RESERVED", "LEFT", "REFRESH"),
            [
                (
                    one["account_id"],
                    one["day"],
                    *(dollars(one[f"{name}_microusd"]) for name in _DAY),
                    one["refresh_at"],
                )
                for one in shown
            ],
        )
    else:
        note("no accounts; one is opened by `nightshift account open`, or by a build")
    if len(found) > limit:
        note(f"more follow: --after {shown[-1]['account_id']} shows them")


def microdollars(text: str) -> int:
    """US dollars as a person writes them, in whole microdollars. Raises WrongUsage."""
    try:
        amount = Decimal(text.removeprefix("$")) * 1_000_000
    except InvalidOperation:
        raise WrongUsage(f"{text!r} is no amount of dollars", hint="such as 20 or 0.50") from None
    if not amount.is_finite() or amount != amount.to_integral_value() or amount <= 0:
        raise WrongUsage(
            f"{text!r} cannot be a budget", hint="more than nothing, at most six digits after the point"
        )
    return int(amount)


def _ask(home: Path, request: Request, *, json: bool) -> None:
    asyncio.run(send(home, request))
    if json:
        write_json({"requested": request.type, **request.model_dump(mode="json")})
    else:
        note("sent; `nightshift account show` tells when it is noted")


async def _standing(home: Path, name: str) -> dict[str, Any]:
    async with open_database(home) as database:
        account = await _ledger(database).account(name)
        now = await _now(database)
    if account is None:
        raise NotFound(
            f"there is no account {name}", hint="it is opened by `nightshift account open`, or by a build"
        )
    return told(account, now)


async def _accounts(home: Path, limit: int, after: str) -> list[dict[str, Any]]:
    async with open_database(home) as database:
        now = await _now(database)
        return [told(one, now) for one in await _ledger(database).accounts(limit, after=after)]


def _ledger(database: Database) -> PostgresLedger:
    return PostgresLedger(database, PostgresEventLog(database, actor="cli", hint=False))


async def _now(database: Database) -> datetime:
    """By the clock that the budget goes by."""
    now: datetime = (await database.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now


def told(account: Account, now: datetime) -> dict[str, Any]:
    """An account as it stands now. Its row is of the day on which money last moved: a night may have passed since."""
    day = day_at(account.period, now)
    account = refresh(account, day)
    return {
        "account_id": account.account_id,
        "time_zone": account.period.time_zone,
        "period_days": account.period.days,
        "day": account.day,
        "refresh_at": day.refresh_at,
        "period_budget_microusd": account.period_budget,
        "spent_in_period_microusd": account.spent_in_period,
        "limit_microusd": account.limit,
        "posted_microusd": account.posted,
        "reserved_microusd": account.pending,
        "left_today_microusd": account.left_today,
    }
