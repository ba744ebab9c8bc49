"""`nightshift verify`: makes the recorded decisions of builds again with this release."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, progress, write_json, write_line
from nightshift.cli.queries import open_builds
from nightshift.cli.recordings import Source
from nightshift.cli.verification import Verified, difference_lines, verify_many, verify_one
from nightshift.orchestrator.usecases.replay import Kind

app = cyclopts.App(name="verify")

Flag = Annotated[bool, cyclopts.Parameter(negative=())]
All = Annotated[bool, cyclopts.Parameter(name="--all", negative=())]

_DECISIONS: frozenset[Kind] = frozenset({"decision"})
_EVERYTHING: frozenset[Kind] = frozenset({"decision", "text", "amount", "id"})


@app.default
async def verify(
    *builds: Source, all_: All = False, strict: Flag = False, home: Home = DEFAULT_HOME, json: Json = False
) -> int:
    """Make every recorded decision of builds again with this release, and name the first that differs.

    Nothing is called, changed or spent. Exit code 9 says that a build differs.

    For example:

        nightshift verify build-4f1c2a

        nightshift verify --all

    Args:
        all_: Verify every build in the log, on all processors.
        strict: Report also different texts, reserved amounts and ids. These differ between settings and releases.
    """
    if bool(builds) == all_:
        raise WrongUsage("give builds, or --all", hint="`nightshift builds` lists them")
    kinds = _EVERYTHING if strict else _DECISIONS
    if not all_:
        return report([await verify_one(home, one, kinds) for one in builds], as_json=json)
    async with open_builds(home) as opened:
        ids = await opened.all_ids()
    return report(verified(home, ids, kinds), as_json=json)


def verified(home: Path, builds: list[str], kinds: frozenset[Kind]) -> list[Verified]:
    """Verifies these builds in parallel and shows the progress on a terminal.

    Returns the results sorted by build id.
    """
    found: list[Verified] = []
    for one in verify_many(home, builds, kinds):
        found.append(one)
        if len(found) % 50 == 0 or len(found) == len(builds):
            progress(f"{len(found)} of {len(builds)} builds verified")
    return sorted(found, key=lambda one: one.build_id)


def report(found: list[Verified], *, as_json: bool) -> int:
    """Prints the results and returns the exit code: 9 when a build differs or cannot be folded."""
    differing = [one for one in found if one.differs]
    if as_json:
        for one in found:
            write_json(one.as_json())
    for one in differing if not as_json else ():
        write_line(f"{one.build_id}: {one.error or 'differs'}")
        for line in difference_lines(one.difference) if one.difference is not None else ():
            write_line(f"  {line}")
    decisions, events = sum(one.decisions for one in found), sum(one.events for one in found)
    note(f"{len(found)} builds, {events:,} events, {decisions:,} decisions: {len(differing)} differ")
    _note_counts("differences of other kinds, which --strict reports", [one.tolerated or {} for one in found])
    _note_counts(
        "events whose command is not in the log, not checked", [one.unchecked or {} for one in found]
    )
    return Exit.DIFFERS if differing else Exit.OK


def _note_counts(what: str, counts: Iterable[Mapping[str, int]]) -> None:
    total = sum(map(Counter, counts), Counter[str]())
    if total:
        note(f"{what}: {', '.join(f'{count} {name}' for name, count in sorted(total.items()))}")
