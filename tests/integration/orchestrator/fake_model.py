"""A model in this process, which answers or fails as the test asks."""

import asyncio
import json

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.ports import CallError, UsageMeter

_SEEN = Usage(input_tokens=10, output_tokens=1)
_WHOLE = Usage(input_tokens=11, output_tokens=22, cache_read_input_tokens=33, cache_write_5m_input_tokens=44)

FAILURES = {
    "limited": CallFailed("rate_limited", "slow down", status=429, retry_after_s=7.0),
    "overloaded": CallFailed("overloaded", "busy", status=529),
    "broken": CallFailed("server", "broken", status=500),
    "key": CallFailed("auth", "no such key", status=401),
    "forbidden": CallFailed("auth", "not for you", status=403),
    "bad": CallFailed("invalid", "that is wrong", status=400),
    "cut": CallFailed("stream_cut", "cut", usage=_SEEN, maybe_billed=True),
    "garbled": CallFailed("malformed", "not JSON", usage=_SEEN, maybe_billed=True),
    "stumble": CallFailed("overloaded", "busy", usage=_SEEN, maybe_billed=True),
}


class FakeModel:
    """Implements the port Model. The last user message names the outcome."""

    async def count(self, body: bytes) -> int:
        if "max_tokens" in json.loads(body):
            detail = "max_tokens: Extra inputs are not permitted"
            raise CallError(CallFailed("invalid", detail, status=400))
        return len(body) // 4

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        meter.under_way = True
        words = json.loads(body)["messages"][-1]["content"]
        if words in FAILURES:
            raise CallError(FAILURES[words])
        meter.usage = _SEEN
        if words == "slowly":
            await asyncio.Event().wait()
        meter.usage = _WHOLE
        return Answer(
            message_id="msg_1",
            model="scripted-1",
            content=(
                {"type": "thinking", "thinking": "I look around.", "signature": "s"},
                {"type": "text", "text": "Looking."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "bash",
                    "input": {"command": "ls -la", "note": 'ünïcode " and more'},
                },
            ),
            stop_reason="tool_use",
            usage=_WHOLE,
            latency_ms=1,
            first_token_ms=1,
        )
