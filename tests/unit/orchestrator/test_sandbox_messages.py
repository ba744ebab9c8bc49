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
