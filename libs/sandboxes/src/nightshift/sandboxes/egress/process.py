"""The sandbox gateway's side of the egress proxy: starts the proxy's process, restarts it, and sends it requests."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from nightshift.sandboxes.egress import wire
from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.errors import SandboxUnavailable
from nightshift.sandboxes.local import orphan
from nightshift.sandboxes.port import HostTraffic, NetworkRules

_log = structlog.get_logger(__name__)
_ANSWER_S = 10.0
_AGAIN_S = 1.0

#: Returns a pidfd of a sandbox's first process, and its listeners. The caller closes them. Raises SandboxGone.
OpenListeners = Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class _Attached:
    build_id: str
    rules: NetworkRules
    listeners: OpenListeners


class EgressProcess:
    """The egress proxy's process, as an async context manager. `logs` are the arguments of
    `servicekit.logs.configure`.
    """

    def __init__(self, directory: Path, secrets: Path, *, logs: dict[str, Any] | None = None) -> None:
        self._authority = Authority(directory)
        self._options = {"authority": str(directory), "secrets": str(secrets), "logs": logs or {}}
        self._control: socket.socket | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._attached: dict[str, _Attached] = {}
        self._next = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def certificate(self) -> Path:
        """The path of the certificate that sandboxes must trust."""
        return self._authority.certificate

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._authority.prepare)
        started = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(started), name="egress proxy")
        await started
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def attach(
        self, sandbox_id: str, build_id: str, rules: NetworkRules, listeners: OpenListeners
    ) -> None:
        """Make the proxy serve the sandbox by these rules from now on. Also used to change the rules.

        `listeners` opens the sandbox's listening sockets. Raises SandboxUnavailable and the errors of `listeners`.
        """
        known = self._attached.get(sandbox_id)
        if known is not None and known.rules == rules:
            return
        attached = _Attached(build_id, rules, listeners)
        await self._attach(sandbox_id, attached)
        self._attached[sandbox_id] = attached

    async def _attach(self, sandbox_id: str, attached: _Attached) -> None:
        fds = await asyncio.to_thread(attached.listeners)
        try:
            secrets = [[use.account_id, use.name, use.placeholder] for use in attached.rules.secrets]
            message = {"build": attached.build_id, "hosts": sorted(attached.rules.hosts), "secrets": secrets}
            await self._ask("attach", sandbox_id, message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def detach(self, sandbox_id: str) -> None:
        """Forget the sandbox, so that it is not attached again when the proxy restarts.

        A running proxy itself notices when the sandbox ends.
        """
        self._attached.pop(sandbox_id, None)

    async def take_traffic(self, sandbox_id: str) -> list[HostTraffic]:
        """Return the sandbox's traffic by host since the previous call. The list is empty for a sandbox that is not
        attached.
        """
        if sandbox_id not in self._attached:
            return []
        answer = await self._ask("take", sandbox_id, {})
        return [HostTraffic(**one) for one in answer["traffic"]]

    async def _ask(
        self, op: str, sandbox_id: str, message: dict[str, Any], fds: Sequence[int] = ()
    ) -> dict[str, Any]:
        if self._control is None:
            raise SandboxUnavailable("the egress proxy is starting")
        self._next += 1
        number = self._next
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            wire.send(self._control, {"id": number, "op": op, "sandbox": sandbox_id, **message}, fds)
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except (OSError, TimeoutError) as error:
            raise SandboxUnavailable(f"the egress proxy does not answer: {error}") from error
        finally:
            self._answers.pop(number, None)

    async def _keep(self, started: asyncio.Future[None]) -> None:
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                with theirs:
                    await asyncio.to_thread(self._start, theirs.fileno())
                await self._use(ours, started)
            finally:
                self._lose(ours)
            _log.error("egress.ended")
            await asyncio.sleep(_AGAIN_S)

    def _start(self, control: int) -> None:
        command = [sys.executable, "-m", "nightshift.sandboxes.egress", str(control)]
        orphan.start([*command, json.dumps(self._options)], fds=[control], stderr=2)

    async def _use(self, ours: socket.socket, started: asyncio.Future[None]) -> None:
        """Send requests to the process at the control socket `ours`, until the process ends.

        First sets `started`, which tells the caller that requests can be sent. Then attaches the sandboxes that the
        previous process served.
        """
        ended = asyncio.Event()
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable, ours, ended)
        self._control = ours
        if not started.done():
            started.set_result(None)
        for sandbox_id, attached in list(self._attached.items()):
            try:
                await self._attach(sandbox_id, attached)
            except Exception as error:  # noqa: BLE001 - such as a sandbox that has ended meanwhile
                self._attached.pop(sandbox_id, None)
                _log.warning("egress.not_attached", sandbox_id=sandbox_id, error=str(error))
        await ended.wait()

    def _lose(self, ours: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(ours.fileno())
        ours.close()
        self._control = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("it has ended"))

    def _readable(self, ours: socket.socket, ended: asyncio.Event) -> None:
        try:
            received = wire.receive(ours)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(ours.fileno())
            ended.set()
            return
        answer = self._answers.get(received[0]["id"])
        if answer is not None and not answer.done():
            answer.set_result(received[0])
