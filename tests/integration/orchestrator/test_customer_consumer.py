"""Calls that a person approves and calls that a customer's consumer answers, over a real broker."""

from typing import Any

import pytest
from tests.integration.orchestrator.conftest import RunningServers
from tests.integration.orchestrator.test_service import asked, dead_letters
from tests.support import build_invariants, node_example

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import ToolCallAnswered, ToolCallRequested
from nightshift.contracts.events.requests import CustomTool, ToolCallApprovalGiven, ToolCallResultGiven
from nightshift.contracts.model import PendingKind

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

STOCK_OF = CustomTool(
    name="stock_of",
    description="How many are left.",
    input_schema={"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]},
    timeout_s=600,
)
ASKS = ApprovalPolicy(ask=("bash(git push *)",))


@pytest.mark.long
async def test_a_consumer_in_javascript_answers_each_call_once(servers: RunningServers):
    folder = await node_example.installed("stock-service")
    await servers.orchestrator("one")
    await servers.send(asked("b1", "A stocked start.", tools=(STOCK_OF,)))
    await servers.reached("b1", "build.waiting")
    items = await servers.log.pending(PendingKind.CUSTOMER_CALL)
    assert [item.key for item in items] == ["b1/1/0", "b1/1/1"]
    arguments = ("--bootstrap", servers.kafka.bootstrap, "--prefix", servers.topics.prefix)
    async with node_example.running(folder, *arguments):
        data = [event.data for event in await servers.reached("b1", "build.ready")]
    assert build_invariants.violations(data) == []
    given = [event for event in data if isinstance(event, ToolCallAnswered)]
    assert [(one.by, one.is_error) for one in given] == [("customer", False), ("customer", True)]
    assert '"left": 3' in given[0].output
    assert "there is no anvil" in given[1].output

    first = ToolCallResultGiven(build_id="b1", call_id="b1/1/0", data={"sku": "ladder", "left": 3})
    await servers.send(first, id="again")
    await servers.send(first.model_copy(update={"data": {"sku": "ladder", "left": 4}}), id="other")
    await servers.send(first.model_copy(update={"call_id": "b1/9/0"}), id="unknown")
    reasons = await dead_letters(servers, 2)
    assert "already_answered" in reasons[0]
    assert "b'other'" in reasons[0]
    assert "not_found" in reasons[1]
    assert (await servers.types("b1")).count("tool_call.answered") == 2


@pytest.mark.parametrize("approved", [True, False])
async def test_a_call_runs_only_when_a_person_approves_it(servers: RunningServers, approved: bool):
    await servers.orchestrator("one")
    await servers.send(asked("b1", "A guarded start.", approvals=ASKS))
    await servers.reached("b1", "build.waiting")
    assert [item.key for item in await servers.log.pending(PendingKind.APPROVAL)] == ["b1/1/1"]
    assert await servers.log.pending(PendingKind.TOOL_CALL) == []
    given: dict[str, Any] = {"build_id": "b1", "call_id": "b1/1/1", "comment": "Not tonight."}
    for number in range(2):  # a producer that repeats itself
        await servers.send(ToolCallApprovalGiven(**given, approved=approved), id=f"approval-{number}")
    data = [event.data for event in await servers.reached("b1", "build.ready")]
    assert build_invariants.violations(data) == []
    run = [call.call_id for call in data if isinstance(call, ToolCallRequested) and call.purpose == "agent"]
    assert run == ["b1/1/0", *(["b1/1/1"] if approved else []), "b1/2/0"]
    await servers.send(ToolCallApprovalGiven(**given, approved=not approved), id="too late")
    [reason] = await dead_letters(servers, 1)
    assert "already_answered" in reason
