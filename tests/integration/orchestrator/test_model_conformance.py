"""The conformance suite of the port Model, on the real SDK over TCP and on the fake."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.orchestrator.fake_model import FakeModel

from nightshift.contracts.events.build import Usage
from nightshift.devstack.parts import ScriptedModel
from nightshift.orchestrator.adapters.claude import ClaudeModel
from nightshift.orchestrator.ports import CallError, Model, UsageMeter

SCENARIO = """
name: conformance
turns:
- {at: 0, match: {last_user_contains: limited}, status: 429, retry_after: 7, message: slow down, once: false}
- {at: 0, match: {last_user_contains: overloaded}, status: 529, once: false}
- {at: 0, match: {last_user_contains: broken}, status: 500, once: false}
- {at: 0, match: {last_user_contains: key}, status: 401, once: false}
- {at: 0, match: {last_user_contains: forbidden}, status: 403, once: false}
- {at: 0, match: {last_user_contains: bad}, status: 400, message: that is wrong, once: false}
- {at: 0, match: {last_user_contains: cut}, say: a text that will not come, cut_after: 4, chunk: 3, once: false}
- {at: 0, match: {last_user_contains: garbled}, say: a text, malformed_after: 4, chunk: 3, once: false}
- {at: 0, match: {last_user_contains: stumble}, say: a text, error_after: 4, error_type: overloaded_error, chunk: 3,
   once: false}
- {at: 0, match: {last_user_contains: slowly}, say: abcdefghijklmnopqrstuvwxyz, chunk: 1, pause: 0.2}
- at: 0
  think: I look around.
  say: Looking.
  calls:
  - {tool: bash, input: {command: "ls -la", note: "ünïcode \\" and more"}, invalid: true}
  usage: {input_tokens: 11, output_tokens: 22, cache_read_input_tokens: 33, cache_creation_input_tokens: 44}
"""


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "scenario.yaml").write_text(SCENARIO)
    part = ScriptedModel(folder, scenario=folder / "scenario.yaml")
    try:
        yield asyncio.run(part.start()).base_url
    finally:
        asyncio.run(part.stop())


@pytest.fixture(params=["claude", "fake"])
async def model(request: pytest.FixtureRequest, scripted: str) -> AsyncIterator[Model]:
    if request.param == "fake":
        yield FakeModel()
        return
    async with ClaudeModel(api_key="any", base_url=scripted) as claude:
        yield claude


def asking(words: str) -> bytes:
    return json.dumps(
        {
            "model": "scripted-1",
            "max_tokens": 100,
            "stream": True,
            "tools": [{"name": "bash", "description": "bash", "input_schema": {"type": "object"}}],
            "messages": [{"role": "user", "content": words}],
        }
    ).encode()


async def test_an_answer_comes_whole_with_its_tokens(model: Model):
    meter = UsageMeter()
    answer = await model.answer(asking("hello"), meter)
    kinds = [block["type"] for block in answer.content]
    assert kinds == ["thinking", "text", "tool_use"]
    assert answer.content[0]["signature"]
    assert answer.content[2]["input"] == {"command": "ls -la", "note": 'ünïcode " and more'}
    assert answer.stop_reason == "tool_use"
    assert answer.message_id
    assert answer.usage == meter.usage
    assert answer.usage == Usage(
        input_tokens=11, output_tokens=22, cache_read_input_tokens=33, cache_write_5m_input_tokens=44
    )
    assert answer.latency_ms >= answer.first_token_ms >= 0


@pytest.mark.parametrize(
    ("words", "kind", "status", "billed"),
    [
        ("limited", "rate_limited", 429, False),
        ("overloaded", "overloaded", 529, False),
        ("broken", "server", 500, False),
        ("key", "auth", 401, False),
        ("forbidden", "auth", 403, False),
        ("bad", "invalid", 400, False),
        ("cut", "stream_cut", None, True),
        ("garbled", "malformed", None, True),
        ("stumble", "overloaded", None, True),
    ],
)
async def test_every_failure_has_its_kind_and_what_was_billed(model: Model, words, kind, status, billed):
    with pytest.raises(CallError) as failed:
        await model.answer(asking(words), UsageMeter())
    failure = failed.value.failure
    assert (failure.kind, failure.status, failure.maybe_billed) == (kind, status, billed)
    assert (failure.usage is not None) == billed
    assert failure.detail


async def test_the_tokens_of_a_prompt_are_counted(model: Model):
    body = json.loads(asking("hello " * 400))
    del body["max_tokens"], body["stream"]
    assert 300 <= await model.count(json.dumps(body).encode()) <= 2_400


async def test_a_count_that_is_refused_says_why(model: Model):
    with pytest.raises(CallError) as failed:
        await model.count(asking("hello"))
    assert failed.value.failure.kind == "invalid"
    assert "max_tokens" in failed.value.failure.detail


async def test_the_provider_says_when_to_come_again(model: Model):
    with pytest.raises(CallError) as failed:
        await model.answer(asking("limited"), UsageMeter())
    assert failed.value.failure.retry_after_s == 7
    assert "slow down" in failed.value.failure.detail


async def test_a_call_that_is_stopped_has_told_its_tokens_so_far(
    model: Model, eventually: Callable[..., Awaitable[object]]
):
    meter = UsageMeter()
    call = asyncio.create_task(model.answer(asking("slowly"), meter))
    await eventually(lambda: meter.usage is not None and meter.usage.input_tokens > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert meter.usage is not None
    assert meter.under_way


async def test_a_refused_connection_costs_nothing():
    async with ClaudeModel(api_key="any", base_url="http://127.0.0.1:9") as claude:
        with pytest.raises(CallError) as failed:
            await claude.answer(asking("hello"), UsageMeter())
    assert (failed.value.failure.kind, failed.value.failure.maybe_billed) == ("connection", False)


async def test_silence_is_cut():
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with ClaudeModel(api_key="any", base_url=f"http://127.0.0.1:{port}", silence_s=0.3) as claude:
            with pytest.raises(CallError) as failed:
                await claude.answer(asking("hello"), UsageMeter())
        await gone.wait()
    assert (failed.value.failure.kind, failed.value.failure.maybe_billed) == ("connection", True)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_lost_after_the_request_may_be_billed(reset: bool):
    async def hear_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if reset:
            writer.transport.abort()  # what was not read yet makes this a reset
        else:
            await reader.readuntil(b"}]}")
            writer.close()

    server = await asyncio.start_server(hear_and_go, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ClaudeModel(api_key="any", base_url=f"http://127.0.0.1:{port}") as claude:
        with pytest.raises(CallError) as failed:
            await claude.answer(asking("hello"), UsageMeter())
    assert (failed.value.failure.kind, failed.value.failure.maybe_billed) == ("connection", True)


async def test_a_connection_that_the_provider_closed_is_not_reused(scripted: str):
    """Through a proxy that closes each connection after its answer, in spite of keep-alive."""
    host, _, port = scripted.removeprefix("http://").partition(":")

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(host, int(port))
        behind_writer.write(await reader.readuntil(b"}]}"))
        while part := await behind_reader.read(65536):
            writer.write(part)
            if part.endswith(b"0\r\n\r\n"):
                break
        writer.close()
        behind_writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    door = server.sockets[0].getsockname()[1]
    async with server, ClaudeModel(api_key="any", base_url=f"http://127.0.0.1:{door}") as claude:
        for _ in range(5):
            assert (await claude.answer(asking("hello"), UsageMeter())).stop_reason == "tool_use"
