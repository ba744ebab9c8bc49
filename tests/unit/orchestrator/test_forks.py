"""A fork begins with the thoughts of its base at one turn, byte for byte, and with nothing else of it."""

import json
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    NOW,
    REQUEST,
    BuildScenario,
    answer,
    begun,
    completed,
    text,
    tool_use,
)

from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    BuildForked,
    CheckpointSaved,
    ModelCallResponded,
)
from nightshift.contracts.events.requests import BuildRequested, Check, ForkPoint
from nightshift.contracts.events.sandbox import SandboxLost, SandboxOpened, SandboxRestored
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.registry import decode, encode
from nightshift.devstack.model.conversation import validate
from nightshift.devstack.model.rules import signature
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain import forks
from nightshift.orchestrator.domain.commands import AcceptBuild, Complete, ForkBase, MessageAgent
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.prompt import build_request
from nightshift.orchestrator.domain.state import INITIAL, BuildState
from nightshift.orchestrator.usecases.replay import verify

POLICY = Policy(model_by_tier=True)
#: Its model thinks, so its API binds each thought to what precedes it.
ASKED = REQUEST.model_copy(update={"model": "claude-sonnet-5-5"})
TURNS = 4


def _body(state: BuildState) -> dict:
    """The request as the provider reads it."""
    return json.loads(json.dumps(build_request(state, POLICY)))


def _thinks(scenario: BuildScenario, *content: dict) -> None:
    """One turn whose thinking has the signature that the provider would give it, and a snapshot of its files."""
    scenario.step()
    if isinstance(scenario.log[-1].data, BudgetRequested):
        scenario.granted()
        scenario.step()
    body = _body(scenario.state)
    validate(body)
    thinking = {"type": "thinking", "thinking": f"After {scenario.state.version}.", "signature": ""}
    thinking["signature"] = signature(body, len(body["messages"]))
    scenario.do(answer(thinking, *content))


@pytest.fixture
def base() -> BuildScenario:
    """A build of four turns that is ready at the end, with a snapshot of each turn."""
    scenario = begun(policy=POLICY, request=ASKED)
    scenario.others(SandboxOpened(sandbox_id="s0", driver="local", generation=0))
    for turn in range(1, TURNS):
        _thinks(
            scenario, text(f"Turn {turn}."), tool_use(given={"command": f"make {turn}"}, id=f"toolu_{turn}")
        )
        scenario.results(output=f"made {turn}")
        if turn == 2:
            scenario.do(MessageAgent("Make it blue.", cause=UUID(int=77)))
    _thinks(scenario, text("Done."))
    scenario.results()
    scenario.do(Complete(build_version=1))
    for event in list(scenario.log):
        if isinstance(event.data, CheckpointSaved) or event.data.terminal:
            scenario.others(_snapshot(event.version))
    return scenario


def _snapshot(version: int) -> SnapshotSaved:
    return SnapshotSaved(
        reason="checkpoint",
        at_version=version,
        tree_digest="sha256:" + f"{version:064x}",
        files=version,
        bytes=1,
        uploaded_bytes=1,
        key=f"projects/p1/builds/b1/{version}",
    )


def _point(base: BuildScenario, turn: int) -> ForkBase:
    point, state = forks.ForkPoint("b1", turn), INITIAL
    for event in base.log:
        state = evolve(state, event)
        point.read(event, state)
    return point.base()


def _request(turn: int, **changes) -> BuildRequested:
    given = {"build_id": "b2", "base_build_id": "b1", "at": ForkPoint(turn=turn), **changes}
    return ASKED.model_copy(update=given)


class Fork(BuildScenario):
    """A fork of a build as the log records it: every event is encoded and decoded."""

    def __init__(self, request: BuildRequested, base: ForkBase) -> None:
        self.base = base
        super().__init__(policy=POLICY, request=request)
        self.step()  # the first step took it out of the queue

    def do(self, command):
        return super().do(
            AcceptBuild(command.request, base=self.base) if isinstance(command, AcceptBuild) else command
        )

    def record(self, causes, events):
        read = tuple(decode(one.type, one.version, encode(one)) for one in events)
        assert read == events
        return super().record(causes, read)


