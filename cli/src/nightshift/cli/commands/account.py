"""`nightshift account`: opens accounts, sets their budgets, tops them up and shows their statements."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts

from nightshift.budget.adapters.statements import (
    AccountStatement,
    BuildForecast,
    Forecast,
    check_time_zone,
    forecast_of,
    statement,
    statements,
)
from nightshift.cli import policies
from nightshift.cli.amounts import microdollars
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, Limit
from nightshift.cli.output import note, write_fields, write_json, write_line, write_result, write_table
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds, open_database
from nightshift.cli.text import dollars
from nightshift.contracts.events.account import (
    AccountBudgetSet,
    AccountOpened,
    AccountPolicySet,
    AccountRequest,
    AccountToppedUp,
)
from nightshift.eventlog.errors import NotFound

app = cyclopts.App(name="account", help="Open accounts, set their budgets, top them up, show them.")

Account = Annotated[str, cyclopts.Parameter(help="The account's id.")]
Budget = Annotated[str, cyclopts.Parameter(help="US dollars for the period.")]
Many = Annotated[tuple[str, ...], cyclopts.Parameter(negative=())]
Days = Annotated[int, cyclopts.Parameter(help="Length of the period in days.")]

_COLUMNS = ("ACCOUNT", "DAY", "LIMIT", "SPENT", "RESERVED", "LEFT", "REFRESH", "ESTIMATED")
_FORECAST_COLUMNS = ("BUILD", "SPENT", "LIKELY MORE", "LIKELY READY ON", "NOW")
_NONE_YET = "`nightshift account open` opens one, and so does a build"


@app.command
async def open(
    account: Account,
    budget: Budget,
    *,
    days: Days = 30,
    time_zone: str = "UTC",
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Open an account with a budget for a period. Each day of the period may spend its share.

    For example:

        nightshift account open family 20.00 --days 30 --time-zone Europe/Berlin

    Args:
        time_zone: The time zone in which a day ends at midnight.
    """
    check_time_zone(time_zone)
    fields = {"period_budget_microusd": microdollars(budget), "period_days": days, "time_zone": time_zone}
    await _ask(home, checked(AccountOpened, {"account_id": account, **fields}), json=json)


