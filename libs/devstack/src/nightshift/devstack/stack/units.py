"""The units that the supervisor starts and restarts: an embedded server, or one replica of a service."""

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

#: Seconds that a service may take to finish its work before it is killed.
DRAIN_SECONDS = 8.0


class Part(Protocol):
    """An embedded server of the stack."""

    @property
    def child(self) -> Child: ...
    @property
    def pid(self) -> int: ...
    @property
    def port(self) -> int: ...
    async def start(self) -> Any: ...
    async def stop(self) -> None: ...


class ServiceReplica:
    """One process of a service. It is ready when /readyz answers 200. Each start uses another port for its health
    checks.
    """

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
        # The supervisor restarts a replica only after it exited, so instance names are unique, across homes too.
        place = sha256(os.fsencode(f"{socket.gethostname()}:{log_dir.absolute()}")).hexdigest()[:12]
        self._env = {**env, "NIGHTSHIFT_INSTANCE": f"{name}-{replica + 1}@{place}"}
        self._launch = launch
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running process. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._child

    @property
    def pid(self) -> int:
        """The process id."""
        return self.child.pid

    @property
    def port(self) -> int:
        """Always 0, because no client connects to a service by its port."""
        return 0

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises PartFailed when it exits or takes too long."""
        self._child, _ = await start_ready(
            self._spec, _is_ready, port=0, timeout=self._timeout, launch=self._launch
        )

    async def stop(self) -> None:
        """Send SIGTERM, so that the service finishes its work, and SIGKILL when it takes too long."""
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
