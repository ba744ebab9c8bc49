"""Commands and file edits of coding agents have the same outcome in a sandbox as on a plain machine.

`make test-commands` runs the whole corpus; otherwise the first sixty steps of one session run.
"""

import os
import re
import shutil
from collections.abc import Iterator

import pytest
from tests.integration.commands.corpus import Session, Step, sessions
from tests.integration.commands.plain_machine import PlainMachine, normalised
from tests.support.gateway_world import World

pytestmark = pytest.mark.timeout(300)

SESSIONS = sessions()
_WHOLE = os.environ.get("NIGHTSHIFT_COMMANDS") == "all"
_SAMPLE = 60
#: Lines that the tool adds to the output of a command.
_NOTES = re.compile(r"\n?\[exit code \d+\]$|\n?\[killed: when nothing else[^\n]*\]")
#: Their content has times, users or addresses in it.
_VARYING_SUFFIXES = (".pyc", ".zip", ".tar", ".tgz", ".db", ".gz")


@pytest.fixture
def plain() -> Iterator[PlainMachine]:
    machine = PlainMachine()
    yield machine
    machine.close()


def test_the_corpus_has_at_least_400_steps() -> None:
    assert sum(len(session.steps) for session in SESSIONS) >= 400


@pytest.mark.parametrize("session", SESSIONS if _WHOLE else SESSIONS[:1], ids=lambda one: one.name)
async def test_a_session_has_the_outcome_of_a_plain_machine(
    world: World, plain: PlainMachine, session: Session
) -> None:
    different = []
    for step in session.steps if _WHOLE else session.steps[:_SAMPLE]:
        if step.needs is None or shutil.which(step.needs) is not None:
            expected, found = await _outcomes(world, plain, step)
            if expected != found:
                different.append((step.line, step.command or step.input, expected, found))
    report = [
        f"line {line}: {what}\n  expected {one}\n  found    {other}" for line, what, one, other in different
    ]
    assert not different, "\n".join(report)
    assert await _tree(world, session) == _without_varying(plain.tree(), session)


async def _outcomes(world: World, plain: PlainMachine, step: Step) -> tuple[tuple[int, str], tuple[int, str]]:
    """The outcome on the plain machine and in the sandbox: exit code, or whether it is refused, and output."""
    if step.command:
        done = await world.bash(step.command)
        code, out, err = plain.bash(step.command)
        out, err = out.rstrip("\n"), err.rstrip("\n")
        shown = "\n".join([*([out] if out else []), *([f"[stderr]\n{err}"] if err else [])])
        return (code, normalised(shown)), (done.exit_code or 0, normalised(_NOTES.sub("", done.output)))
    [done] = await world.run((step.tool, step.input))
    refused, shown = plain.file_tool(step.tool, step.input)
    seen = re.sub(r"\n\[[^\n]*\]$", "", done.output) if step.tool == "read_file" else ""
    return (int(refused), shown), (int(done.is_error), seen)


async def _tree(world: World, session: Session) -> dict[str, tuple[str, int, str | None]]:
    sandbox = await world.driver.connect(await world.box_id())
    entries = await sandbox.list_tree(fresh=True)
    rows = {
        one.path: (one.kind, 0 if one.kind == "symlink" else one.mode, one.digest or one.target)
        for one in entries
    }
    return _without_varying(rows, session)


def _without_varying(
    tree: dict[str, tuple[str, int, str | None]], session: Session
) -> dict[str, tuple[str, int, str | None]]:
    kept = {}
    for path, row in tree.items():
        # The tree of a sandbox also names its root, and holds what is kept of the home.
        if path == "." or path.startswith((".git/", ".nightshift-home")) or "/.git/" in path:
            continue
        name = path.rpartition("/")[2]
        varies = name in session.varying or name.endswith(_VARYING_SUFFIXES)
        kept[path] = (row[0], row[1], None) if varies else row
    return kept