@app.command
async def budget(
    account: Account, budget: Budget, *, days: Days = 30, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Set the budget of an account from now on.

    For example:

        nightshift account budget family 40.00
    """
    fields = {"period_budget_microusd": microdollars(budget), "period_days": days}
    await _ask(home, checked(AccountBudgetSet, {"account_id": account, **fields}), json=json)


@app.command(name="top-up")
async def top_up(account: Account, amount: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Add money to an account for today. Its builds that sleep because money is missing wake at once.

    For example:

        nightshift account top-up family 1.50

    Args:
        amount: US dollars.
    """
    fields = {"account_id": account, "amount_microusd": microdollars(amount)}
    await _ask(home, checked(AccountToppedUp, fields), json=json)


@app.command
async def policy(
    account: Account,
    *,
    model: Many = (),
    build_cost: str | None = None,
    active_builds: int | None = None,
    approvals: Literal["never", "always", "rules"] | None = None,
    ask: Many = (),
    host: Many = (),
    allow: Many = (),
    approval_deadline: int | None = None,
    egress_host: Many = (),
    reset: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Show or change the policy for an account's later builds. Builds that were accepted keep theirs.

    For example:

        nightshift account policy family

        nightshift account policy family --model judge=claude-opus-5-5

        nightshift account policy family --build-cost 5.00 --active-builds 3

        nightshift account policy family --ask "bash(npm publish*)" --ask "bash(git push *)" --host "*.stripe.com"

    Args:
        model: A role and its model, as ROLE=MODEL; give it once for each role. The roles are builder, judge and
            condenser. ROLE= leaves the model to the tier again.
        build_cost: The most that one build may cost, in US dollars, when its request names no limit. `none` removes it.
        active_builds: How many builds of the account may be active at once. 0 removes the limit.
        approvals: Ask a person about no tool call, about each, or about those that the rules match. The options about
            approvals take the place of all that were set before.
        ask: A rule: a tool, or a tool with a pattern of its command or file. `*` stands for any text.
        host: Ask about commands that name this host. `*.example.org` is every host below it.
        allow: A rule about calls that need no approval.
        approval_deadline: Seconds after which a call that nobody approved is denied.
        egress_host: A host that builds may reach from their sandbox, beside the public package registries. The hosts
            take the place of all that were set before.
        reset: Begin without what was set before.
    """
    async with open_builds(home) as builds:
        found = await builds.account_policy(account)
    fields = {} if found is None else found.model_dump(exclude={"account_id"}, exclude_none=True)
    changes = model, reset, approvals, ask, host, allow, approval_deadline, egress_host
    if not any(changes) and build_cost is None and active_builds is None:
        _show_policy(account, fields, json=json)
        return
    fields = {} if reset else fields
    fields["models"] = policies.with_models(fields.get("models", {}), model)
    if build_cost is not None:
        fields["build_cost_limit_microusd"] = None if build_cost == "none" else microdollars(build_cost)
    if active_builds is not None:
        fields["max_active_builds"] = active_builds or None
    fields["approvals"] = policies.with_approvals(
        fields.get("approvals"),
        mode=approvals,
        ask=ask,
        hosts=host,
        allow=allow,
        deadline_s=approval_deadline,
    )
    fields |= {"egress_hosts": egress_host} if egress_host else {}
    await _ask(home, checked(AccountPolicySet, {"account_id": account, **fields}), json=json)


def _show_policy(account: str, fields: dict[str, Any], *, json: bool) -> None:
    if json:
        write_json({"account_id": account, **fields})
    elif fields:
        write_fields({"account": account, **policies.shown(fields)})
    else:
        note(f"no policy is set for {account}: the tier of each build decides")


@app.command
async def show(account: Account, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Show an account's statement: its period, and how much of today is spent, reserved and left.

    Estimated amounts are the highest possible cost of model calls whose answer was lost: the provider may have
    billed less.

    For example:

        nightshift account show family --json
    """
    async with open_database(home) as database:
        found = await statement(database, account)
    if found is None:
        raise NotFound(f"there is no account {account}", hint=_NONE_YET)
    if json:
        write_json(asdict(found))
    else:
        write_fields(shown(found))


def shown(one: AccountStatement) -> dict[str, object]:
    """Returns the fields of a statement for a person. Amounts are in dollars."""
    in_period = dollars(one.spent_in_period_microusd)
    if one.estimated_microusd:
        in_period += f", of which {dollars(one.estimated_microusd)} estimated"
    return {
        "account": one.account_id,
        "period": f"{one.period_days} days with {dollars(one.period_budget_microusd)}",
        "spent in period": in_period,
        "today": f"{one.day} ({one.time_zone}), until {one.refresh_at.isoformat(timespec='seconds')}",
        "limit today": dollars(one.limit_microusd),
        "spent today": dollars(one.posted_microusd),
        "reserved": dollars(one.reserved_microusd),
        "left today": dollars(one.left_today_microusd),
    }


@app.command
async def forecast(account: Account, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Estimate when the account's builds are ready and what they still cost, and show the most the night can cost.

    The estimate is based on builds that became ready before. The most that the night can cost is never exceeded: it
    is what is left of today, and the limit of the account's next day.

    For example:

        nightshift account forecast family
    """
    async with open_database(home) as database:
        found = await forecast_of(database, account)
    if found is None:
        raise NotFound(f"there is no account {account}", hint=_NONE_YET)
    if json:
        write_json({**asdict(found), "worst_night_microusd": found.worst_night_microusd})
        return
    write_line(forecast_in_words(found))
    if found.builds:
        write_table(_FORECAST_COLUMNS, [_forecast_row(one) for one in found.builds])
    until, after = dollars(found.until_midnight_microusd), dollars(found.next_day_microusd)
    write_line(
        f"The coming night costs at most {dollars(found.worst_night_microusd)}: {until} until the account's"
        f" midnight, {after} on the day after."
    )


def forecast_in_words(found: Forecast) -> str:
    """Returns the forecast of all builds as one sentence."""
    if not found.builds:
        return "No build of this account wants money."
    if found.more_microusd is None:
        return "No build got ready so far, so nothing is known about what builds usually cost."
    more = f"{dollars(found.more_microusd)} more, as {found.samples} builds before cost"
    if found.ready_on is None:
        return f"Not ready within a year at this pace: {more}."
    return f"All ready on {found.ready_on} at this pace, {more}."


def _forecast_row(one: BuildForecast) -> tuple[object, ...]:
    waits = "waits for money" if one.waits else None
    return (
        one.build_id,
        dollars(one.spent_microusd),
        dollars(one.expected_microusd),
        one.ready_on or "-",
        waits,
    )


@app.command(name="list")
async def list_(
    *, limit: Limit = 100, after: str = "", home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """List the accounts in the order of their ids, with how much of today is spent and left.

    For example:

        nightshift account list --json | jq '.[].account_id'

    Args:
        limit: The largest number of accounts to list.
        after: List accounts whose id comes after this one: the next page.
    """
    async with open_database(home) as database:
        found = await statements(database, limit + 1, after=after)
    listed = found[:limit]
    if json:
        write_json([asdict(one) for one in listed])
    elif listed:
        write_table(_COLUMNS, [_row(one) for one in listed])
    else:
        note(f"no accounts; {_NONE_YET}")
    if len(found) > limit:
        note(f"more follow: --after {listed[-1].account_id} lists them")


def _row(one: AccountStatement) -> tuple[object, ...]:
    today = (one.limit_microusd, one.posted_microusd, one.reserved_microusd, one.left_today_microusd)
    estimated = dollars(one.estimated_microusd) if one.estimated_microusd else None
    return one.account_id, one.day, *map(dollars, today), one.refresh_at, estimated


async def _ask(home: Path, request: AccountRequest, *, json: bool) -> None:
    await send(home, request)
    told = {"requested": request.type, **request.model_dump(mode="json")}
    show = f"`nightshift account show {request.account_id}`"
    write_result(told, f"sent; {show} shows it as soon as the budget service has recorded it", as_json=json)
