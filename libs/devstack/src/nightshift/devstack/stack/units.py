"""What the supervisor keeps alive: a part, or one replica of a service. Each can be started again and again."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK
from nightshift.devstack.stack.plan import service_name

#: A service drains first; the stack waits this long, then kills.
DRAIN_SECONDS = 8.0


class Part(Protocol):
    """An embedded server."""

    @property
    def child(self) -> Child: ...
    @property
    def pid(self) -> int: ...
    @property
    def port(self) -> int: ...
    async def start(self) -> Any: ...
    async def stop(self) -> None: ...


class ServiceReplica:
    """One process of a service, ready when its health server says so. Its health port is drawn anew each time."""

    def __init__(
        self,
        name: str,
        replica: int,
        *,
        env: Mapping[str, str],
        log_dir: Path,
        launch: Callable[[ChildSpec], Awaitable[Child]],
        timeout: float = 90.0,
    ) -> None:
        self._module = f"nightshift.{name}"
        name = service_name(name)
        self.name = name if replica == 0 else f"{name} #{replica + 1}"
        self._log = log_dir / (f"{name}.log" if replica == 0 else f"{name}-{replica + 1}.log")
        # It is started again only when it is dead, so nobody else has its name: not on another home either.
        place = sha256(os.fsencode(f"{socket.gethostname()}:{log_dir.absolute()}")).hexdigest()[:12]
        self._env = {**env, "NIGHTSHIFT_INSTANCE": f"{name}-{replica + 1}@{place}"}
        self._launch = launch
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running process."""
        if self._child is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def port(self) -> int:
        """No port that anybody has to know."""
        return 0

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._child, _ = await start_ready(
            self._spec, _is_ready, port=0, timeout=self._timeout, launch=self._launch
        )

    async def stop(self) -> None:
        """Let it drain, then end it."""
        if self._child is not None:
            await self._child.stop(patience=DRAIN_SECONDS + 2)

    def _spec(self, port: int) -> ChildSpec:
        env = {
            **self._env,
            "NIGHTSHIFT_HEALTH_HOST": LOOPBACK,
            "NIGHTSHIFT_HEALTH_PORT": str(port),
            "NIGHTSHIFT_STOP_TIMEOUT_S": str(DRAIN_SECONDS),
        }
        return ChildSpec(self.name, [sys.executable, "-m", self._module], self._log, env=env)


async def _is_ready(child: Child, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(2):
            return b" 200 " in await reader.readline()
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
