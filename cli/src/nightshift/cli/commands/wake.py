"""`nightshift wake`: wakes a sleeping build before its time."""

import cyclopts

from nightshift.budget.adapters.statements import statement
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import Builds, open_database
from nightshift.cli.text import dollars
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.eventlog.errors import Refused

app = cyclopts.App(name="wake")


@app.default
async def wake(build: BuildId, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Wake a sleeping build now. It needs money: `nightshift account top-up` adds some.

    For example:

        nightshift wake build-4f1c2a
    """
    request = checked(BuildWakeAsked, {"build_id": build})
    async with open_database(home) as database:
        status = await Builds(database).status(request.build_id)
        money = await statement(database, status.account_id)
    if status.state != "sleeping":
        raise Refused(f"build {build} is not asleep: it is {status.state}")
    if money is not None and money.left_today_microusd < max(status.next_call, 1):
        left, cost = dollars(money.left_today_microusd), dollars(status.next_call)
        raise Refused(
            f"account {status.account_id} has {left} left today; the next call of build {build} may cost {cost}",
            hint=f"`nightshift account top-up {status.account_id} AMOUNT` wakes it",
        )
    await send(home, request)
    text = f"asked {build} to wake; `nightshift watch {build}` shows it wake"
    write_result({"build_id": build, "requested": "wake"}, text, as_json=json)
