"""The demo build as a place to go back to: verify, redrive, a fork at each of its turns, a rewind."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import in_process, nightshift

from nightshift.cli.event_lines import read_lines
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.forks import conversation_of
from nightshift.orchestrator.usecases.replay import may_rewind, state_after, states

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("NIGHTSHIFT_TIME_TRAVEL"), reason="a minute long: `make test-time`"
    ),
]
RICH = "rich"


class Stack:
    """The kept stack of a demo, and the id of its build."""

    def __init__(self, home: Path, build: str) -> None:
        self.home = home
        self.build = build

    def run(self, *words: str, code: int = 0) -> str:
        ran = in_process(*words, "--home", str(self.home))
        assert ran.returncode == code, ran.stdout[-2000:] + ran.stderr
        return ran.stdout

    def has_checkpoint(self, build: str) -> bool:
        ran = in_process("log", build, "--json", "--home", str(self.home))
        return ran.stdout.count('"checkpoint.saved"') > 1

    def may_rewind(self, build: str) -> bool:
        return may_rewind(state_after(self.log(build)))

    def log(self, build: str) -> list[RecordedEvent]:
        return read_lines(self.run("log", build, "--json").splitlines(), build)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("demo") / "home"
    try:
        ran = nightshift("demo", "--json", "--keep", "--home", str(home), timeout=150)
        assert ran.returncode == 0, ran.stderr
        one = Stack(home, json.loads(ran.stdout.splitlines()[-1])["build_id"])
        one.run("account", "open", RICH, "--budget", "10000")
        yield one
    finally:
        nightshift("down", "--home", str(home))


def test_the_demo_build_is_decided_and_done_again_as_it_was(stack: Stack):
    stack.run("verify", stack.build)
    stack.run("verify", "--all")
    assert stack.run("redrive", stack.build) == ""
    before = stack.log(stack.build)
    stack.run("republish", stack.build)
    assert stack.log(stack.build) == before


def test_a_fork_at_each_turn_begins_with_its_files_and_thoughts(stack: Stack):
    events = stack.log(stack.build)
    turns = max(state.conversation.turn for state in states(events))
    at_end = {
        event.data.turn: state
        for event, state in zip(events, states(events), strict=True)
        if event.data.type == "checkpoint.saved"
    }
    forks = {turn: f"fork-{turn}" for turn in range(1, turns + 1)}
    for turn, name in forks.items():
        stack.run("fork", stack.build, "--at", f"turn:{turn}", "--build-id", name, "--account", RICH)
    for turn, name in forks.items():
        # The scripted agent does not see that its server no longer runs, so a late fork can fail its checks.
        stack.run("wait", name, "--for", "end", "--timeout", "120s")
        _check_beginning(stack, name, turn, at_end.get(turn))
    spent = json.loads(stack.run("account", "show", _payer(events), "--json"))["spent_in_period_microusd"]
    assert spent == state_after(events).funds.spent, "the account of the base build paid for a fork"
    shown = json.loads(stack.run("compare", stack.build, *forks.values(), "--json"))
    assert {row["status"] for row in shown} <= {"ready", "failed"}
    assert sum(row["status"] == "ready" for row in shown) > turns / 2


def _payer(events: list[RecordedEvent]) -> str:
    return str(next(one.data.account_id for one in events if one.data.type == "build.accepted"))


def _check_beginning(stack: Stack, name: str, turn: int, base: Any) -> None:
    log = stack.log(name)
    forked = next(one.data for one in log if one.data.type == "build.forked")
    assert (forked.base_build_id, forked.at_turn) == (stack.build, turn)
    restored = [one.data for one in log if one.data.type == "sandbox.restored"]
    if restored:
        assert restored[0].tree_digest == forked.tree_digest
        assert restored[0].lost == ()
    asked = [one.data for one in log if one.data.type == "budget.requested"]
    assert {one.account_id for one in asked} == {RICH}
    if base is not None and isinstance(forked.conversation, dict):
        assert conversation_of(forked.conversation).entries == base.conversation.entries


def test_a_paused_fork_is_rewound_and_gets_ready(stack: Stack, eventually):
    stack.run("fork", stack.build, "--at", "turn:1", "--build-id", "back", "--account", RICH)
    asyncio.run(eventually(lambda: asyncio.to_thread(stack.has_checkpoint, "back"), timeout=60))
    stack.run("pause", "back")
    asyncio.run(eventually(lambda: asyncio.to_thread(stack.may_rewind, "back"), timeout=60))
    turn = next(one.data.turn for one in stack.log("back") if one.data.type == "checkpoint.saved")
    stack.run("rewind", "back", "--at", f"turn:{turn}", "--message", "Go on.")
    stack.run("resume", "back")
    stack.run("wait", "back", "--for", "ready", "--timeout", "120s")
    log = stack.log("back")
    rewound = next(one for one in log if one.data.type == "build.rewound")
    restored = [one.data for one in log[rewound.version :] if one.data.type == "sandbox.restored"]
    assert restored[0].tree_digest == rewound.data.tree_digest
    stack.run("verify", "back")
