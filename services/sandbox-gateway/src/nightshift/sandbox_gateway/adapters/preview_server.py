"""Serves previews at the sandbox gateway's own address (HTTP/1.1 and websockets), each under a signed host name."""

import asyncio
import re
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import h11
import structlog

from nightshift.eventlog.errors import ConfigurationError, NightshiftError
from nightshift.sandbox_gateway.domain.preview_link import PreviewLinks
from nightshift.sandboxes.egress.http_exchange import HEAD_LIMIT, HttpExchange
from nightshift.sandboxes.egress.streams import ByteStream, SocketStream
from nightshift.sandboxes.errors import PortRefused
from nightshift.sandboxes.port import SandboxDriver

_log = structlog.get_logger(__name__)
_MOST_CONNECTIONS = 512
_CONNECT_S = 5.0
#: Seconds for which the address of a port is remembered, before the driver is asked again.
_REMEMBER_S = 10.0
_DOMAIN = re.compile(rb";\s*domain=[^;]*", re.IGNORECASE)


class PreviewRefused(NightshiftError):
    """The requested host name leads to no preview. The preview server answers the request with the HTTP status
    `status`.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PreviewServer:
    """A reverse proxy for previews that listens on `host:port`. Use it as an async context manager."""

    def __init__(self, driver: SandboxDriver, links: PreviewLinks, *, host: str, port: int) -> None:
        self._driver, self._links = driver, links
        self._address = (host, port)
        self._known: dict[tuple[str, int], tuple[float, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return 0 if self._listener is None else int(self._listener.getsockname()[1])

    async def __aenter__(self) -> Self:
        try:
            self._listener = socket.create_server(self._address, backlog=512)
        except OSError as error:
            raise ConfigurationError(
                f"the preview server cannot listen on {self._address[0]}:{self._address[1]}: {error.strerror}",
                hint="set NIGHTSHIFT_PREVIEW_LISTEN to a free host:port",
            ) from error
        self._listener.setblocking(False)
        self._spawn(self._accept(self._listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if len(self._tasks) > _MOST_CONNECTIONS:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("preview.not_accepted", error=str(error))
                await asyncio.sleep(0.5)
                continue
            self._spawn(self._serve(accepted))

    async def _serve(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        client = SocketStream(accepted)
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        exchange = HttpExchange(
            client,
            parser,
            host_of=self._host_of,
            dial=self._dial,
            host_header=_inner_host,
            answer_headers=_outer_headers,
        )
        try:
            await exchange.serve()
        except PreviewRefused as error:
            with suppress(OSError):
                await _answer(client, parser, error.status, str(error))
        except h11.RemoteProtocolError:
            with suppress(OSError):
                await _answer(client, parser, 400, "not a valid HTTP request")
        except NightshiftError as error:
            with suppress(OSError):
                await _answer(client, parser, 502, str(error))
        except (OSError, TimeoutError, ExceptionGroup, h11.ProtocolError):
            pass
        finally:
            accepted.close()

    def _host_of(self, request: h11.Request) -> tuple[str, bytes]:
        """Return the preview that a request is for, as `<sandbox id>/<port>`, and the path in it.

        Raises PreviewRefused for an unknown or expired host name.
        """
        host = next((value for name, value in request.headers if name == b"host"), b"")
        found = self._links.read(host.decode("latin-1"), now=time.time())
        if found == "expired":
            raise PreviewRefused("this link has expired; ask for a new one", 410)
        if found == "unknown" or not request.target.startswith(b"/"):
            raise PreviewRefused("there is no such preview", 404)
        sandbox_id, port = found
        return f"{sandbox_id}/{port}", request.target

    async def _dial(self, key: str) -> ByteStream:
        sandbox_id, _, port = key.partition("/")
        parts = urlsplit(await self._upstream(sandbox_id, int(port)))
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await _connected(parts.hostname or "", parts.port or 80)
        except (OSError, TimeoutError) as error:
            self._known.pop((sandbox_id, int(port)), None)
            raise PreviewRefused("the preview does not answer", 502) from error

    async def _upstream(self, sandbox_id: str, port: int) -> str:
        until, known = self._known.get((sandbox_id, port), (0.0, ""))
        if time.monotonic() >= until:
            try:
                sandbox = await self._driver.connect(sandbox_id)
                known = await sandbox.open_port(port)
            except PortRefused as error:
                raise PreviewRefused("the preview does not answer", 502) from error
            except NightshiftError as error:
                raise PreviewRefused("this preview has ended", 404) from error
            self._known[sandbox_id, port] = (time.monotonic() + _REMEMBER_S, known)
        return known


async def _connected(host: str, port: int) -> SocketStream:
    connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connected, (host, port))
    except BaseException:
        connected.close()
        raise
    return SocketStream(connected)


def _inner_host(key: str) -> str:
    """Return the Host header for the server in the sandbox: `localhost`, which development servers accept."""
    return f"localhost:{key.rpartition('/')[2]}"


def _outer_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the preview's answer, changed so that its cookies reach no other preview and its host name
    stays secret.

    Whoever knows the host name can open the preview, so browsers must not send it to other sites.
    """
    kept = [
        (name, _DOMAIN.sub(b"", value)) if name == b"set-cookie" else (name, value) for name, value in headers
    ]
    if not any(name == b"referrer-policy" for name, _ in kept):
        kept.append((b"referrer-policy", b"same-origin"))
    return [*kept, (b"x-robots-tag", b"noindex")]


async def _answer(client: ByteStream, parser: h11.Connection, status: int, text: str) -> None:
    if parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"{text}\n".encode()
    await client.send(
        f"HTTP/1.1 {status} {'Gone' if status == 410 else 'Refused'}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Connection: close\r\nCache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    client.finish()
