"""`nightshift questions`: lists what builds ask a person."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.queries import open_builds

app = cyclopts.App(name="questions")


@app.default
async def questions(build: str | None = None, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """List the open questions, escalations and approvals, oldest first, each with the command that answers it.

    For example:

        nightshift questions

    Args:
        build: List only those of this build.
    """
    async with open_builds(home) as builds:
        statuses = [await builds.status(build)] if build is not None else await builds.asking()
    found = [one for status in statuses for one in status.questions.values()]
    found.sort(key=lambda one: one.asked_at)
    if json:
        write_json([one.as_json() for one in found])
    elif not found:
        note("no build waits for an answer")
    for one in () if json else found:
        write_line(f"{one.build_id}  {one.question_id}  {one.kind}")
        write_line(f"  {one.text}")
        for line in one.call_in_full():
            write_line(f"    {line}")
        if one.tried is not None:
            write_line(f"  Tried: {one.tried}")
        if one.default is not None and one.deadline is not None:
            write_line(f"  Without an answer by {one.deadline.astimezone():%H:%M:%S}: {one.default}")
        write_line(f"  {one.action}")
