"""What the adapter reads from the answer of a provider that refuses: the wait, the reason and what may be billed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.adapters.claude import ClaudeModel
from nightshift.orchestrator.domain.commands import CallFailed
from nightshift.orchestrator.ports import CallError, UsageMeter


@asynccontextmanager
async def provider(status: str, body: str, *headers: str, missing: int = 0) -> AsyncIterator[str]:
    """A server that answers every request with these bytes, and closes `missing` bytes early. Yields its URL."""
    lines = [
        f"HTTP/1.1 {status}",
        *headers,
        f"content-length: {len(body) + missing}",
        "connection: close",
        "",
        body,
    ]

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)  # the body `{}`
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def failure(status: str, body: str, *headers: str) -> CallFailed:
    async with provider(status, body, *headers) as url, ClaudeModel(api_key="any", base_url=url) as claude:
        with pytest.raises(CallError) as failed:
            await claude.answer(b"{}", UsageMeter())
    return failed.value.failure


def refusal(kind: str = "rate_limit_error", message: str = "slow down") -> str:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}})


def stream(*events: dict) -> str:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 7", 7.0),
        ("retry-after: 7.5", 7.5),
        ("retry-after-ms: 250", 0.25),
        ("retry-after: -3", 0.0),
        ("retry-after: 99999999999999", 99999999999999.0),
        (f"retry-after: {'9' * 400}", None),
        ("retry-after: nan", None),
        ("retry-after: inf", None),
        ("retry-after-ms: nan", None),
        ("retry-after-ms: 1e999", None),
        ("retry-after: soon", None),
        ("retry-after: Fri, 99999999999999999999 Dec 2026 23:59:59 GMT", None),
        ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
    ],
)
async def test_retry_after_is_read_as_finite_seconds(header: str, seconds: float | None):
    assert (await failure("429 Too Many Requests", refusal(), header)).retry_after_s == seconds


async def test_a_date_far_away_is_read_as_finite_seconds():
    refused = await failure("429 Too Many Requests", refusal(), "retry-after: Fri, 31 Dec 9999 23:59:59 GMT")
    assert refused.retry_after_s is not None
    assert refused.retry_after_s > 86_400 * 365


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "413 Payload Too Large", "429 Too Many", "529 Overloaded"]
)
async def test_a_call_that_was_refused_may_not_be_billed(status: str):
    refused = await failure(status, refusal())
    assert (refused.maybe_billed, refused.usage) == (False, None)


START = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 7, "output_tokens": 1}},
}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}


async def test_an_error_in_place_of_a_message_is_a_refusal():
    refused = await failure("200 OK", stream(OVERLOADED), "content-type: text/event-stream")
    assert (refused.kind, refused.maybe_billed, refused.usage) == ("overloaded", False, None)


async def test_an_error_after_the_message_began_is_billed_as_stated():
    broken = await failure("200 OK", stream(START, OVERLOADED), "content-type: text/event-stream")
    assert (broken.kind, broken.maybe_billed) == ("overloaded", True)
    assert broken.usage == Usage(input_tokens=7, output_tokens=1)


SPEND_LIMIT = json.dumps(
    {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "monthly spend cap",
            "details": {"error_code": "enforced_spend_limit_reached"},
        },
    }
)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("401 Unauthorized", refusal("authentication_error", "invalid x-api-key"), "auth"),
        ("403 Forbidden", refusal("permission_error", "not for this key"), "auth"),
        ("402 Payment Required", refusal("billing_error", "no funds"), "credit"),
        (
            "400 Bad Request",
            refusal("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            "credit",
        ),
        (
            "400 Bad Request",
            refusal(
                "invalid_request_error", "You have reached your specified API usage limits. Until then: 0."
            ),
            "usage_limit",
        ),
        ("429 Too Many Requests", SPEND_LIMIT, "usage_limit"),
        ("429 Too Many Requests", refusal(), "rate_limited"),
        ("400 Bad Request", refusal("invalid_request_error", "messages: too few"), "invalid"),
    ],
)
async def test_a_refused_key_is_told_from_a_refused_call(status: str, body: str, kind: str):
    refused = await failure(status, body)
    assert (refused.kind, refused.maybe_billed) == (kind, False)


async def test_a_limit_that_is_used_up_says_until_when():
    headers = (
        "anthropic-ratelimit-requests-remaining: 9",
        "anthropic-ratelimit-requests-reset: 2026-11-27T03:59:00Z",
        "anthropic-ratelimit-output-tokens-remaining: 0",
        "anthropic-ratelimit-output-tokens-reset: 2026-11-27T03:01:00Z",
    )
    meter = UsageMeter()
    body = refusal()
    async with (
        provider("429 Too Many Requests", body, *headers) as url,
        ClaudeModel(api_key="any", base_url=url) as claude,
    ):
        with pytest.raises(CallError):
            await claude.answer(b"{}", meter)
    assert meter.exhausted_until == datetime(2026, 11, 27, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 3333404 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 199000 + 16000 > 200000",
    ],
)
async def test_a_prompt_that_is_too_long_has_a_kind_of_its_own(message: str):
    refused = await failure("400 Bad Request", refusal("invalid_request_error", message))
    assert (refused.kind, refused.detail, refused.maybe_billed) == ("too_long", message, False)


async def test_an_answer_that_lacks_only_its_last_event_is_accepted():
    body = stream(
        {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    )
    kind = "content-type: text/event-stream"
    async with (
        provider("200 OK", body, kind, missing=9) as url,
        ClaudeModel(api_key="any", base_url=url) as claude,
    ):
        answer = await claude.answer(b"{}", UsageMeter())
    assert answer.content == ({"type": "text", "text": "hi"},)
