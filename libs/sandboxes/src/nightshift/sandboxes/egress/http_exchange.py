"""Carries the HTTP/1.1 requests of one client connection to hosts, and the answers back.

It parses and rebuilds requests and answers, so that neither side can hide a second message inside one (request
smuggling).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import h11

from nightshift.sandboxes.egress.hosts import HostRefused
from nightshift.sandboxes.egress.resolver import HostUnreachable
from nightshift.sandboxes.egress.secret_swap import AnswerMask, SecretSwap
from nightshift.sandboxes.egress.streams import ByteStream

Header = tuple[bytes, bytes]

HEAD_LIMIT: Final = 64 * 1024
#: A request's body of at most this size is searched for placeholders.
_SWAPPED_BODY: Final = 1024 * 1024
_HOP: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"),
    }
)
#: Headers that a client cannot have dropped by naming them in `Connection`.
_END_TO_END: Final = frozenset({b"host", b"content-length", b"authorization", b"content-type", b"cookie"})


class HttpExchange:
    """The requests of one client connection, and their answers.

    - `host_of`: returns the host that a request is for, and its path.
    - `dial`: opens a connection to a host.
    - `swap`: replaces placeholders by secrets. None when the requests carry no secrets.
    - `host_header`: returns the Host header for the request to the server.
    - `answer_headers`: changes the headers of the server's answers.
    """

    def __init__(
        self,
        client: ByteStream,
        parser: h11.Connection,
        *,
        host_of: Callable[[h11.Request], tuple[str, bytes]],
        dial: Callable[[str], Awaitable[ByteStream]],
        swap: SecretSwap | None = None,
        host_header: Callable[[str], str] = str,
        answer_headers: Callable[[list[Header]], list[Header]] = list,
    ) -> None:
        self._client, self._parser = client, parser
        self._host_of, self._dial, self._swap = host_of, dial, swap
        self._host_header, self._answer_headers = host_header, answer_headers
        self._upstream: tuple[str, ByteStream] | None = None

    async def serve(self, request: h11.Request | None = None) -> None:
        """Carry requests until one side closes. `request` is the first one, if it was read already.

        Raises HostRefused, HostUnreachable, OSError and h11.ProtocolError. The first two are raised only before any
        byte of an answer was sent.
        """
        try:
            while True:
                if request is None:
                    event = await next_event(self._parser, self._client)
                    if not isinstance(event, h11.Request):
                        return
                    request = event
                if not await self._one(request):
                    return
                self._parser.start_next_cycle()
                request = None
        finally:
            if self._upstream is not None:
                self._upstream[1].close()

    async def _one(self, request: h11.Request) -> bool:
        """Carry one request and its answer. Returns whether the client's connection can carry another request."""
        host, target = self._host_of(request)
        if self._upstream is not None and self._upstream[0] != host:
            self._upstream[1].close()
            self._upstream = None
        if self._upstream is None:
            self._upstream = (host, await self._dial(host))
        upstream = self._upstream[1]
        out = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        sending = self._send_request(out, upstream, request, host, target)
        if not _has_body(request):
            await sending
            switched = await self._send_answer(out, upstream)
        else:
            switched = await _first_of(asyncio.create_task(sending), self._send_answer(out, upstream))
        if switched:
            await self._copy_switched(out, upstream)
            return False
        if out.our_state is not h11.DONE or out.their_state is not h11.DONE:
            upstream.close()
            self._upstream = None
        return self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE

    async def _send_request(
        self, out: h11.Connection, upstream: ByteStream, request: h11.Request, host: str, target: bytes
    ) -> None:
        headers = _end_to_end(request.headers, drop=frozenset({b"host"}))
        if _upgrades(request):
            headers += [(b"connection", b"upgrade"), (b"upgrade", _value(request.headers, b"upgrade"))]
        length = _value(request.headers, b"content-length")
        chunked = b"chunked" in _value(request.headers, b"transfer-encoding").lower()
        if self._parser.they_are_waiting_for_100_continue:
            await self._client.send(
                self._parser.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            )
        body = None
        if self._swap is not None:
            target, headers = self._swap.target(target), self._swap.request_headers(headers)
            headers = [
                item for item in headers if item[0] != b"accept-encoding"
            ]  # an answer must be readable
            if not chunked and 0 < int(length or 0) <= _SWAPPED_BODY:
                body = self._swap.body(await self._whole_body(), _value(request.headers, b"content-type"))
        if body is not None:
            headers = [item for item in headers if item[0] != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
        elif chunked:
            headers = [item for item in headers if item[0] != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        headers.insert(0, (b"host", self._host_header(host).encode()))
        await _to_host(
            upstream, out.send(h11.Request(method=request.method, target=target, headers=headers)) or b""
        )
        if body is not None:
            await _to_host(upstream, out.send(h11.Data(data=body)) or b"")
            await _to_host(upstream, out.send(h11.EndOfMessage()) or b"")
            return
        while True:
            event = await next_event(self._parser, self._client)
            if isinstance(event, h11.Data):
                await _to_host(upstream, out.send(h11.Data(data=bytes(event.data))) or b"")
            elif isinstance(event, h11.EndOfMessage):
                if data := out.send(h11.EndOfMessage()):
                    await _to_host(upstream, data)
                return
            else:
                raise ConnectionError("the client ended its request half-way")

    async def _whole_body(self) -> bytes:
        parts = []
        while isinstance(event := await next_event(self._parser, self._client), h11.Data):
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def _send_answer(self, out: h11.Connection, upstream: ByteStream) -> bool:
        """Send the host's answer to the client. Returns True when the host has switched to another protocol, otherwise
        False.
        """
        mask = None if self._swap is None else AnswerMask(self._swap)
        while True:
            event = await _host_event(out, upstream)
            match event:
                case h11.InformationalResponse(status_code=101):
                    await self._switch(event)
                    return True
                case h11.InformationalResponse():
                    continue
                case h11.Response():
                    encoding = _value(event.headers, b"content-encoding")
                    if self._swap is not None and encoding not in (b"", b"identity"):
                        raise HostRefused("the host compresses an answer that may hold a secret")
                    await self._client.send(self._parser.send(self._response(event)) or b"")
                case h11.Data(data=data):
                    data = bytes(data) if mask is None else mask.feed(bytes(data))
                    await self._client.send(self._parser.send(h11.Data(data=data)) or b"")
                case h11.EndOfMessage():
                    if mask is not None and (rest := mask.finish()):
                        await self._client.send(self._parser.send(h11.Data(data=rest)) or b"")
                    if data := self._parser.send(h11.EndOfMessage()):
                        await self._client.send(data)
                    return False
                case _:
                    raise HostUnreachable("the host closed the connection before it had answered")

    def _response(self, event: h11.Response) -> h11.Response:
        headers = self._answer_headers(_end_to_end(event.headers))
        reason = event.reason
        if self._swap is not None:
            headers, reason = self._swap.answer_headers(headers), self._swap.mask(reason)
        return h11.Response(status_code=event.status_code, headers=headers, reason=reason)

    async def _switch(self, event: h11.InformationalResponse) -> None:
        headers = _end_to_end(event.headers)
        headers += [(b"connection", b"upgrade"), (b"upgrade", _value(event.headers, b"upgrade"))]
        if self._swap is not None:
            headers = self._swap.answer_headers(headers)
        await self._client.send(
            self._parser.send(
                h11.InformationalResponse(status_code=101, headers=headers, reason=event.reason)
            )
            or b""
        )

    async def _copy_switched(self, out: h11.Connection, upstream: ByteStream) -> None:
        """After a switch of protocols (such as to WebSocket), copy bytes both ways until both sides have ended."""
        mask = None if self._swap is None else AnswerMask(self._swap)

        async def from_host(early: bytes) -> None:
            while data := early or await upstream.recv():
                await self._client.send(data if mask is None else mask.feed(data))
                early = b""
            self._client.finish()

        async def from_client(early: bytes) -> None:
            while data := early or await self._client.recv():
                await upstream.send(data)
                early = b""
            upstream.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(from_host(out.trailing_data[0]))
            group.create_task(from_client(self._parser.trailing_data[0]))


async def next_event(parser: h11.Connection, stream: ByteStream) -> object:
    """Return the next HTTP event from `stream`. Raises OSError and h11.RemoteProtocolError."""
    while True:
        event = parser.next_event()
        if event is not h11.NEED_DATA:
            return event
        parser.receive_data(await stream.recv())


async def _host_event(parser: h11.Connection, host: ByteStream) -> object:
    """Return the host's next event. Raises HostUnreachable when the host breaks off or does not answer valid HTTP."""
    try:
        return await next_event(parser, host)
    except (OSError, TimeoutError, h11.ProtocolError) as error:
        raise HostUnreachable(f"the host answers no valid HTTP: {error or type(error).__name__}") from error


async def _to_host(host: ByteStream, data: bytes) -> None:
    try:
        await host.send(data)
    except (OSError, TimeoutError) as error:
        raise HostUnreachable(f"the host broke off: {error or type(error).__name__}") from error


def _end_to_end(
    headers: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Return the headers without `drop` and without those that concern one connection only (hop-by-hop).

    Hop-by-hop are the standard ones, and those that `Connection` names.
    """
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    dropped = _HOP | drop | (named - _END_TO_END)
    return [(name, value) for name, value in headers if name not in dropped]


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")


def _has_body(request: h11.Request) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers)


async def _first_of(sending: asyncio.Task[None], answer: Coroutine[Any, Any, bool]) -> bool:
    """Send a request and its answer at the same time. A host may answer before it has read the whole request.

    Returns the result of `answer`. If `sending` fails, waits one more second for an answer before it raises that
    error.
    """
    answering = asyncio.create_task(answer)
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and sending.exception() is not None:
            await asyncio.wait({answering}, timeout=1)
            if not answering.done():
                sending.result()
        return await answering
    finally:
        for task in (sending, answering):
            task.cancel()
        await asyncio.gather(sending, answering, return_exceptions=True)


def _upgrades(request: h11.Request) -> bool:
    tokens = {token.strip().lower() for token in _value(request.headers, b"connection").split(b",")}
    return b"upgrade" in tokens and bool(_value(request.headers, b"upgrade"))
