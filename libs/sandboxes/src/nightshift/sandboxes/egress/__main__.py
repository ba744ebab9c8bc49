"""The egress proxy's process: `python -m nightshift.sandboxes.egress CONTROL-FD OPTIONS`.

A process of the sandbox gateway starts it. When the sandbox gateway's process is killed, the proxy runs on until its
connections have ended. So no download breaks.
"""

import asyncio
import json
import os
import resource
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from nightshift.sandboxes.egress import wire
from nightshift.sandboxes.egress.authority import Authority
from nightshift.sandboxes.egress.proxy import EgressProxy
from nightshift.sandboxes.egress.resolver import Resolver
from nightshift.sandboxes.egress.rules import SandboxRules
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import NetworkRules, SecretUse
from nightshift.servicekit import logs
from nightshift.servicekit.service import run_loop

_log = structlog.get_logger(__name__)
_DRAIN_S = 900.0


class ControlledProxy:
    """An egress proxy that executes the requests that the sandbox gateway sends over the control socket."""

    def __init__(self, control: socket.socket, proxy: EgressProxy, store: SecretStore) -> None:
        self._control, self._proxy, self._store = control, proxy, store
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Execute requests until the sandbox gateway closes the control socket. Then wait for the connections to
        end.
        """
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._readable)
        await self._ended.wait()
        self._loop.remove_reader(self._control.fileno())
        await self._proxy.drain(_DRAIN_S)

    def _readable(self) -> None:
        try:
            received = wire.receive(self._control)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self._ended.set()
            return
        message, fds = received
        answer = self._do(message, fds)
        with suppress(OSError):
            wire.send(self._control, {"id": message["id"], **answer})

    def _do(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        sandbox_id = message["sandbox"]
        match message["op"]:
            case "attach":
                self._attach(message, fds)
            case "detach":
                self._proxy.detach(sandbox_id)
            case "take":
                fields = ("host", "connections", "sent", "received", "refused", "reason")
                taken = self._proxy.take(sandbox_id)
                return {"traffic": [{name: getattr(one, name) for name in fields} for one in taken]}
        return {}

    def _attach(self, message: dict[str, Any], fds: list[int]) -> None:
        """Serve a sandbox by the rules in the message.

        `fds` are a pidfd of the sandbox's first process, which shows when the sandbox ends, and the listening sockets.
        """
        rules = NetworkRules(
            frozenset(message["hosts"]), tuple(SecretUse(*fields) for fields in message["secrets"])
        )
        sandbox_id = message["sandbox"]
        listeners = [socket.socket(fileno=fd) for fd in fds[1:]]
        self._proxy.attach(SandboxRules(sandbox_id, message["build"], rules, self._store), listeners)
        if fds:
            self._loop.add_reader(fds[0], self._sandbox_ended, sandbox_id, fds[0])

    def _sandbox_ended(self, sandbox_id: str, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._proxy.detach(sandbox_id)


async def _main(control: socket.socket, options: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    authority = Authority(Path(options["authority"]))
    upstream_tls = ssl.create_default_context()
    upstream_tls.set_alpn_protocols(["http/1.1"])
    proxy = EgressProxy(Resolver(), authority, upstream_tls)
    _log.info("egress.started", pid=os.getpid())
    await ControlledProxy(control, proxy, SecretStore(Path(options["secrets"]))).run()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    logs.configure(**given["logs"])
    run_loop(_main(socket.socket(fileno=int(sys.argv[1])), given))
