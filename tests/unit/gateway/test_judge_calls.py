"""A judge's calls cannot change the workspace, whatever the judge asks for."""

import pytest
from tests.support.gateway_world import World

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import SandboxOpened, ToolCallCompleted
from nightshift.contracts.tools import TOOLS
from nightshift.sandbox_gateway.domain.judge_calls import refused

INPUTS = {
    "bash": {"command": "touch gone"},
    "write_file": {"file_path": "a.txt", "content": "x"},
    "edit_file": {"file_path": "a.txt", "old_string": "", "new_string": "x"},
    "document": {"file_path": "a.md", "content": "x"},
    "open_port": {"port": 8000},
    "narrate": {"phase": "code", "message": "x"},
    "ask_user": {"question": "x"},
    "report_verdicts": {"verdicts": []},
    "no_such_tool": {},
}


def asked(tool: str, purpose: str = "judge") -> ToolCallRequested:
    given = INPUTS.get(tool, {"file_path": "a"})
    return ToolCallRequested(
        call_id="b/1/1", turn=1, index=1, tool=tool, tool_use_id="t", input=given, purpose=purpose
    )


@pytest.mark.parametrize("tool", sorted({*TOOLS, *INPUTS}))
def test_a_judge_may_only_read(tool):
    reads = tool in ("read_file", "glob", "grep")
    assert (refused(asked(tool)) is None) == reads
    assert refused(asked(tool, "agent")) is None


@pytest.mark.parametrize("tool", sorted(INPUTS))
async def test_a_refused_call_has_its_result_and_opens_no_sandbox(tool):
    world = World(driver=None)
    await world.accept()
    await world.say(asked(tool).model_copy(update={"call_id": f"{world.build_id}/1/1"}))
    assert await world.gateway().work(world.build_id) is None
    events = [event.data async for event in world.log.read_stream(world.stream)]
    (result,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert (result.is_error, result.error_kind) == (True, "refused")
    assert "a judge only reads" in result.output
    assert not [event for event in events if isinstance(event, SandboxOpened)]
