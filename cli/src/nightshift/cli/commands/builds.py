"""`nightshift builds`: the builds that were accepted last, with what each does or waits for."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.follow import doing
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.cli.text import dollars, short

app = cyclopts.App(name="builds")

Status = Literal["running", "sleeping", "waiting", "ready", "failed", "cancelled"]
_COLUMNS = ("BUILD", "PROJECT", "ACCOUNT", "PHASE", "NOW", "TURNS", "COST", "AGE", "IDEA")


@app.default
def builds(
    *,
    limit: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1, lte=1000))] = 20,
    status: Status | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """List the builds that were accepted last. For each that waits, say why and what to do.

    Examples:

        nightshift builds

        nightshift builds --status sleeping --json

    Parameters
    ----------
    limit
        How many builds to look at.
    status
        Only those that are running, sleeping, waiting, ready, failed or cancelled.
    """
    found, now = asyncio.run(_recent(home, limit)), datetime.now(UTC)
    found = [one for one in found if status in (None, one.state)]
    if json:
        write_json([one.as_json(now) for one in found])
    elif found:
        write_table(_COLUMNS, [_row(one, now) for one in found])
        for one in found:
            if (wait := one.waiting(now)) is not None:
                note(f"{one.build_id} {wait}; {wait.action}")
    else:
        note("no builds; ask for one with `nightshift build --idea …`")


async def _recent(home: Path, limit: int) -> list[BuildStatus]:
    async with open_builds(home) as open_:
        return await open_.recent(limit)


def _row(one: BuildStatus, now: datetime) -> tuple[object, ...]:
    what = one.preview_url or one.reason or "" if one.ended else doing(one, now)
    return (
        one.build_id,
        one.project_id,
        one.account_id,
        one.phase,
        short(what, 40),
        one.turns,
        dollars(one.cost),
        _age(one.began_at, now),
        short(one.brief, 40),
    )


def _age(since: datetime | None, now: datetime) -> str:
    if since is None:
        return "-"
    seconds = int((now - since).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
