"""The egress proxy. It accepts connections on listening sockets inside the sandboxes' network namespaces."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.connection import ProxyConnection
from nightshift.sandboxes.egress.resolver import Resolver
from nightshift.sandboxes.egress.rules import SandboxRules
from nightshift.sandboxes.egress.streams import SocketStream
from nightshift.sandboxes.port import HostTraffic

_log = structlog.get_logger(__name__)

#: For each sandbox: the most connections at once, and how many may begin in a second, on average and in a burst.
_MOST_CONNECTIONS = 256
_RATE, _BURST = 200.0, 1000.0
_HEAD_S = 30.0


@dataclass(slots=True)
class _Served:
    rules: SandboxRules
    listeners: Sequence[socket.socket]
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_CONNECTIONS))
    accepting: list[asyncio.Task[None]] = field(default_factory=list)


class EgressProxy:
    def __init__(self, resolver: Resolver, authority: Authority, upstream_tls: ssl.SSLContext) -> None:
        self._resolver, self._authority, self._upstream_tls = resolver, authority, upstream_tls
        self._served: dict[str, _Served] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def attach(self, rules: SandboxRules, listeners: Sequence[socket.socket]) -> None:
        """Serve the sandbox by these rules from now on. For a sandbox that is attached already, only replaces the
        rules.
        """
        served = self._served.get(rules.sandbox_id)
        if served is not None:
            for listener in listeners:
                listener.close()
            served.rules.rules = rules.rules
            return
        served = _Served(rules, listeners)
        self._served[rules.sandbox_id] = served
        for listener in listeners:
            listener.setblocking(False)
            served.accepting.append(asyncio.create_task(self._accept(served, listener)))

    def detach(self, sandbox_id: str) -> None:
        """Accept no more connections of the sandbox. Existing connections continue."""
        served = self._served.pop(sandbox_id, None)
        if served is not None:
            for task in served.accepting:
                task.cancel()

    def take(self, sandbox_id: str) -> list[HostTraffic]:
        """Return the sandbox's traffic by host since the previous call. The list is empty for an unknown sandbox."""
        served = self._served.get(sandbox_id)
        return served.rules.take() if served is not None else []

    async def drain(self, timeout_s: float) -> None:
        """Accept no more connections, and wait until the existing ones have ended, for at most `timeout_s` seconds."""
        for sandbox_id in list(self._served):
            self.detach(sandbox_id)
        if self._connections:
            await asyncio.wait(self._connections, timeout=timeout_s)

    async def _accept(self, served: _Served, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        room, then = _BURST, loop.time()
        try:
            while True:
                await served.slots.acquire()
                try:
                    accepted, _ = await loop.sock_accept(listener)
                except OSError as error:  # no descriptor is free: other connections will end soon
                    served.slots.release()
                    _log.warning("egress.not_accepted", sandbox_id=served.rules.sandbox_id, error=str(error))
                    await asyncio.sleep(0.5)
                    continue
                task = asyncio.create_task(self._serve(served, accepted))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)
                now = loop.time()
                room, then = min(_BURST, room + (now - then) * _RATE) - 1, now
                if room < 0:
                    await asyncio.sleep(-room / _RATE)
        finally:
            listener.close()

    async def _serve(self, served: _Served, accepted: socket.socket) -> None:
        started = time.monotonic()
        try:
            accepted.setblocking(False)
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ProxyConnection(
                SocketStream(accepted),
                served.rules,
                resolver=self._resolver,
                authority=self._authority,
                upstream_tls=self._upstream_tls,
            )
            await connection.run()
        except Exception as error:  # noqa: BLE001 - one connection must not end the proxy
            seconds = round(time.monotonic() - started, 3)
            _log.error("egress.crashed", sandbox_id=served.rules.sandbox_id, seconds=seconds, exc_info=error)
        finally:
            accepted.close()
            served.slots.release()
