"""`nightshift rehearse`: lists unfinished builds that this release would treat differently, before it is deployed."""

import cyclopts

from nightshift.cli.commands.verify import verified
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.cli.verification import Verified

app = cyclopts.App(name="rehearse")

_COLUMNS = ("BUILD", "MODE", "TURN", "EVENTS", "VERSION", "DIFFERS")


@app.default
async def rehearse(*, home: Home = DEFAULT_HOME, json: Json = False) -> int:
    """List the running, waiting and sleeping builds that this release would decide differently, or cannot read.

    Run it with the release that you want to deploy, against the log of the installation that runs. It only reads.
    Exit code 9 says that at least one build differs.

    For example:

        nightshift rehearse && deploy
    """
    async with open_builds(home) as builds:
        ids = await builds.unfinished_ids()
    found = verified(home, ids, frozenset({"decision"}))
    differing = [one for one in found if one.differs]
    if json:
        for one in found:
            write_json(one.as_json())
        write_json({"unfinished": len(found), "differ": len(differing)})
    elif differing:
        write_table(_COLUMNS, [_row(one) for one in differing])
    note(f"{len(found)} unfinished builds, {len(differing)} would be treated differently")
    if differing:
        note("`nightshift verify BUILD` shows both sides")
    return Exit.DIFFERS if differing else Exit.OK


def _row(one: Verified) -> tuple[object, ...]:
    found = one.difference or {}
    sides = f"{_side(found.get('recorded'))} → {_side(found.get('decided'))}"
    what = one.error or f"{found.get('command')}: {sides}"
    return one.build_id, one.mode, one.turn, one.events, found.get("version"), what


def _side(side: dict[str, object] | None) -> object:
    return "nothing" if side is None else side["type"]
