"""`rehearse` reads the unfinished builds only, and exits with 9 when one would be decided differently."""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from nightshift.cli import main
from nightshift.cli.commands import rehearse as command
from nightshift.cli.exits import Exit
from nightshift.cli.verification import Verified

DIFFERENCE = {
    "version": 8,
    "command": "Answer",
    "recorded": {"type": "tool_call.requested"},
    "decided": None,
}


class Builds:
    async def unfinished_ids(self) -> list[str]:
        return ["asleep", "running"]


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> list[Verified]:
    """What is found of the unfinished builds; the test fills it."""
    found: list[Verified] = []

    @contextlib.asynccontextmanager
    async def open_builds(home: object) -> AsyncIterator[Builds]:
        yield Builds()

    def verified(home: object, ids: list[str], kinds: frozenset[str]) -> list[Verified]:
        assert (ids, kinds) == (["asleep", "running"], {"decision"})
        return found

    monkeypatch.setattr(command, "open_builds", open_builds)
    monkeypatch.setattr(command, "verified", verified)
    return found


def test_builds_that_are_decided_alike_let_a_release_pass(rehearsed, capfd):
    rehearsed += [Verified("asleep", events=9), Verified("running", events=3)]
    assert main.run(["rehearse"]) == Exit.OK
    assert "2 unfinished builds, 0 would be treated differently" in capfd.readouterr().err


def test_a_build_that_differs_or_cannot_be_read_stops_a_release(rehearsed, capfd):
    rehearsed += [Verified("asleep", difference=DIFFERENCE), Verified("running", error="an unknown event")]
    assert main.run(["rehearse"]) == Exit.DIFFERS == 9
    shown = capfd.readouterr().out
    assert "Answer: tool_call.requested → nothing" in shown
    assert "an unknown event" in shown
    assert main.run(["rehearse", "--json"]) == Exit.DIFFERS
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert last == {"unfinished": 2, "differ": 2}
