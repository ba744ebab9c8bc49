"""`nightshift wake`: wakes a sleeping build before its time."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.budget.adapters.statements import statement
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import Builds, open_database
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.eventlog.errors import Refused

app = cyclopts.App(name="wake")


@app.default
def wake(build: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Wake a sleeping build now. It needs money: `nightshift account top-up` adds some.

    For example:

        nightshift wake build-4f1c2a

    Parameters
    ----------
    build
        The build's id.
    """
    request = checked(BuildWakeAsked, {"build_id": build})
    asyncio.run(_wake(home, request))
    if json:
        write_json({"build_id": build, "requested": "wake"})
    else:
        note(f"asked {build} to wake; `nightshift watch {build}` shows it wake")


async def _wake(home: Path, request: BuildWakeAsked) -> None:
    async with open_database(home) as database:
        status = await Builds(database).status(request.build_id)
        money = await statement(database, status.account_id)
    if status.state != "sleeping":
        raise Refused(f"build {request.build_id} is not asleep: it is {status.state}")
    if money is not None and money.left_today_microusd == 0:
        raise Refused(
            f"build {request.build_id} cannot wake: account {status.account_id} has nothing left today",
            hint=f"`nightshift account top-up {status.account_id} AMOUNT` wakes it",
        )
    await send(home, request)
