"""What the agent reads about its sandbox."""

from tests.unit.orchestrator.build_scenario import (
    answer,
    tool_use,
    working,
)

from nightshift.contracts.events.build import (
    AgentSteered,
)
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxLost,
    SandboxOpened,
    SandboxRestored,
)
from nightshift.contracts.events.snapshot import PathProblem, SnapshotSaved

DIGEST = "sha256:" + "0" * 64


def test_a_restored_sandbox_is_told_with_its_lost_files():
    scenario = working()
    scenario.others(PreviewOpened(sandbox_id="s1", port=8000, url="http://x"))
    scenario.thinks(tool_use(given={"command": "ls"}))
    scenario.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
    digest = "sha256:" + "0" * 64
    scenario.others(
        SandboxRestored(
            sandbox_id="s2", from_snapshot="k", tree_digest=digest, files=3, healed=0, lost=("a.txt",)
        )
    )
    scenario.results()
    scenario.step()
    steered = scenario.last(AgentSteered)
    assert steered.reason == "sandbox_restored"
    assert "a.txt" in steered.message
    assert scenario.state.workspace.preview_url is None
    scenario.do(answer(tool_use(given={"command": "pwd"})))
    scenario.results()
    assert [event.type for event in scenario.step()] == ["checkpoint.saved", "model_call.started"]


def test_a_lost_sandbox_is_told_with_what_is_gone():
    scenario = working()
    scenario.others(SandboxOpened(sandbox_id="s1", driver="local", generation=1))
    scenario.others(SandboxLost(sandbox_id="s1", detail="its process ended"))
    scenario.step()
    assert "workspace of the last snapshot" in scenario.last(AgentSteered).message


def test_a_restore_without_files_is_told():
    scenario = working()
    scenario.thinks(tool_use(given={"command": "ls"}))
    scenario.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
    empty = "sha256:" + "0" * 64
    scenario.others(
        SandboxRestored(sandbox_id="s2", from_snapshot="k", tree_digest=empty, files=0, healed=0, lost=(".",))
    )
    scenario.results()
    scenario.step()
    assert "its workspace is empty" in scenario.last(AgentSteered).message


def test_what_differs_after_a_restore_is_told_with_its_reason():
    scenario = working()
    scenario.thinks(tool_use(given={"command": "ls"}))
    scenario.others(SandboxOpened(sandbox_id="s2", driver="local", generation=2))
    differs = (PathProblem(path="a.txt", reason="file name too long"),)
    restored = {"sandbox_id": "s2", "from_snapshot": "k", "files": 3, "healed": 0, "tree_digest": DIGEST}
    scenario.others(SandboxRestored(**restored, lost=("a.txt",), lost_count=7, differs=differs))
    scenario.results()
    scenario.step()
    assert "a.txt (file name too long) and 6 more" in scenario.last(AgentSteered).message


def test_what_a_snapshot_cannot_hold_is_told_once():
    scenario = working()
    skipped = (PathProblem(path="db.sock", reason="a socket"),)
    saved = {"reason": "checkpoint", "at_version": 3, "tree_digest": DIGEST, "files": 1, "bytes": 1}
    for turn in range(2):
        scenario.others(SnapshotSaved(**saved, uploaded_bytes=1, key="k", skipped=skipped, skipped_count=1))
        scenario.step()
        scenario.do(answer(tool_use(given={"command": f"ls {turn}"})))
        scenario.results()
    told = [event.data.message for event in scenario.log if isinstance(event.data, AgentSteered)]
    assert [text for text in told if "db.sock (a socket)" in text] == told[:1]
    assert len(told) == 1
