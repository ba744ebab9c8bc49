"""Serves the Messages API over HTTP as an ASGI application: /v1/messages, /v1/messages/count_tokens, and /_requests.

Tests read the recorded requests at /_requests.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from nightshift.contracts.models import card_of
from nightshift.devstack.model.answer import count_tokens, error_body, message_of, stream_of
from nightshift.devstack.model.choice import Chooser, NoAnswer
from nightshift.devstack.model.conversation import Conversation, validate
from nightshift.devstack.model.errors import Invalid
from nightshift.devstack.model.request_log import RequestLog
from nightshift.devstack.model.scenario import PositionedTurn, Scenario, Turn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class _Failure(Exception):
    """Ends a request with an error response. `turn` is the label of the scenario's turn that asks for the failure."""

    status: int
    message: str
    error_type: str | None = None
    retry_after: float | None = None
    turn: str | None = None


class ModelServer:
    """The ASGI application that answers from one scenario."""

    def __init__(self, scenario: Scenario, request_log: RequestLog) -> None:
        self._chooser = Chooser(scenario)
        self._context = scenario.context_tokens
        self._request_log = request_log
        self._requests = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        self._requests += 1
        request = _Request(scope, await _read(receive), f"req_{self._requests:012d}", send)
        try:
            await self._route(request)
        except _Failure as failure:
            self._note(request, failure.status, failure.turn)
            await request.fail(failure)

    async def _route(self, request: "_Request") -> None:
        match request.method, request.path:
            case "POST", "/v1/messages":
                await self._messages(request)
            case "POST", "/v1/messages/count_tokens":
                conversation = request.conversation(counting=True)
                self._note(request, 200, None)
                await request.answer(200, {"input_tokens": count_tokens(conversation)})
            case "GET", "/_requests":
                await request.answer(200, self._request_log.entries())
            case _:
                raise _Failure(404, f"{request.method} {request.path} is not part of the scripted model")

    async def _messages(self, request: "_Request") -> None:
        conversation = request.conversation()
        self._check_length(conversation)
        chosen, turn = self._choose(conversation)
        await asyncio.sleep(turn.delay)
        if turn.status is not None:
            raise _Failure(
                turn.status,
                turn.message or f"the scenario says so ({chosen.label})",
                turn.error_type,
                turn.retry_after,
                chosen.label,
            )
        message = message_of(turn, conversation)
        self._note(request, 200, chosen.label)
        if conversation.body.get("stream"):
            await request.stream(_events(message, turn), pause=turn.pause, whole=turn.cut_after is None)
        else:
            await request.answer_with_fault(message, turn)

    def _check_length(self, conversation: Conversation) -> None:
        """Raises _Failure when the prompt has more tokens than the model's context.

        The scenario may set a smaller context.
        """
        tokens = count_tokens(conversation)
        most = self._context or card_of(conversation.body["model"]).context
        if tokens > most:
            raise _Failure(400, f"prompt is too long: {tokens} tokens > {most} maximum")

    def _choose(self, conversation: Conversation) -> tuple[PositionedTurn, Turn]:
        try:
            chosen = self._chooser.choose(conversation)
            turn = self._chooser.fill(chosen.turn, conversation)
        except NoAnswer as error:
            raise _Failure(400, str(error)) from None
        unknown = {call.tool for call in turn.calls} - conversation.tools
        if unknown:
            offered = ", ".join(sorted(conversation.tools)) or "none"
            raise _Failure(
                400, f"{chosen.label} calls {', '.join(sorted(unknown))}; tools on offer: {offered}"
            )
        return chosen, turn

    def _note(self, request: "_Request", status: int, turn: str | None) -> None:
        if request.method == "POST":
            self._request_log.note(path=request.path, status=status, turn=turn, body=request.body)


def _events(message: Message, turn: Turn) -> Iterable[bytes]:
    """Yield the events of a streamed answer as bytes, with the failure that the turn asks for."""
    for index, (name, data) in enumerate(stream_of(message, chunk=turn.chunk)):
        if index == turn.cut_after:
            return
        if index == turn.malformed_after:
            yield f'event: {name}\ndata: {{"type": "{name}", "index": 0, "del\n\n'.encode()
            return
        if index == turn.error_after:
            body = error_body(529, turn.message or "Overloaded", error_type=turn.error_type)
            yield _event("error", body)
            return
        yield _event(name, data)


def _event(name: str, data: Message) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class _Request:
    """An HTTP request, with methods that send its response."""

    def __init__(self, scope: Message, body: bytes, number: str, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.body = body
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._number = number
        self._send = send

    def conversation(self, *, counting: bool = False) -> Conversation:
        """Return the validated body.

        Raises _Failure with status 401 without an API key, 404 for an unknown model, and 400 for other mistakes.
        """
        if not (
            self._headers.get("x-api-key") or self._headers.get("authorization", "").startswith("Bearer ")
        ):
            raise _Failure(401, "x-api-key header is required")
        if not self._headers.get("anthropic-version"):
            raise _Failure(400, "anthropic-version: header is required")
        try:
            return validate(json.loads(self.body), counting=counting)
        except Invalid as error:
            raise _Failure(error.status, str(error)) from None
        except (ValueError, RecursionError):
            raise _Failure(400, "The request body is not valid JSON") from None

    async def answer(self, status: int, value: Any, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send a JSON response."""
        await self._start(status, [("content-type", "application/json"), *headers])
        await self._send({"type": "http.response.body", "body": json.dumps(value).encode()})

    async def answer_with_fault(self, message: Message, turn: Turn) -> None:
        """Send a message as JSON, cut off or malformed if the scenario's turn asks for that.

        Raises _Failure if the turn asks for an error response.
        """
        if turn.error_after is not None:
            raise _Failure(529, turn.message or "Overloaded", turn.error_type)
        body = json.dumps(message).encode()
        await self._start(200, [("content-type", "application/json")])
        if turn.cut_after is not None:
            await self._send(
                {"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True}
            )
            return
        if turn.malformed_after is not None:
            body = body[: len(body) // 2]
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, events: Iterable[bytes], *, pause: float, whole: bool) -> None:
        """Send events as a stream, with `pause` seconds between them. Unless `whole`, closes the connection before the
        end.
        """
        await self._start(
            200, [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
        )
        async for event in _paced(events, pause):
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
        if whole:
            await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, failure: _Failure) -> None:
        """Send an error response in the format of the API."""
        value = error_body(failure.status, failure.message, error_type=failure.error_type)
        wait = [] if failure.retry_after is None else [("retry-after", f"{failure.retry_after:g}")]
        await self.answer(failure.status, {**value, "request_id": self._number}, headers=wait)

    async def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        told = [*headers, ("request-id", self._number)]
        raw = [(name.encode(), value.encode()) for name, value in told]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


async def _paced(events: Iterable[bytes], pause: float) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        if pause:
            await asyncio.sleep(pause)


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
