"""Calls Claude through Anthropic's SDK, which only this file imports.

The SDK does not retry, because each attempt is an event of the log. The rendered body is sent unchanged, and the events
of the stream are read as plain JSON. So blocks that the SDK's types do not know are kept. And the SDK does not
serialize a long conversation again at each turn.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import aiohttp
import httpx2
from anthropic import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    AsyncAnthropic,
    AsyncStream,
    DefaultAioHttpClient,
)

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.adapters.claude_stream import Assembly, Malformed
from nightshift.orchestrator.adapters.rate_limits import exhausted_until, retry_after
from nightshift.orchestrator.domain.commands import Answer, CallFailed, FailureKind
from nightshift.orchestrator.ports import CallError, UsageMeter

#: The kind of failure by the type inside an error body. A stream with status 200 can contain such a body, too.
_BY_TYPE: dict[str, FailureKind] = {
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "api_error": "server",
    "timeout_error": "server",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "credit",
    "invalid_request_error": "invalid",
    "not_found_error": "invalid",
    "request_too_large": "too_long",
}
_BY_STATUS: dict[int, FailureKind] = {
    401: "auth",
    402: "credit",
    403: "auth",
    408: "server",
    409: "server",
    413: "too_long",
    429: "rate_limited",
    529: "overloaded",
}
_DETAIL = 2_000
#: Short, so that the log of a build shows an unreachable provider within ten seconds.
_CONNECT_S = 5.0
#: Anthropic answers 400 `invalid_request_error` when the account has no credit, and when it has reached a spend limit
#: that its owner has set. It answers 429 with this code, and no `retry-after`, at the spend limit of its usage tier.
_NO_CREDIT = re.compile(r"credit balance", re.IGNORECASE)
_USAGE_LIMIT = re.compile(r"reached your specified (workspace )?API usage limits", re.IGNORECASE)
_SPEND_LIMIT_CODE = "enforced_spend_limit_reached"
#: Anthropic also answers 400 `invalid_request_error` when the prompt, or the prompt with `max_tokens`, exceeds the
#: context.
_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the )?context (limit|window)", re.IGNORECASE)
#: Anthropic also answers 400 when something before a block of thinking has changed. An update of Nightshift can cause
#: that.
_THINKING = re.compile(
    r"bound to a different conversation|invalid `?signature`? in `?thinking", re.IGNORECASE
)

#: Errors of aiohttp while it connects or waits for a free connection.
_BEFORE_SENDING = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class ClaudeModel:
    """The port Model over the Messages API. An async context manager, which closes the connections at the end."""

    def __init__(
        self, *, api_key: str | None = None, base_url: str | None = None, silence_s: float = 120.0
    ) -> None:
        """Read the key and the URL from ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL when they are None.

        A stream that sends no byte for `silence_s` seconds is closed.
        """
        timeout = httpx2.Timeout(silence_s, connect=_CONNECT_S)
        self._client = AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            # With 50 calls at the same time, a call takes 0.8 ms of CPU with this client, and 1.4 ms with the SDK's
            # default client.
            http_client=DefaultAioHttpClient(timeout=timeout),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """Send this request body, and read the streamed answer to its end. Raises CallError when there is no answer.

        `meter` is told the token counts as soon as the provider states them.
        """
        began = time.monotonic()
        assembly = Assembly()
        first: float | None = None
        async with _call_errors(assembly, meter):
            meter.under_way = True
            stream = await self._open(body)
            meter.exhausted_until = exhausted_until(stream.response.headers)
            async with stream:
                async for event in _whole(stream, assembly):
                    meter.usage = assembly.usage
                    if first is None and event["type"].startswith("content_block"):
                        first = time.monotonic()
        ended = time.monotonic()
        if not assembly.complete:
            raise CallError(
                CallFailed(
                    "stream_cut",
                    "the stream ended before its message",
                    usage=assembly.usage,
                    maybe_billed=True,
                )
            )
        return Answer(
            message_id=assembly.message_id,
            model=assembly.model,
            content=assembly.content,
            stop_reason=assembly.stop_reason or "",
            usage=assembly.usage or Usage(),
            latency_ms=_ms(ended - began),
            first_token_ms=_ms((first or ended) - began),
            stop_details=assembly.stop_details,
            invalid_inputs=assembly.invalid_inputs,
        )

    async def count(self, body: bytes) -> int:
        """Return the number of tokens of the prompt in this request body. Raises CallError when there is no count."""
        async with _call_errors(Assembly(), UsageMeter()):
            counted = await self._client.post(
                "/v1/messages/count_tokens",
                content=body,
                cast_to=object,
                options={"headers": {"content-type": "application/json"}},
            )
            tokens = counted.get("input_tokens") if isinstance(counted, dict) else None
            if not isinstance(tokens, int) or tokens < 1:
                raise Malformed(f"the count of tokens is {tokens!r:.80}")
            return tokens

    async def _open(self, body: bytes) -> AsyncStream[object]:
        for _ in range(2):
            # Lets the event loop notice that the provider has closed a kept connection. That connection is then not
            # used again.
            await asyncio.sleep(0)
        return await self._client.post(
            "/v1/messages",
            content=body,
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
            options={"headers": {"content-type": "application/json"}},
        )


async def _whole(stream: AsyncStream[object], assembly: Assembly) -> AsyncIterator[dict[str, Any]]:
    """Add each event of the stream to `assembly`, and then yield it.

    An error of the stream is ignored when the whole message has arrived before it. Otherwise it is raised.
    """
    try:
        async for event in stream:
            assembly.take(event)
            yield cast(dict[str, Any], event)
    except (httpx2.TransportError, ValueError):
        if not assembly.complete:
            raise


@asynccontextmanager
async def _call_errors(assembly: Assembly, meter: UsageMeter) -> AsyncIterator[None]:
    """Turn every error of the SDK and of its transport inside the `with` block into CallError."""
    try:
        yield
    except APIStatusError as error:
        meter.exhausted_until = exhausted_until(error.response.headers)
        raise CallError(_refused(error, assembly)) from error
    except APIConnectionError as error:
        failure = CallFailed("connection", _message_of(error), maybe_billed=not _unsent(error))
        raise CallError(failure) from error
    except httpx2.TransportError as error:
        failure = CallFailed("stream_cut", _message_of(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error
    except (Malformed, APIResponseValidationError, ValueError) as error:
        failure = CallFailed("malformed", _message_of(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error
    except APIError as error:
        failure = CallFailed("unknown", _message_of(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error


def _unsent(error: APIConnectionError) -> bool:
    """Return whether the connection failed before the whole request was sent, so that the provider bills nothing."""
    transport = error.__cause__
    # The SDK's adapter turns many of aiohttp's errors into one class. The original error is the cause.
    return isinstance(transport, httpx2.TransportError) and isinstance(transport.__cause__, _BEFORE_SENDING)


def _refused(error: APIStatusError, assembly: Assembly) -> CallFailed:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    inner_error = inner if isinstance(inner, dict) else {}
    in_stream = error.status_code < 400
    kind = _BY_STATUS.get(error.status_code) or _BY_TYPE.get(str(inner_error.get("type")))
    if kind is None:
        kind = "server" if error.status_code >= 500 or in_stream else "invalid"
    detail = str(inner_error.get("message") or error.message)[:_DETAIL]
    if kind == "invalid" and _NO_CREDIT.search(detail):
        kind = "credit"
    if (kind == "invalid" and _USAGE_LIMIT.search(detail)) or _is_spend_limit(inner_error):
        kind = "usage_limit"
    if kind == "invalid" and _TOO_LONG.search(detail):
        kind = "too_long"
    if kind == "invalid" and _THINKING.search(detail):
        kind = "thinking"
    return CallFailed(
        kind,
        detail,
        status=None if in_stream else error.status_code,
        retry_after_s=retry_after(error.response.headers),
        usage=assembly.usage,
        # An error in the stream instead of a message is a refusal, like a status: the provider did nothing that it
        # could bill.
        maybe_billed=in_stream and assembly.began,
    )


def _is_spend_limit(inner_error: dict[str, Any]) -> bool:
    details = inner_error.get("details")
    return isinstance(details, dict) and details.get("error_code") == _SPEND_LIMIT_CODE


def _message_of(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_DETAIL]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
