"""Processes: Start and Connect as streams of events, List, SendSignal, SendInput, CloseStdin."""

import asyncio
import base64
import json
import os
import pwd
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .defaults import Defaults
from .filesystem import resolve
from .http import Exchange
from .rpc_error import RpcError

_CHUNK = 32 * 1024
_SIGNALS = {"SIGNAL_SIGTERM": signal.SIGTERM, "SIGNAL_SIGKILL": signal.SIGKILL}
#: Go's names of signals, as the end of a process reports them.
_SIGNAL_NAMES = {
    signal.SIGKILL: "killed",
    signal.SIGTERM: "terminated",
    signal.SIGINT: "interrupt",
    signal.SIGHUP: "hangup",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGPIPE: "broken pipe",
}


@dataclass
class Running:
    """A process that has not been reaped. Output that no stream reads is lost, as at E2B."""

    config: dict[str, Any]
    tag: str | None
    process: asyncio.subprocess.Process
    streams: list["asyncio.Queue[dict[str, Any] | None]"] = field(default_factory=list)

    def publish(self, event: dict[str, Any] | None) -> None:
        """Give every stream this event. None ends them."""
        for queue in self.streams:
            queue.put_nowait(event)


class Processes:
    """The processes that clients started. Their children are nobody's: a signal reaches the direct child only."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._running: dict[int, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stream(self, ex: Exchange, asked: dict[str, Any], user: pwd.struct_passwd) -> None:
        """Write the events of a new process, or from now on of a running one, until it ends."""
        limit = int(ex.headers.get("connect-timeout-ms", "0")) / 1000 or None
        if ex.path.endswith("/Start"):
            running = await self._start(asked, user, limit)
        elif ex.path.endswith("/Connect"):
            running = self._find(asked["process"])
        else:
            raise RpcError("unimplemented", f"this server has no stream {ex.path}")
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        running.streams.append(queue)
        try:
            await ex.frame({"event": {"start": {"pid": running.process.pid}}})
            if ex.path.endswith("/Start"):
                self._tasks.add(task := asyncio.create_task(self._run(running)))
                task.add_done_callback(self._tasks.discard)
            async with asyncio.timeout(limit):
                while (event := await queue.get()) is not None:
                    await ex.frame({"event": event})
        except TimeoutError:
            raise RpcError("deadline_exceeded", "context deadline exceeded") from None
        finally:
            running.streams.remove(queue)

    async def call(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer a unary call."""
        if name == "List":
            return {"processes": [_info(pid, one) for pid, one in self._running.items()]}
        if name not in ("SendSignal", "SendInput", "CloseStdin"):
            raise RpcError("unimplemented", f"this server has no call {name}")
        running = self._find(asked["process"])
        stdin = running.process.stdin
        if name == "SendSignal":
            if asked.get("signal") not in _SIGNALS:
                raise RpcError("unimplemented", f"invalid signal: {asked.get('signal')}")
            with suppress(ProcessLookupError):
                running.process.send_signal(_SIGNALS[asked["signal"]])
        elif stdin is None:
            raise RpcError("internal", "error writing to stdin: stdin not enabled or closed")
        elif name == "SendInput":
            stdin.write(base64.b64decode(asked["input"].get("stdin", "")))
            await stdin.drain()
        else:
            stdin.close()
        return {}

    def _find(self, selector: dict[str, Any]) -> Running:
        for pid, running in self._running.items():
            if pid == selector.get("pid") or (running.tag and running.tag == selector.get("tag")):
                return running
        raise RpcError("not_found", f"process with {json.dumps(selector)} not found")

    async def _start(self, asked: dict[str, Any], user: pwd.struct_passwd, limit: float | None) -> Running:
        if "pty" in asked:
            raise RpcError("unimplemented", "this server has no terminals")
        config = asked["process"]
        cwd = resolve(config.get("cwd", ""), user)
        if not Path(cwd).exists():
            raise RpcError("invalid_argument", f"cwd '{cwd}' does not exist")
        try:
            process = await self._spawn(asked, config, cwd, user)
        except OSError as error:
            raise RpcError(
                "invalid_argument", f"error starting process: fork/exec /bin/sh: {error.strerror}"
            ) from None
        if limit is not None:
            asyncio.get_running_loop().call_later(limit, _kill, process)
        running = self._running[process.pid] = Running(config, asked.get("tag"), process)
        return running

    async def _spawn(
        self, asked: dict[str, Any], config: dict[str, Any], cwd: str, user: pwd.struct_passwd
    ) -> asyncio.subprocess.Process:
        own = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        wants_input = asked.get("stdin", True)
        return await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", 'exec "$@"', "--", config["cmd"], *config.get("args", [])),
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **own, **self._defaults.env, **config.get("envs", {})},
            stdin=asyncio.subprocess.PIPE if wants_input else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_CHUNK,
        )

    async def _run(self, running: Running) -> None:
        process = running.process
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(
            _read(process.stdout, "stdout", running), _read(process.stderr, "stderr", running)
        )
        end = _end(await process.wait())
        del self._running[process.pid]
        running.publish({"end": end})
        running.publish(None)


async def _read(source: asyncio.StreamReader, name: str, running: Running) -> None:
    while data := await source.read(_CHUNK):
        running.publish({"data": {name: base64.b64encode(data).decode()}})


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


def _end(code: int) -> dict[str, Any]:
    """The end of a process as envd writes it: fields that are zero, false or empty are left out."""
    if code < 0:
        status = f"signal: {_SIGNAL_NAMES.get(signal.Signals(-code), str(-code))}"
        return {"exitCode": -1, "status": status, "error": status}
    status = f"exit status {code}"
    ended: dict[str, Any] = {"exited": True, "status": status}
    return {**ended, "exitCode": code, "error": status} if code else ended


def _info(pid: int, running: Running) -> dict[str, Any]:
    return {"config": running.config, "pid": pid, **({"tag": running.tag} if running.tag else {})}
