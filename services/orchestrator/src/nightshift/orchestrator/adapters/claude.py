"""Claude, through Anthropic's own SDK; its only importer. Retries are facts of the log, so the SDK makes none.

The body is sent as it was built, and the stream's events are taken as plain JSON: what the SDK's types do not know
yet comes through, and a long conversation is not walked through once more at each turn.
"""

import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, cast

import httpx2
from anthropic import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    AsyncAnthropic,
    AsyncStream,
)

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.adapters.claude_stream import Assembly, Malformed
from nightshift.orchestrator.domain.commands import Answer, CallFailed, FailureKind
from nightshift.orchestrator.ports import CallError, UsageMeter

#: By the type inside an error body; it is told within a stream too, whose status was 200.
_BY_TYPE: dict[str, FailureKind] = {
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "api_error": "server",
    "timeout_error": "server",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "invalid_request_error": "invalid",
    "not_found_error": "invalid",
    "request_too_large": "invalid",
}
_BY_STATUS: dict[int, FailureKind] = {
    401: "auth",
    402: "auth",
    403: "auth",
    408: "server",
    409: "server",
    429: "rate_limited",
    529: "overloaded",
}
_DETAIL = 2_000
#: An unreachable provider is in the log of the build within ten seconds.
_CONNECT_S = 5.0
_NUMBER = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*")
#: Anthropic answers 400 `invalid_request_error` when the account has no credit.
_NO_CREDIT = re.compile(r"credit balance", re.IGNORECASE)


class ClaudeModel:
    """The Messages API. An async context manager: leaving closes its connections."""

    def __init__(
        self, *, api_key: str | None = None, base_url: str | None = None, silence_s: float = 120.0
    ) -> None:
        """What is none is read by the SDK from ANTHROPIC_*. `silence_s`: a stream without a byte for so long is cut."""
        self._client = AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(silence_s, connect=_CONNECT_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See the port."""
        await self._client.close()

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        """See the port."""
        began = time.monotonic()
        assembly = Assembly()
        first: float | None = None
        async with _told_apart(assembly):
            meter.under_way = True
            stream = await self._open(body)
            async with stream:
                async for event in stream:
                    assembly.take(event)
                    meter.usage = assembly.usage
                    if first is None and cast(dict[str, Any], event)["type"].startswith("content_block"):
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
        )

    async def _open(self, body: bytes) -> AsyncStream[object]:
        return await self._client.post(
            "/v1/messages",
            content=body,
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
            options={"headers": {"content-type": "application/json"}},
        )


@asynccontextmanager
async def _told_apart(assembly: Assembly) -> AsyncIterator[None]:
    """Every way in which a call fails, as one of our kinds."""
    try:
        yield
    except APIStatusError as error:
        raise CallError(_refused(error, assembly)) from error
    except APIConnectionError as error:
        reached = not isinstance(
            error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout
        )
        raise CallError(CallFailed("connection", _words(error), maybe_billed=reached)) from error
    except httpx2.TransportError as error:
        failure = CallFailed("stream_cut", _words(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error
    except (Malformed, APIResponseValidationError, ValueError) as error:
        failure = CallFailed("malformed", _words(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error
    except APIError as error:
        failure = CallFailed("unknown", _words(error), usage=assembly.usage, maybe_billed=True)
        raise CallError(failure) from error


def _refused(error: APIStatusError, assembly: Assembly) -> CallFailed:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    told = inner if isinstance(inner, dict) else {}
    in_stream = error.status_code < 400
    kind = _BY_STATUS.get(error.status_code) or _BY_TYPE.get(str(told.get("type")))
    if kind is None:
        kind = "server" if error.status_code >= 500 or in_stream else "invalid"
    detail = str(told.get("message") or error.message)[:_DETAIL]
    if kind == "invalid" and _NO_CREDIT.search(detail):
        kind = "auth"
    return CallFailed(
        kind,
        detail,
        status=None if in_stream else error.status_code,
        retry_after_s=_retry_after(error.response.headers),
        usage=assembly.usage,
        # An error in place of a message is a refusal like a status: the provider did nothing that it could bill.
        maybe_billed=in_stream and assembly.began,
    )


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds, from milliseconds, seconds or a date. Returns None for a value that is none of them or not finite."""
    try:
        if given := headers.get("retry-after-ms"):
            seconds = float(given) / 1000
        elif (given := headers.get("retry-after")) is None:
            return None
        elif _NUMBER.fullmatch(given):
            seconds = float(given)
        else:
            seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_DETAIL]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
