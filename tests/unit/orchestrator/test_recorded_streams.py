"""Recorded streams of the real Messages API come out as the official SDK accumulates them."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.lib.streaming._beta_messages import accumulate_event as accumulate_beta
from anthropic.lib.streaming._messages import accumulate_event

from nightshift.contracts import canonical
from nightshift.orchestrator.adapters.claude import ClaudeModel
from nightshift.orchestrator.domain.commands import Answer
from nightshift.orchestrator.ports import UsageMeter

CHECKOUT = Path(__file__).parents[3]
FILES = sorted(file for folder in CHECKOUT.parents for file in folder.glob("shared/recorded/streams/*.sse"))

pytestmark = pytest.mark.skipif(not FILES, reason="the recorded streams are not beside this checkout")


def messages(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The events of each message in a recording; some hold several, one after another."""
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("data:"):
            continue
        events.append(json.loads(line.removeprefix("data:")))
        if events[-1]["type"] == "message_stop":
            yield events
            events = []
    assert not events, "a message without its end"


def theirs(events: list[dict[str, Any]]) -> Any:
    """The message that the SDK accumulates. Only its beta reads the input of an `mcp_tool_use`."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    beta = '"mcp_tool_use"' in json.dumps(events)
    for event in events:
        if event["type"] == "ping":
            continue
        if beta:
            snapshot = accumulate_beta(
                event=event, current_snapshot=snapshot, json_bufs=buffers, request_headers=httpx2.Headers()
            )
        else:
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


class Replay(httpx2.AsyncBaseTransport):
    """Answers every request with these bytes, in pieces."""

    def __init__(self, body: bytes, piece: int) -> None:
        self.body, self.piece = body, piece

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(self.body), self.piece):
                yield self.body[start : start + self.piece]

        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=pieces())


async def ours(events: list[dict[str, Any]], piece: int) -> Answer:
    """The answer that the adapter returns for the bytes of these events."""
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    model = ClaudeModel.__new__(ClaudeModel)  # without a TLS context, which takes 100 ms to make
    transport = httpx2.AsyncClient(transport=Replay(body, piece), trust_env=False)
    model._client = AsyncAnthropic(api_key="any", max_retries=0, http_client=transport)
    async with model:
        return await model.answer(b"{}", UsageMeter())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-60:])
async def test_an_answer_is_what_the_sdk_accumulates(path: Path) -> None:
    for events in messages(path):
        sdk = theirs(events)
        content = json.loads(canonical.dumps([block.to_dict() for block in sdk.content]))
        for piece in (7, 65_536):
            answer = await ours(events, piece)
            assert list(answer.content) == content
            assert answer.stop_reason == sdk.stop_reason
            assert answer.message_id == sdk.id
            assert answer.usage.input_tokens == (sdk.usage.input_tokens or 0)
            assert answer.usage.output_tokens == (sdk.usage.output_tokens or 0)
            assert answer.usage.cache_read_input_tokens == (sdk.usage.cache_read_input_tokens or 0)
            written = answer.usage.cache_write_5m_input_tokens + answer.usage.cache_write_1h_input_tokens
            assert written == (sdk.usage.cache_creation_input_tokens or 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-60:])
async def test_an_answer_without_its_last_event_is_the_same(path: Path) -> None:
    for events in messages(path):
        cut = [event for event in events if event["type"] != "message_stop"]
        whole, short = await ours(events, 65_536), await ours(cut, 65_536)
        assert (short.content, short.stop_reason, short.usage) == (
            whole.content,
            whole.stop_reason,
            whole.usage,
        )
