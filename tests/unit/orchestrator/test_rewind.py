"""A stopped build goes back to the end of a turn; what came after it stays in the log, and its cost stays spent."""

import json
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import BuildScenario, begun, text, tool_use

from nightshift.contracts.events.build import BuildRewound, CheckpointSaved
from nightshift.contracts.events.sandbox import SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.devstack.model.conversation import validate
from nightshift.orchestrator.domain.commands import (
    CancelBuild,
    ForkBase,
    PauseBuild,
    ResumeBuild,
    RewindBuild,
)
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.forks import ForkPoint, may_rewind
from nightshift.orchestrator.domain.next_step import Waiting
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.prompt import build_request
from nightshift.orchestrator.domain.state import INITIAL, RunMode
from nightshift.orchestrator.usecases.replay import verify
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandbox_gateway.domain.sandbox_state import evolve as evolve_sandbox
from nightshift.snapshotter.domain.workspace import Workspace
from nightshift.snapshotter.domain.workspace import evolve as evolve_workspace

PAUSE, RESUME, BACK = UUID(int=501), UUID(int=502), UUID(int=503)


@pytest.fixture
def paused() -> BuildScenario:
    """A build that was paused in its fourth turn, with a snapshot of each turn before."""
    scenario = begun()
    scenario.others(SandboxOpened(sandbox_id="s0", driver="local", generation=0))
    for turn in range(1, 5):
        scenario.thinks(
            text(f"Turn {turn}."), tool_use(given={"command": f"make {turn}"}, id=f"toolu_{turn}")
        )
        scenario.results(output=f"made {turn}")
    for event in list(scenario.log):
        if isinstance(event.data, CheckpointSaved):
            scenario.others(
                SnapshotSaved(
                    reason="checkpoint",
                    at_version=event.version,
                    tree_digest="sha256:" + f"{event.version:064x}",
                    files=1,
                    bytes=1,
                    uploaded_bytes=1,
                    key=f"projects/p1/builds/b1/{event.data.turn}",
                )
            )
    scenario.do(PauseBuild("a look", cause=PAUSE))
    return scenario


def _base(scenario: BuildScenario, turn: int) -> ForkBase:
    point, state = ForkPoint("b1", turn), INITIAL
    for event in scenario.log:
        state = evolve(state, event)
        point.read(event, state)
    return point.base()


def _back(scenario: BuildScenario, turn: int, message: str | None = None) -> None:
    scenario.do(RewindBuild(_base(scenario, turn), message, cause=BACK))


def _sent(scenario: BuildScenario) -> dict:
    return json.loads(json.dumps(build_request(scenario.state, scenario.policy)))


def test_a_paused_build_goes_on_from_an_earlier_turn(paused: BuildScenario):
    spent = paused.state.funds.spent
    _back(paused, 2, "Use SQLite.")
    assert paused.next() == Waiting()  # still paused
    paused.do(ResumeBuild(cause=RESUME))
    paused.granted()
    paused.thinks(text("Turn 5."), tool_use(given={"command": "make db"}, id="toolu_5"))
    body = json.dumps(_sent(paused)["messages"])
    assert "Turn 2." in body
    assert "Use SQLite." in body
    assert "Turn 3." not in body
    assert "made 4" not in body
    validate(_sent(paused) | {"messages": _sent(paused)["messages"][:-1]})
    assert paused.requested_calls()[-1].call_id == "b1/5/0"  # an id of an abandoned call is not used again
    assert paused.state.funds.spent > spent
    assert verify(paused.log).difference is None


def test_the_abandoned_branch_stays_a_place_to_fork_from(paused: BuildScenario):
    _back(paused, 1)
    assert _base(paused, 3).snapshot_key == "projects/p1/builds/b1/3"
    assert "Turn 3." in json.dumps(_base(paused, 3).conversation)
    assert [one.data.to_turn for one in paused.log if isinstance(one.data, BuildRewound)] == [1]


def test_a_rewind_ends_the_wait_of_the_abandoned_branch():
    scenario = begun(policy=Policy(turn_limit=2))
    scenario.thinks(tool_use("narrate", {"message": "I begin."}))
    scenario.results()
    scenario.thinks(tool_use("narrate", {"message": "I go on."}, id="toolu_2"))
    scenario.results()
    scenario.step()
    assert scenario.state.mode is RunMode.WAITING
    _back(scenario, 1)
    assert (scenario.state.mode, scenario.state.questions) == (RunMode.RUNNING, ())
    assert scenario.types()[-1] in {"build.resumed", "budget.requested"}
    assert verify(scenario.log).difference is None


def test_a_build_that_works_or_has_ended_does_not_go_back(paused: BuildScenario):
    base = _base(paused, 2)
    paused.do(ResumeBuild(cause=RESUME))
    assert not may_rewind(paused.state)
    assert paused.do(RewindBuild(base, None, cause=BACK)) == ()
    paused.do(CancelBuild("enough", cause=UUID(int=9)))
    assert not may_rewind(paused.state)
    assert paused.do(RewindBuild(base, None, cause=BACK)) == ()


def test_the_next_sandbox_begins_with_the_files_of_that_turn(paused: BuildScenario):
    _back(paused, 2)
    gateway, workspace = SandboxState("b1"), Workspace()
    for event in paused.log:
        gateway, workspace = evolve_sandbox(gateway, event), evolve_workspace(workspace, event)
    assert gateway.sandbox is None
    assert gateway.snapshot is not None
    assert gateway.snapshot.key == "projects/p1/builds/b1/2"
    assert (workspace.sandbox_id, dict(workspace.wanted)) == (None, {})
    late = SnapshotSaved.model_validate(
        {**_late(paused), "at_version": 3, "key": "projects/p1/builds/b1/late", "reason": "checkpoint"}
    )
    paused.others(late)  # a snapshot of the abandoned branch that arrives now
    assert evolve_sandbox(gateway, paused.log[-1]).snapshot == gateway.snapshot


def _late(scenario: BuildScenario) -> dict:
    return scenario.last(SnapshotSaved).model_dump()
