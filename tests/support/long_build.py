"""A long build as the log records it: thinking, files that change, tests, snapshots, money."""

from datetime import timedelta

from tests.unit.orchestrator.build_scenario import BuildScenario, begun, text, tool_use

from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.policy import Policy

_POLICY = Policy(turn_limit=100_000, tool_call_limit=100_000, grant_turns=100)


def long_build(turns: int) -> list[RecordedEvent]:
    """Return the events of `turns` turns with two calls each. Each turn rewrites a file and runs the tests."""
    scenario = begun(policy=_POLICY)
    for turn in range(1, turns + 1):
        _take_turn(scenario, turn)
    return scenario.log


def _take_turn(scenario: BuildScenario, turn: int) -> None:
    body = "".join(f"def function_{line}():\n    return {line * turn}\n" for line in range(25))
    scenario.thinks(
        {"type": "thinking", "thinking": "So the next step is this. " * 20, "signature": "s" * 300},
        text(f"Turn {turn}: I write the module and run its tests. <script>alert({turn})</script>"),
        tool_use(
            "write_file", {"file_path": f"src/module_{turn % 7}.py", "content": body}, id=f"toolu_w{turn}"
        ),
        tool_use("bash", {"command": f"pytest -q tests/test_{turn}.py"}, id=f"toolu_b{turn}"),
    )
    scenario.passes(7)
    scenario.results(output=f"{turn} passed in 0.1s\n" + "tests/test_module.py::test_function PASSED\n" * 40)
    snapshot = SnapshotSaved(
        reason="checkpoint",
        at_version=scenario.state.version,
        tree_digest="sha256:" + "0" * 64,
        files=turn,
        bytes=1_000 * turn,
        uploaded_bytes=1_000,
        key=f"projects/p1/builds/b1/{turn}",
    )
    scenario.now += timedelta(seconds=1)
    scenario.others(snapshot)
