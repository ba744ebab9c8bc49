"""Runs the scripted model, `python -m nightshift.devstack.model`, as a server of the local stack."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """The URL of the scripted model, for ANTHROPIC_BASE_URL. The server accepts any API key."""

    base_url: str


class ScriptedModel:
    """The scripted model as a child process. Without a scenario file it uses a small built-in scenario."""

    def __init__(
        self,
        log_dir: Path,
        *,
        scenario: Path | None = None,
        request_log: Path | None = None,
        port: int = 0,
        timeout: float = 15.0,
    ) -> None:
        self._log = log_dir / "model.log"
        self._scenario = scenario
        self._request_log = request_log
        self._port = port
        self._timeout = timeout
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running server. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError("the scripted model is not started")
        return self._child

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port of the server. Before the start it is the port to use, or 0 for any free port."""
        return self._port

    async def start(self) -> ModelAddress:
        """Start the server and wait until it accepts connections. Raises PartFailed or PortTaken."""
        self._child, self._port = await start_ready(
            self._spec, _answers, port=self._port, timeout=self._timeout
        )
        return ModelAddress(f"http://{LOOPBACK}:{self._port}")

    async def stop(self) -> None:
        """Stop the server."""
        if self._child is not None:
            await self._child.stop(patience=2)

    def _spec(self, port: int) -> ChildSpec:
        argv = [sys.executable, "-m", "nightshift.devstack.model", "--port", str(port)]
        if self._scenario is not None:
            argv += ["--scenario", str(self._scenario.absolute())]
        if self._request_log is not None:
            argv += ["--request-log", str(self._request_log.absolute())]
        return ChildSpec("model (scripted)", argv, self._log)


async def _answers(child: Child, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
