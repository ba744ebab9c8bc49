"""The real SDK against the scripted model over TCP: whatever it accepts, refuses or trips over."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic import AsyncAnthropic

from nightshift.devstack.parts import ScriptedModel

SCENARIO = """
name: sdk
capture: {build: 'build (\\S+)'}
turns:
- {match: {last_user_contains: limited}, status: 429, retry_after: 0.2, message: slow down}
- {at: 0, match: {last_user_contains: overloaded}, status: 529}
- {at: 0, match: {last_user_contains: broken}, status: 500, once: false}
- {at: 0, match: {last_user_contains: who}, status: 401, once: false}
- {at: 0, match: {last_user_contains: cut}, say: a long text that will not come, cut_after: 4, chunk: 3}
- {at: 0, match: {last_user_contains: malformed}, say: a long text, malformed_after: 4, chunk: 3}
- {at: 0, match: {last_user_contains: stumble}, say: a long text, error_after: 4, chunk: 3}
- {at: 0, match: {last_user_contains: slowly}, say: abcdefghij, chunk: 1, pause: 0.05, delay: 0.1}
- at: 0
  match: {last_user_contains: price}
  say: x
  stop_reason: max_tokens
  usage: {input_tokens: 11, output_tokens: 22, cache_read_input_tokens: 33, cache_creation_input_tokens: 44}
- at: 0
  think: I shall look around first.
  say: Looking around in {{build}}.
  chunk: 5
  calls:
  - {tool: bash, input: {command: "ls -la", note: "ünïcode \\u2028 \\"quoted\\" and long enough for pieces"},
     invalid: true}
  - {tool: read_file, input: {file_path: a.txt}}
