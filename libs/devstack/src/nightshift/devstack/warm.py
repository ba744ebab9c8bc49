"""Services as forks of one process that has their code loaded. Where the kernel has no adoption (not Linux), each is
started by itself."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nightshift.devstack.child import Adopted, Child, ChildSpec

_MODULE = "nightshift.devstack.warm_process"


class Warm:
    """Starts services. `adopt_orphans` must have been called in this process."""

    def __init__(self, modules: Sequence[str], log: Path) -> None:
        """`modules` are loaded at once, in the background."""
        self._modules = modules
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = asyncio.Lock()

    def begin(self) -> None:
        """Start to load. Returns at once."""
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
        """Start what `spec` says, `python -m MODULE`. Its own log tells what goes wrong."""
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
            self.end()  # it was killed: this one is started by itself, the next from a new one
            return Child.start(spec)
        return Child(spec, Adopted(json.loads(line)["pid"]))

    def end(self) -> None:
        """End the loader. What it started goes on."""
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
    """One question and its answer; nothing when nobody is there any more."""
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
        return  # what was not written is for nobody
