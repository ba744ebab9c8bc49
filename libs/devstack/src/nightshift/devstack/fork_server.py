"""Starts services as forks of one process that has imported their code. So five services share one import.

Outside Linux, a process cannot adopt the children of another; each service then starts as a process of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nightshift.devstack.child import AdoptedProcess, Child, ChildSpec

_MODULE = "nightshift.devstack.fork_server_process"


class ForkServer:
    """Starts services through a helper process that forks itself for each service.

    Call `adopt_orphans` in this process first, so that this process becomes the parent of the services.
    """

    def __init__(self, modules: Sequence[str], log: Path) -> None:
        """Prepare the fork server. `begin` starts it, and it then imports these modules in the background."""
        self._modules = modules
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = asyncio.Lock()

    def begin(self) -> None:
        """Start the process that imports the modules. Returns at once. Does nothing when it runs already."""
        if not sys.platform.startswith("linux") or (self._process and self._process.poll() is None):
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *self._modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        Child.unreaped.add(self._process.pid)

    async def start(self, spec: ChildSpec) -> Child:
        """Start a service whose command is `python -m MODULE`. The service writes its output to its own log.

        When the fork server is dead, starts the service without it. Raises BinaryMissing when the service cannot be
        run.
        """
        self.begin()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return Child.start(spec)
        request = {
            "module": spec.argv[-1],
            "env": dict(spec.env or os.environ),
            "log": str(spec.log),
            "parent": os.getpid(),
            "death_signal": int(spec.death_signal),
        }
        async with self._asking:
            line = await asyncio.to_thread(_ask, process.stdin, process.stdout, json.dumps(request))
        if not line:
            self.end()  # the fork server was killed; the next call of `start` starts another
            return Child.start(spec)
        return Child(spec, AdoptedProcess(json.loads(line)["pid"]))

    def end(self) -> None:
        """Stop the fork server. The services that it started keep running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        Child.unreaped.discard(process.pid)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)


def _ask(to: IO[bytes], back: IO[bytes], request: str) -> bytes:
    """Write a request to the fork server and return the line with its answer. Returns b"" when the fork server is
    dead.
    """
    try:
        to.write(request.encode() + b"\n")
        to.flush()
        return back.readline()
    except (OSError, ValueError):
        return b""


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:
        return  # unwritten data remains, and its reader is dead