- {match: {last_result_contains: README}, say: "Found it."}
"""

TOOLS: list[Any] = [
    {"name": name, "description": name, "input_schema": {"type": "object"}} for name in ("bash", "read_file")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[str]:
    scenario = folder / "scenario.yaml"
    scenario.write_text(SCENARIO)
    part = ScriptedModel(folder, scenario=scenario, request_log=folder / "requests.jsonl")
    address = asyncio.run(part.start())
    try:
        yield address.base_url
    finally:
        asyncio.run(part.stop())


@pytest.fixture
async def claude(model: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=model, api_key="any", max_retries=0) as client:
        yield client


def _request(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "scripted-1",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
        "tools": TOOLS,
        **more,
    }


async def test_a_turn_streams_and_the_next_one_answers_its_results(claude: AsyncAnthropic) -> None:
    kinds, json_pieces = [], 0
    async with claude.messages.stream(**_request("build b-7")) as stream:
        async for event in stream:
            kinds.append(event.type)
            if event.type == "content_block_delta":
                kinds.append(event.delta.type)
                json_pieces += event.delta.type == "input_json_delta"
        message = await stream.get_final_message()
    assert {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "text_delta",
        "thinking_delta",
        "signature_delta",
        "input_json_delta",
    } <= set(kinds)
    assert json_pieces > 10
    thinking, text, bash, read = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "I shall look around first.")
    assert thinking.signature
    assert (text.type, text.text) == ("text", "Looking around in b-7.")
    assert (bash.type, bash.name) == ("tool_use", "bash")
    assert bash.input["note"] == 'ünïcode \u2028 "quoted" and long enough for pieces'
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 1

    request = _request("build b-7")
    request["messages"] += [
        {"role": "assistant", "content": [block.model_dump() for block in message.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": bash.id, "content": "README.md"},
                {"type": "tool_result", "tool_use_id": read.id, "content": [{"type": "text", "text": "hi"}]},
            ],
        },
    ]
    answer = await claude.messages.create(**request)
    assert answer.content[0].text == "Found it."
    assert answer.stop_reason == "end_turn"


async def test_the_stream_on_the_wire_has_every_event_in_its_order(model: str) -> None:
    """The SDK hides pings and passes over the names of events: another client reads them."""
    system = [{"type": "text", "text": "long " * 400, "cache_control": {"type": "ephemeral"}}]
    async with httpx.AsyncClient(base_url=model) as plain:
        answer = await plain.post(
            "/v1/messages",
            json=_request("build b-7", stream=True, system=system),
            headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["request-id"]
    assert answer.text.endswith("\n\n")
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"

    started, ping, *rest, ended, stopped = events
    assert started["type"] == "message_start"
    assert started["message"]["content"] == []
    assert started["message"]["stop_reason"] is None
    usage = started["message"]["usage"]
    assert usage["cache_creation_input_tokens"] == usage["cache_creation"]["ephemeral_5m_input_tokens"] > 400
    assert usage["cache_read_input_tokens"] == 0
    assert ping == {"type": "ping"}
    blocks = [each["content_block"]["type"] for each in rest if each["type"] == "content_block_start"]
    assert blocks == ["thinking", "text", "tool_use", "tool_use"]
    for index in range(4):
        of_block = [each for each in rest if each["index"] == index]
        kinds = [each["type"] for each in of_block]
        assert kinds == [
            "content_block_start",
            *["content_block_delta"] * (len(kinds) - 2),
            "content_block_stop",
        ]
    assert rest == sorted(rest, key=lambda each: each["index"]), "blocks one after the other"
    pieces = [each["delta"] for each in rest if each["type"] == "content_block_delta" and each["index"] == 2]
    assert {piece["type"] for piece in pieces} == {"input_json_delta"}
    assert pieces[0]["partial_json"] == ""
    assert json.loads("".join(piece["partial_json"] for piece in pieces))["command"] == "ls -la"
    assert ended["type"] == "message_delta"
    assert ended["delta"]["stop_reason"] == "tool_use"
    assert ended["usage"]["output_tokens"] > 1
    assert stopped == {"type": "message_stop"}


async def test_create_and_stream_tell_the_same(claude: AsyncAnthropic) -> None:
    whole = await claude.messages.create(**_request("build b-7"))
    async with claude.messages.stream(**_request("build b-7")) as stream:
        streamed = await stream.get_final_message()
    assert streamed.to_dict() == whole.to_dict()


async def test_usage_and_stop_reason_can_be_said(claude: AsyncAnthropic) -> None:
    async with claude.messages.stream(**_request("price")) as stream:
        message = await stream.get_final_message()
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (11, 22)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (33, 44)
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("text", "error", "kind"),
    [
        ("limited", anthropic.RateLimitError, "rate_limit_error"),
        ("overloaded", anthropic.InternalServerError, "overloaded_error"),
        ("broken", anthropic.InternalServerError, "api_error"),
        ("who", anthropic.AuthenticationError, "authentication_error"),
    ],
)
async def test_a_status_is_the_sdks_own_error(
    claude: AsyncAnthropic, text: str, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as raised:
        async with claude.messages.stream(**_request(text)) as stream:
            await stream.get_final_message()
    assert raised.value.body["error"]["type"] == kind
    assert raised.value.request_id
    if text == "limited":
        assert raised.value.response.headers["retry-after"] == "0.2"


async def test_the_sdk_gets_through_after_a_failure_that_happens_once(model: str) -> None:
    async with AsyncAnthropic(base_url=model, api_key="any", max_retries=2) as claude:
        message = await claude.messages.create(**_request("limited, build b-1"))
    assert message.stop_reason == "tool_use"


async def test_a_cut_stream_is_a_broken_connection(claude: AsyncAnthropic) -> None:
    kinds = []

    async def consume() -> None:
        async with claude.messages.stream(**_request("cut")) as stream:
            async for event in stream:
                kinds.append(event.type)

    with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
        await consume()
    assert kinds[0] == "message_start"
    assert "message_stop" not in kinds


async def test_a_cut_answer_is_a_broken_connection(claude: AsyncAnthropic) -> None:
    with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
        await claude.messages.create(**_request("cut in one piece"))


async def test_a_malformed_event_is_a_json_error(claude: AsyncAnthropic) -> None:
    with pytest.raises(json.JSONDecodeError):
        async with claude.messages.stream(**_request("malformed")) as stream:
            await stream.get_final_message()


async def test_an_error_event_in_the_stream_is_the_sdks_own_error(claude: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        async with claude.messages.stream(**_request("stumble")) as stream:
            await stream.get_final_message()
    assert raised.value.body["error"]["type"] == "overloaded_error"


async def test_a_slow_stream_comes_piece_by_piece(claude: AsyncAnthropic) -> None:
    began = time.monotonic()
    arrivals = []
    async with claude.messages.stream(**_request("slowly")) as stream:
        async for _ in stream.text_stream:
            arrivals.append(time.monotonic() - began)
    assert len(arrivals) == 10
    assert arrivals[0] >= 0.1
    assert arrivals[-1] >= 0.1 + 9 * 0.05, (
        "counted from the request: we may be slow to read, it must not be quick"
    )


async def test_tokens_are_counted(claude: AsyncAnthropic) -> None:
    few = await claude.messages.count_tokens(
        model="scripted-1", messages=[{"role": "user", "content": "a" * 40}]
    )
    many = await claude.messages.count_tokens(
        model="scripted-1", messages=[{"role": "user", "content": "a" * 4000}]
    )
    assert 10 <= few.input_tokens < many.input_tokens


async def test_what_the_api_refuses_is_refused(claude: AsyncAnthropic, model: str) -> None:
    request = _request("hello")
    request["messages"][0]["role"] = "assistant"
    with pytest.raises(anthropic.BadRequestError, match="first message must be from the user"):
        await claude.messages.create(**request)
    with pytest.raises(anthropic.NotFoundError, match="model: claude-imaginary"):
        await claude.messages.create(**{**_request("hello"), "model": "claude-imaginary"})
    with pytest.raises(anthropic.NotFoundError):
        await claude.models.list()
    async with httpx.AsyncClient(base_url=model) as plain:
        assert (await plain.post("/v1/messages", json={})).status_code == 401
        for body in (b"{", b"[" * 100_000):
            answer = await plain.post(
                "/v1/messages", content=body, headers={"x-api-key": "a", "anthropic-version": "1"}
            )
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_an_author_sees_why_nothing_fits(claude: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"placeholder \{\{build\}\}"):
        await claude.messages.create(**_request("no name here"))
    with pytest.raises(anthropic.BadRequestError, match=r"turn 10 .*calls read_file; tools on offer: bash"):
        await claude.messages.create(**_request("build b-1", tools=TOOLS[:1]))


async def test_the_cache_is_written_then_read(claude: AsyncAnthropic) -> None:
    system = [{"type": "text", "text": "long " * 400, "cache_control": {"type": "ephemeral"}}]
    first = await claude.messages.create(**_request("build b-7", system=system))
    assert first.usage.cache_read_input_tokens == 0
    assert first.usage.cache_creation_input_tokens > 400
    plain = await claude.messages.create(**_request("build b-7"))
    assert plain.usage.cache_creation_input_tokens == 0
    assert plain.usage.input_tokens > 0


async def test_the_request_log_holds_requests_byte_for_byte_and_no_key(
    claude: AsyncAnthropic, model: str, folder: Path
) -> None:
    await claude.messages.create(**_request("build b-ü"))
    async with httpx.AsyncClient(base_url=model) as plain:
        raw = b'{"odd":   "bytes \xff"}'
        await plain.post(
            "/v1/messages", content=raw, headers={"x-api-key": "secret-key", "anthropic-version": "1"}
        )
        entries = (await plain.get("/_requests")).json()
    good, bad = entries[-2:]
    assert (good["status"], bad["status"]) == (200, 400)
    assert json.loads(good["body"])["messages"][0]["content"] == "build b-ü"
    assert bad["body"].encode("utf-8", "surrogateescape") == raw
    text = (folder / "requests.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()][-2:] == [good, bad]
    assert "secret-key" not in text
