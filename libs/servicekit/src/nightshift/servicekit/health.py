"""Serves health checks over HTTP (/startupz: started, /livez: its loop runs, /readyz: all checks pass) and /metrics.

It is written on asyncio, because importing a web server would add 0.1 s to the start of each service.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nightshift.eventlog.errors import ConfigurationError
from nightshift.servicekit import metrics

#: Returns whether a part of the service is ready. A check that raises or takes longer than 2 s counts as False.
ReadyCheck = Callable[[], bool | Awaitable[bool]]

_log = structlog.get_logger(__name__)

_BEAT_S = 1.0
#: A timer of the event loop that fires later than this counts as a stall.
_STALL_S = 0.1
_DEAD_AFTER_S = 30.0
_CHECK_S = 2.0
_REQUEST_S = 5.0
_HEAD_LIMIT = 8192


class Health:
    """The HTTP server for the health checks and metrics of one process. If the port is 0, it opens no socket."""

    def __init__(self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.started = False
        self.stopping = False
        self._host = host
        self._port = port
        self._clock = clock
        self._checks: dict[str, ReadyCheck] = {}
        self._beaten = clock()
        self._server: asyncio.Server | None = None
        self._heart: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port on which the server listens, or 0 when it does not listen."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else 0

    def ready_when(self, name: str, check: ReadyCheck) -> None:
        """Add a check to /readyz under this name. /readyz answers 200 only while all checks return True."""
        self._checks[name] = check

    def alive(self) -> bool:
        """Return whether the event loop ran within the last 30 s.

        A failure of the database or the broker does not change the result.
        """
        return self._clock() - self._beaten < _DEAD_AFTER_S

    async def ready(self) -> dict[str, bool]:
        """Run all readiness checks and return their results by name.

        Adds two results of its own: `started` is True once the start has ended, and `stays` is False once the process
        stops.
        """
        names = list(self._checks)
        answers = await asyncio.gather(*(self._ask(self._checks[name]) for name in names))
        return {"started": self.started, "stays": not self.stopping, **dict(zip(names, answers, strict=True))}

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat(), name="heart")
        if self._port:
            try:
                self._server = await asyncio.start_server(
                    self._answer, self._host, self._port, limit=_HEAD_LIMIT
                )
            except OSError as error:
                raise ConfigurationError(
                    f"the health server cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                    hint="set NIGHTSHIFT_HEALTH_PORT to a free port, or to 0 for none",
                ) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _beat(self) -> None:
        while True:
            self._beaten = self._clock()
            await asyncio.sleep(_BEAT_S)
            late = max(self._clock() - self._beaten - _BEAT_S, 0.0)
            metrics.LOOP_LAG.observe(late)
            if late > _STALL_S:
                metrics.LOOP_STALLS.inc()

    async def _ask(self, check: ReadyCheck) -> bool:
        try:
            async with asyncio.timeout(_CHECK_S):
                answer = check()
                return answer if isinstance(answer, bool) else await answer
        except Exception as error:  # noqa: BLE001 - a check that fails counts as False
            _log.debug("readiness.check_failed", error=repr(error))
            return False

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                parts = head.split(b"\r\n", 1)[0].split(b" ")
                status, kind, body = await self._page(parts[1].split(b"?")[0] if len(parts) > 1 else b"")
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    async def _page(self, path: bytes) -> tuple[str, str, bytes]:
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
        if path == b"/livez":
            results = {"alive": self.alive()}
        elif path == b"/startupz":
            results = {"started": self.started}
        elif path == b"/readyz":
            results = await self.ready()
        else:
            return "404 Not Found", "application/json", b"{}"
        status = "200 OK" if all(results.values()) else "503 Service Unavailable"
        return status, "application/json", json.dumps(results).encode()
