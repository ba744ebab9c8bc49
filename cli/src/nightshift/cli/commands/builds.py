"""`nightshift builds`: lists the newest builds with what each does or waits for."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, Limit
from nightshift.cli.follow import doing
from nightshift.cli.narration import proof_in_words
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import QueuePlace, open_builds
from nightshift.cli.text import dollars, short

app = cyclopts.App(name="builds")

Status = Literal["running", "sleeping", "waiting", "ready", "failed", "cancelled"]
_COLUMNS = ("BUILD", "PROJECT", "ACCOUNT", "PHASE", "NOW", "PROOF", "TURNS", "COST", "AGE", "IDEA")


@app.default
async def builds(
    *, limit: Limit = 20, status: Status | None = None, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """List the newest builds. For each build that waits, say why and what to do.

    For example:

        nightshift builds

        nightshift builds --status sleeping --json

    Args:
        limit: How many of the newest builds to look at.
        status: Of these, list only builds with this status.
    """
    async with open_builds(home) as open_:
        found = [one for one in await open_.recent(limit) if status in (None, one.state)]
        queue = await open_.queue() if any(one.phase == "queued" for one in found) else {}
    now = datetime.now(UTC)
    if json:
        write_json([{**one.as_json(now), "queue": _place(queue, one)} for one in found])
    elif found:
        write_table(_COLUMNS, [_row(one, now) for one in found])
        for one in found:
            if (place := queue.get(one.build_id)) is not None:
                note(
                    f"{one.build_id} is number {place.position} of the queue, {place.of_account} of its account"
                )
            elif (wait := one.waiting(now)) is not None:
                note(f"{one.build_id} {wait}; {wait.action}")
    elif status is not None:
        note(f"none of the newest {limit} builds is {status}; --limit looks at more")
    else:
        note("no builds; ask for one with `nightshift build --idea …`")


def _place(queue: Mapping[str, QueuePlace], one: BuildStatus) -> dict[str, int] | None:
    place = queue.get(one.build_id)
    return None if place is None else {"position": place.position, "of_account": place.of_account}


def _row(one: BuildStatus, now: datetime) -> tuple[object, ...]:
    what = one.preview_url or one.reason or "" if one.ended else doing(one, now)
    whose = one.build_id, one.project_id, one.account_id
    return (
        *whose,
        one.phase,
        short(what, 40),
        _shown(one),
        one.turns,
        dollars(one.cost),
        _age(one, now),
        short(one.brief, 40),
    )


def _shown(one: BuildStatus) -> str:
    """Returns a short text on how good the result is: the proof of a ready build, or else how many criteria were met.

    Returns `-` when there is neither.
    """
    if one.proof is not None:
        return short("; ".join(proof_in_words(one.proof)), 40)
    return "-" if one.criteria_met is None else "{} of {} criteria met".format(*one.criteria_met)


def _age(one: BuildStatus, now: datetime) -> str:
    seconds = int((now - (one.began_at or now)).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