def _state_at_the_end_of(base: BuildScenario, turn: int) -> BuildState:
    state = INITIAL
    for event in base.log:
        state = evolve(state, event)
        if isinstance(event.data, CheckpointSaved) and event.data.turn == turn:
            return state
    return state


@pytest.mark.parametrize("turn", range(1, TURNS + 1))
def test_a_fork_begins_with_the_thoughts_and_files_of_that_turn(base: BuildScenario, turn: int):
    fork = Fork(_request(turn), _point(base, turn))
    before = _state_at_the_end_of(base, turn)
    assert fork.state.conversation.entries == before.conversation.entries
    assert fork.last(BuildForked).snapshot_key == f"projects/p1/builds/b1/{fork.last(BuildForked).at_version}"
    fork.granted()
    fork.step()
    body = _body(fork.state)
    validate(body)  # the strict rules: ids, results, every signature
    answers = [one for one in body["messages"] if one["role"] == "assistant"]
    recorded = [one.data.content for one in base.log if isinstance(one.data, ModelCallResponded)]
    assert [tuple(one["content"]) for one in answers] == recorded[:turn]
    assert fork.state.call is not None
    assert fork.state.call.turn == turn + 1
    _thinks_on(fork)
    assert fork.requested_calls()[-1].call_id == f"b2/{turn + 1}/0"


def _thinks_on(fork: BuildScenario) -> None:
    body = _body(fork.state)
    thinking = {"type": "thinking", "thinking": "On.", "signature": signature(body, len(body["messages"]))}
    fork.do(answer(thinking, text("On."), tool_use(id="toolu_on")))
    fork.results()
    fork.step()
    validate(_body(fork.state))


def test_a_fork_has_money_limits_and_failures_of_its_own(base: BuildScenario):
    fork = Fork(_request(2, account_id="a2"), _point(base, 2))
    assert fork.last(BudgetRequested).account_id == "a2"
    state = fork.state
    assert (state.funds.spent, state.funds.grants, state.funds.day) == (0, (), None)
    assert (state.workspace.sandbox_id, state.workspace.preview_url, state.questions) == (None, None, ())
    assert state.tool_calls_made == 2
    first = base.log[0].data
    assert isinstance(first, BuildAccepted)
    assert state.request.turn_limit == first.turn_limit + 2
    assert state.request.tool_call_limit == first.tool_call_limit + 2
    base_leases = {one.data.lease_id for one in base.log if isinstance(one.data, BudgetRequested)}
    assert fork.last(BudgetRequested).lease_id not in base_leases


def test_a_persons_message_follows_the_conversation(base: BuildScenario):
    fork = Fork(_request(3, message="Make it red."), _point(base, 3))
    fork.granted()
    fork.step()
    assert "Make it red." in json.dumps(_body(fork.state)["messages"][-1])
    assert fork.state.request.message == "Make it red."


def test_a_fork_with_another_model_takes_no_thinking_along(base: BuildScenario):
    fork = Fork(_request(3, model="claude-opus-4-8"), _point(base, 3))
    fork.granted(100_000_000)
    fork.step()
    body = _body(fork.state)
    validate(body)
    assert body["model"] == "claude-opus-4-8"
    assert "After" not in json.dumps(body)
    assert "Turn 3." in json.dumps(body)


def test_a_fork_is_decided_again_as_it_was(base: BuildScenario):
    fork = Fork(_request(2), _point(base, 2))
    fork.granted()
    fork.step()
    found = verify(fork.log, kinds=frozenset({"decision", "text"}))
    assert (found.difference, found.unchecked) == (None, {})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"idea_brief": "Another idea."}, "idea_brief"),
        ({"project_id": "p2"}, "project_id"),
        ({"checks": (Check(name="x", command="true"),)}, "checks"),
        ({"criteria": ("It is fast.",)}, "criteria"),
        ({"tier": "economy"}, "tier"),
    ],
)
def test_a_fork_that_contradicts_its_base_is_refused_by_field(base: BuildScenario, change: dict, field: str):
    accepted = base.log[0].data
    assert isinstance(accepted, BuildAccepted)
    forks.check_fork(_request(2), accepted)
    with pytest.raises(BadMessage) as refused:
        forks.check_fork(_request(2, **change), accepted)
    assert refused.value.field == field


