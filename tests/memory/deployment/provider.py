"""The orchestrator's ports in a simulated deployment: a scripted model, build numbers, the query for unowned builds."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tests.memory.deployment.deployment import SimulatedDeployment
from tests.support.memory_unowned_builds import MemoryUnownedBuilds

from nightshift.contracts.events.build import ModelCallStarted, Usage
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.ports import CallError, UsageMeter
from nightshift.simulation import Violation


@dataclass(frozen=True)
class Outside:
    """The orchestrator's ports Model, BuildNumbers and UnownedBuilds."""

    deployment: SimulatedDeployment

    async def number(self, project_id: str, build_id: str) -> int:
        async def draw() -> int:
            numbers = self.deployment.numbers
            return numbers.setdefault(build_id, len(numbers) + 1)

        return await self.deployment.world.insist("number", draw)

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        query = partial(self._builds.unowned, limit=limit, per_account=per_account)
        return await self.deployment.world.remote("unowned", query)

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        query = partial(self._builds.waiting_for_provider, limit=limit)
        return await self.deployment.world.remote("waiting for provider", query)

    @property
    def _builds(self) -> MemoryUnownedBuilds:
        deployment = self.deployment
        return MemoryUnownedBuilds(deployment.tables, deployment.leases, deployment.world.now)

    async def count(self, body: bytes) -> int:
        await asyncio.sleep(self.deployment.world.draws.uniform(0.01, 0.2))
        if self.deployment.world.strikes(0.1):
            raise CallError(CallFailed("overloaded", "busy", status=529))
        return len(body) // 4

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        meter.under_way = True
        deployment, world = self.deployment, self.deployment.world
        request = json.loads(body)
        build_id = request["messages"][0]["content"][0]["text"].split("<")[1].split(">")[0]
        deployment.requests_sent[build_id] += 1
        started = sum(isinstance(event, ModelCallStarted) for event in deployment.events(build_id))
        if deployment.requests_sent[build_id] > started:
            raise Violation(f"{build_id}: a request left before its reservation was in the log")
        await asyncio.sleep(world.draws.uniform(0.05, 2.0))
        if world.strikes(0.1):
            raise CallError(CallFailed("overloaded", "busy", status=529, retry_after_s=1.0))
        if deployment.key_is_refused():
            raise CallError(CallFailed("auth", "invalid x-api-key", status=401))
        meter.usage = Usage(input_tokens=4_000, output_tokens=1)
        await asyncio.sleep(world.draws.uniform(0.05, 2.0))
        if world.strikes(0.1):
            raise CallError(CallFailed("stream_cut", "cut", usage=meter.usage, maybe_billed=True))
        answered = sum(message["role"] == "assistant" for message in request["messages"])
        if any(tool["name"] == "report_verdicts" for tool in request["tools"]):
            again = "An earlier round" in request["messages"][0]["content"][0]["text"]
            return scripted_verdicts(answered, all_met=again)
        return scripted_answer(answered, deployment.turns)


def scripted_verdicts(answered: int, *, all_met: bool) -> Answer:
    """The judge reads two files, and then finds the second criterion not met in its first round."""
    uses: tuple[dict[str, object], ...]
    if answered == 0:
        uses = tuple(
            {"type": "tool_use", "id": f"read_{name}", "name": "read_file", "input": {"file_path": name}}
            for name in ("app.py", "README.md")
        )
    else:
        given = [
            {"criterion": number, "met": number == 1 or all_met, "evidence": "app.py:1"} for number in (1, 2)
        ]
        uses = (
            {"type": "tool_use", "id": "verdicts", "name": "report_verdicts", "input": {"verdicts": given}},
        )
    return Answer(
        message_id=f"judge_{answered}",
        model="scripted-1",
        content=uses,
        stop_reason="tool_use",
        usage=Usage(input_tokens=2_000, output_tokens=100),
        latency_ms=1,
        first_token_ms=1,
    )


def scripted_answer(answered: int, turns: int) -> Answer:
    """Two tool calls a turn, and the end of the work at the turn after the last.

    The second turn asks a question, the third needs an approval, and the fourth calls the customer's tool twice.
    """
    done = answered >= turns
    uses = (
        ()
        if done
        else tuple(
            {
                "type": "tool_use",
                "id": f"toolu_{answered}_{index}",
                "name": "bash",
                "input": {"command": f"echo {answered}.{index}"},
            }
            for index in range(2)
        )
    )
    if answered == 1 and not done:
        question = {"question": "Which colour?", "options": ["blue", "green"]}
        uses += ({"type": "tool_use", "id": "toolu_ask", "name": "ask_user", "input": question},)
    if answered == 2 and not done:
        push = {"command": "true && git push"}
        uses += ({"type": "tool_use", "id": "toolu_push", "name": "bash", "input": push},)
    if answered == 3 and not done:
        uses += tuple(
            {"type": "tool_use", "id": f"toolu_stock_{sku}", "name": "stock_of", "input": {"sku": sku}}
            for sku in ("ladder", 5)
        )
    return Answer(
        message_id=f"msg_{answered}",
        model="scripted-1",
        content=({"type": "text", "text": f"turn {answered}"}, *uses),
        stop_reason="end_turn" if done else "tool_use",
        usage=Usage(input_tokens=4_000, output_tokens=200),
        latency_ms=1,
        first_token_ms=1,
    )
