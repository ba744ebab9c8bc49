"""Previews: addresses on the host for ports inside a sandbox.

Each sandbox has one preview process, which listens on the host's loopback interface and forwards connections to these
ports. It starts with the first preview. It outlives the sandbox gateway and ends with its sandbox. No socket of the
host's network ever gets into the sandbox.
"""

import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightshift.sandboxes.agent.wire import json_frame
from nightshift.sandboxes.errors import PortRefused, SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local import orphan
from nightshift.sandboxes.local.process import HostProcess
from nightshift.sandboxes.local.state import SandboxDirectory

_START_S = 15.0
_SERVER = Path(__file__).with_name("preview_server.py")


async def open_preview(directory: SandboxDirectory, host: str, port: int) -> str:
    """Return the address of the port. The address stays the same as long as the sandbox runs and the preview process is
    reachable.

    Raises PortRefused when nothing inside listens on the port, or when too many ports are open.
    """
    reader, writer = await directory.dial()
    try:
        writer.write(json_frame({"op": "dial", "port": port}))
        if not await reader.read(1):
            raise PortRefused(f"nothing listens on port {port}")
    finally:
        writer.close()
    answer = await asyncio.to_thread(_ask, directory, host, port)
    if "listen" not in answer:
        raise PortRefused(str(answer.get("error", "the preview was refused")))
    return f"http://{host}:{int(answer['listen'])}/"


def _ask(directory: SandboxDirectory, host: str, port: int) -> dict[str, Any]:
    """Ask the sandbox's preview process for the host's port that forwards to `port`. Starts the process if necessary.

    Replaces a process that is in another network namespace, because callers here could not reach it.
    """
    with _locked(directory):
        process = _process(directory)
        if process is not None and process.runs() and not process.shares_network():
            process.kill()  # a gateway in another container started it: its address means nothing here
            process = None
        if process is None or not process.runs():
            _start(directory, host)
        return _exchange(directory, port)


@contextmanager
def _locked(directory: SandboxDirectory) -> Iterator[None]:
    """Hold the sandbox's preview lock within the block. Waits while another process holds it.

    So two processes of the sandbox gateway never start two preview processes for one sandbox. Raises SandboxGone when
    the sandbox has ended.
    """
    try:
        handle = os.open(directory.path / "previews.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise SandboxGone(f"sandbox {directory.id} has ended") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start(directory: SandboxDirectory, host: str) -> None:
    first = directory.first()
    if first is None:
        raise SandboxGone(f"sandbox {directory.id} has ended")
    ready, written = os.pipe()
    with os.fdopen(ready, "rb") as pipe:
        arguments = [str(directory.path), host, str(first.pid), str(first.namespace), str(written)]
        try:
            orphan.start([sys.executable, "-I", "-S", str(_SERVER), *arguments], fds=[written])
        finally:
            os.close(written)
        if not pipe.read(1):
            raise SandboxUnavailable("the preview did not start")


def _exchange(directory: SandboxDirectory, port: int) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(_START_S)
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            control.connect(f"/proc/self/fd/{handle}/previews.sock")
            control.sendall(json.dumps({"port": port}).encode() + b"\n")
            with control.makefile("rb") as lines:
                return dict(json.loads(lines.readline(4096)))
        except (OSError, ValueError) as error:
            raise SandboxUnavailable(f"the preview of port {port} did not start: {error}") from error
        finally:
            os.close(handle)


def _process(directory: SandboxDirectory) -> HostProcess | None:
    try:
        value = json.loads((directory.path / "previews.json").read_text(encoding="utf-8"))
        return HostProcess(int(value["pid"]), int(value["started"]))
    except (OSError, ValueError, KeyError):
        return None


def visited_at(directory: SandboxDirectory) -> datetime | None:
    """Return when any preview of the sandbox was last visited. Without a visit: when the first preview was opened.

    Returns None if the sandbox has no preview.
    """
    try:
        return datetime.fromtimestamp((directory.path / "previews.json").stat().st_mtime, UTC)
    except OSError:
        return None


def end(directory: SandboxDirectory) -> None:
    """Kill the sandbox's preview process, if there is one."""
    process = _process(directory)
    if process is not None:
        process.kill()
