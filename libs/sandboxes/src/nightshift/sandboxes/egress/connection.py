"""Serves one connection from a sandbox, which is a CONNECT or a series of plain HTTP requests."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import h11
import structlog

from nightshift.eventlog.errors import ConfigurationError, NightshiftError
from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.client_hello import UNRECOGNIZED_NAME, server_name
from nightshift.sandboxes.egress.hosts import HostRefused
from nightshift.sandboxes.egress.http_exchange import HEAD_LIMIT, HttpExchange, next_event
from nightshift.sandboxes.egress.resolver import HostUnreachable, Resolver
from nightshift.sandboxes.egress.rules import OpenConnection, SandboxRules
from nightshift.sandboxes.egress.streams import ByteStream, SocketStream, TlsStream, copy_both

_log = structlog.get_logger(__name__)

_HTTP, _HTTPS = 80, 443
_LINGER_S = 1.0
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_BROKEN = (OSError, TimeoutError, h11.ProtocolError)


class ProxyConnection:
    """One accepted connection from a sandbox.

    For a host that gets secrets, the proxy ends the client's TLS and opens its own connection to the host.
    `upstream_tls` is the TLS context of that connection, which checks the host's certificate.
    """

    def __init__(
        self,
        client: SocketStream,
        sandbox: SandboxRules,
        *,
        resolver: Resolver,
        authority: Authority,
        upstream_tls: ssl.SSLContext,
    ) -> None:
        self._client, self._sandbox = client, sandbox
        self._resolver, self._authority, self._upstream_tls = resolver, authority, upstream_tls
        self._opened: list[OpenConnection] = []
        self._asked = "?"  # the host of the current request, as the client names it

    async def run(self) -> None:
        """Serve requests until one side closes.

        Every refusal is sent to the client, counted and logged. A broken connection ends without an error.
        """
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        try:
            with suppress(*_BROKEN, ExceptionGroup):
                await self._answered(self._serve(parser), self._client, parser)
        finally:
            for opened in self._opened:
                self._ended(opened)

    async def _answered(
        self, work: Coroutine[Any, Any, None], client: ByteStream, parser: h11.Connection
    ) -> None:
        """Run `work`. If it raises a refusal, send that to the client, count it and log it. Other errors are raised."""
        try:
            await work
        except h11.RemoteProtocolError as error:
            await _answer_error(client, parser, HostRefused(f"not a request: {error}"))
        except (HostRefused, HostUnreachable, ConfigurationError) as error:
            self._refused(str(error), unreachable=isinstance(error, HostUnreachable))
            await _answer_error(client, parser, error)

    async def _serve(self, parser: h11.Connection) -> None:
        request = await next_event(parser, self._client)
        if not isinstance(request, h11.Request):
            return
        if request.method != b"CONNECT":
            exchange = HttpExchange(self._client, parser, host_of=self._plain_host, dial=self._dial_plain)
            await exchange.serve(request)
            return
        host, port = self._tunnel_target(request)
        if port == _HTTP:
            await self._client.send(_ESTABLISHED)
            await self._serve_inside(self._client, host, parser.trailing_data[0])
        elif (swap := self._sandbox.swap(host)) is not None:
            await self._client.send(_ESTABLISHED)
            tls = await TlsStream.accept(self._client.socket, self._authority.server_context(host))
            inside = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
            exchange = HttpExchange(
                tls, inside, host_of=self._host_inside(host), dial=self._dial_tls, swap=swap
            )
            await self._inside(exchange, tls, inside)
        else:
            await self._tunnel(host, parser)

    def _tunnel_target(self, request: h11.Request) -> tuple[str, int]:
        host, _, port = request.target.decode("latin-1").rpartition(":")
        self._asked = host or request.target.decode("latin-1")
        name = self._sandbox.require(host)
        if port not in (str(_HTTP), str(_HTTPS)):
            raise HostRefused(f"only ports 80 and 443 of {name} are carried")
        for header, value in request.headers:
            if header == b"host" and _without_port(value) != name:
                raise HostRefused(f"the request is for {name}, but its Host is another one")
        return name, int(port)

    async def _tunnel(self, host: str, parser: h11.Connection) -> None:
        """Carry TLS unchanged, once the client's first TLS message has named the same host as its CONNECT.

        Otherwise refuses the connection.
        """
        upstream = await self._dial(host, _HTTPS)
        await self._client.send(_ESTABLISHED)
        hello = parser.trailing_data[0]
        try:
            while (named := server_name(hello)) is None:
                if not (data := await self._client.recv()):
                    return
                hello += data
            _require_same(host, named)
        except HostRefused as error:
            self._refused(str(error))
            await self._client.send(UNRECOGNIZED_NAME)
            return
        await upstream.send(hello)
        await copy_both(self._client, upstream)

    async def _serve_inside(self, client: ByteStream, host: str, received: bytes) -> None:
        """Carry the plain HTTP requests inside a tunnel to port 80 of `host`. `received` are bytes that were read
        already.
        """
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        if received:
            parser.receive_data(received)
        exchange = HttpExchange(client, parser, host_of=self._host_inside(host), dial=self._dial_plain)
        await self._inside(exchange, client, parser)

    async def _inside(self, exchange: HttpExchange, client: ByteStream, parser: h11.Connection) -> None:
        try:
            await self._answered(exchange.serve(), client, parser)
        finally:
            client.close()

    def _plain_host(self, request: h11.Request) -> tuple[str, bytes]:
        """Return the host and the path of a request whose target is a whole http:// address.

        Raises HostRefused for other targets and for a host that the sandbox may not reach.
        """
        if b"#" in request.target:
            raise HostRefused("an address with # is no request target")
        scheme, mark, rest = request.target.decode("latin-1").partition("://")
        if not mark or scheme.lower() != "http":
            raise HostRefused("only http:// addresses and CONNECT are carried")
        end = next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))
        authority, path = rest[:end], rest[end:]
        self._asked = authority
        host, mark, port = authority.partition(":")
        name = self._sandbox.require(host)
        if mark and port != str(_HTTP):
            raise HostRefused(f"only ports 80 and 443 of {name} are carried")
        return name, self._checked(request, name, path if path.startswith("/") else f"/{path}")

    def _host_inside(self, host: str) -> Callable[[h11.Request], tuple[str, bytes]]:
        def host_of(request: h11.Request) -> tuple[str, bytes]:
            target = request.target.decode("latin-1")
            if request.method == b"CONNECT" or not target.startswith(("/", "*")):
                raise HostRefused(f"a request inside a tunnel to {host} names its path alone")
            self._sandbox.require(host)
            return host, self._checked(request, host, target)

        return host_of

    @staticmethod
    def _checked(request: h11.Request, host: str, target: str) -> bytes:
        for header, value in request.headers:
            if header == b"host" and _without_port(value) != host:
                raise HostRefused(f"the request is for {host}, but its Host is another one")
        return target.encode("latin-1")

    async def _dial_plain(self, host: str) -> ByteStream:
        return await self._dial(host, _HTTP)

    async def _dial_tls(self, host: str) -> ByteStream:
        plain = SocketStream(await self._resolver.connect(host, _HTTPS))
        try:
            tls = await TlsStream.connect(plain.socket, self._upstream_tls, host)
        except (OSError, TimeoutError) as error:
            plain.close()
            raise HostUnreachable(f"{host} does not speak TLS as expected: {error}") from error
        self._begun(OpenConnection(host, _HTTPS, tls))
        return tls

    async def _dial(self, host: str, port: int) -> SocketStream:
        upstream = SocketStream(await self._resolver.connect(host, port))
        self._begun(OpenConnection(host, port, upstream))
        return upstream

    def _begun(self, connection: OpenConnection) -> None:
        self._opened.append(connection)
        self._sandbox.begin(connection)

    def _refused(self, reason: str, *, unreachable: bool = False) -> None:
        sandbox, host = self._sandbox, self._asked[:253]
        sandbox.count(host, refused=reason)
        _log.warning(
            "egress.failed" if unreachable else "egress.refused",
            sandbox_id=sandbox.sandbox_id,
            build_id=sandbox.build_id,
            host=host,
            verdict="unreachable" if unreachable else "refused",
            reason=reason,
        )

    def _ended(self, connection: OpenConnection) -> None:
        upstream = connection.stream
        upstream.close()
        self._sandbox.end(connection)
        _log.info(
            "egress.carried",
            sandbox_id=self._sandbox.sandbox_id,
            build_id=self._sandbox.build_id,
            host=connection.host,
            port=connection.port,
            verdict="allowed",
            sent=upstream.sent,
            received=upstream.received,
            seconds=round(time.monotonic() - connection.started, 3),
        )


def _require_same(host: str, named: str) -> None:
    if named != host:
        raise HostRefused(f"the connection is for {host}, but its TLS asks for {named[:253]!r}")


def _without_port(value: bytes) -> str:
    host, _, port = value.decode("latin-1").partition(":")
    return host.lower() if port in ("", "80", "443") else value.decode("latin-1")


async def _answer_error(client: ByteStream, parser: h11.Connection, error: NightshiftError) -> None:
    """Send the error to the client: 502 for HostUnreachable, otherwise 403. Does nothing when an answer has begun.

    The reason is in the status line and in the body.
    """
    if parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    status = 502 if isinstance(error, HostUnreachable) else 403
    reason = "".join(letter if " " <= letter <= "~" else "?" for letter in str(error))
    hint = f"{error.hint}\n" if error.hint else ""
    body = f"nightshift egress proxy: {reason}\n{hint}".encode()
    head = (
        f"HTTP/1.1 {status} {reason[:300]}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        f"X-Nightshift-Egress: {'unreachable' if status == 502 else 'refused'}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    await client.send(head.encode() + body)
    client.finish()
    # Closing a connection with unread bytes would reset it, and the client would not see the answer.
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while await client.recv():
                pass