def test_a_turn_without_an_end_or_without_files_is_refused(base: BuildScenario):
    with pytest.raises(BadMessage, match="turn 9 of b1 has not ended"):
        _point(base, 9)
    saved = [one for one in base.log if not isinstance(one.data, SnapshotSaved)]
    base.log[:] = saved
    with pytest.raises(BadMessage, match="no exact snapshot of the files after turn 2"):
        _point(base, 2)


def test_a_build_that_had_no_sandbox_yet_is_forked_without_files():
    scenario = begun(policy=POLICY, request=ASKED)
    scenario.thinks(tool_use("narrate", {"message": "I begin.", "phase": "code"}))
    scenario.others(completed("b1/1/0"))
    scenario.thinks(text("So."))
    assert _point(scenario, 1).snapshot_key is None
    assert scenario.now >= NOW


def test_a_turn_that_wrote_nothing_has_the_files_of_its_neighbour():
    scenario = begun(policy=POLICY, request=ASKED)
    scenario.others(SandboxOpened(sandbox_id="s0", driver="local", generation=0))
    for turn, tool in enumerate(("write_file", "read_file", "bash", "grep"), start=1):
        scenario.thinks(tool_use(tool, {"file_path": "a"}, id=f"toolu_{turn}"))
        scenario.results()
    scenario.thinks(tool_use("read_file", {"file_path": "a"}, id="toolu_5"))
    checkpoints = {
        one.data.turn: one.version for one in scenario.log if isinstance(one.data, CheckpointSaved)
    }
    scenario.others(_snapshot(checkpoints[1]))
    assert _point(scenario, 2).snapshot_key == f"projects/p1/builds/b1/{checkpoints[1]}"
    with pytest.raises(BadMessage, match="no exact snapshot"):
        _point(scenario, 3)
    scenario.others(_snapshot(checkpoints[4]))
    assert _point(scenario, 3).snapshot_key == f"projects/p1/builds/b1/{checkpoints[4]}"
    scenario.others(_snapshot(checkpoints[3]).model_copy(update={"consistency": "late"}))
    assert _point(scenario, 3).snapshot_key == f"projects/p1/builds/b1/{checkpoints[4]}"


def test_a_fork_of_a_fork_begins_with_its_own_files(base: BuildScenario):
    fork = Fork(_request(2), _point(base, 2))
    fork.granted()
    fork.thinks(tool_use("read_file", {"file_path": "a"}, id="toolu_r"))
    fork.results()
    fork.thinks(text("Done."))
    again = _point(fork, 3)
    assert again.snapshot_key == fork.last(BuildForked).snapshot_key
    assert again.tree_digest == fork.last(BuildForked).tree_digest


def test_files_before_a_restore_are_not_those_after_it():
    scenario = begun(policy=POLICY, request=ASKED)
    scenario.others(SandboxOpened(sandbox_id="s0", driver="local", generation=0))
    for turn in (1, 2):
        scenario.thinks(tool_use("bash", {"command": f"make {turn}"}, id=f"toolu_{turn}"))
        scenario.results()
    scenario.step()
    second = next(one.version for one in reversed(scenario.log) if isinstance(one.data, CheckpointSaved))
    scenario.others(_snapshot(second))
    scenario.others(SandboxLost(sandbox_id="s0", detail="gone"))
    scenario.do(answer(text("I look."), tool_use("read_file", {"file_path": "a"}, id="toolu_3")))
    scenario.others(_restored(key="older", lost=("a",)))
    scenario.results()
    scenario.thinks(tool_use("read_file", {"file_path": "a"}, id="toolu_4"))
    with pytest.raises(BadMessage, match="no exact snapshot"):
        _point(scenario, 3)
    scenario.others(_restored(key="whole", lost=()))
    scenario.results()
    scenario.thinks(text("So."), tool_use("read_file", {"file_path": "a"}, id="toolu_5"))
    assert _point(scenario, 4).snapshot_key == "whole"


def _restored(*, key: str, lost: tuple[str, ...]) -> SandboxRestored:
    return SandboxRestored(
        sandbox_id="s1", from_snapshot=key, tree_digest="sha256:" + "f" * 64, files=1, healed=0, lost=lost
    )
