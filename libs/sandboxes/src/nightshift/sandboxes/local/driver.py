"""The local driver: creates sandboxes with bubblewrap, finds them after a restart, and ends them."""

import asyncio
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from nightshift.eventlog.errors import NightshiftError
from nightshift.sandboxes.agent.wire import json_frame
from nightshift.sandboxes.answers import ByteSource
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local import launch as launching
from nightshift.sandboxes.local import preview
from nightshift.sandboxes.local.network import open_listeners
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.local.state import SandboxDirectory, end
from nightshift.sandboxes.port import DriverName, HostTraffic, NetworkRules, SandboxInfo

_log = structlog.get_logger(__name__)
_START_S = 20.0
#: Seconds after which a directory whose sandbox never became ready counts as abandoned.
_UNFINISHED_S = 120.0


class LocalDriver:
    """Implements SandboxDriver with bubblewrap. Several processes may share a state directory."""

    name: DriverName = "local"

    def __init__(self, settings: LocalSettings, egress: EgressProcess | None = None) -> None:
        """Without `egress` no sandbox has a network."""
        self._settings = settings
        self._egress = egress
        self._bwrap: Path | None = None

    async def probe(self) -> Path:
        """Return a bubblewrap that has started a sandbox here. Raises NoSandboxHere with a hint."""
        if self._bwrap is not None:
            return self._bwrap
        tried = []
        for bwrap in launching.candidates(self._settings):
            directory = self._new_directory("probe", {"probe": "bubblewrap"})
            try:
                await self._launch(directory, bwrap)
            except SandboxUnavailable as error:
                tried.append((bwrap, str(error)))
            else:
                self._bwrap = bwrap
                return bwrap
            finally:
                await self._destroy(directory)
        raise launching.refusal(tried)

    def _new_directory(self, kind: str, metadata: Mapping[str, str]) -> SandboxDirectory:
        """Make a directory and write its record before anything runs, so that `list` finds it if this process dies."""
        directory = SandboxDirectory(self._settings.state_dir / f"{kind}-{secrets.token_hex(8)}")
        directory.path.mkdir(parents=True, mode=0o700)
        directory.write({**metadata, "owner": self._settings.owner})
        (directory.home / "workspace").mkdir(parents=True)
        return directory

    async def create(
        self,
        build_id: str,
        *,
        generation: int,
        metadata: Mapping[str, str] | None = None,
        network: NetworkRules | None = None,
    ) -> AgentSandbox:
        given = {"build": build_id, "generation": str(generation), "owner": self._settings.owner}
        tags = {**(metadata or {}), **given}
        for directory, record in self._records():
            if record and dict(record.metadata) == tags and directory.ready and directory.pids():
                return await self.connect(directory.id, network=network)
        bwrap = await self.probe()
        directory = self._new_directory("local", tags)
        try:
            sandbox = await self._launch(directory, bwrap, connected=network is not None)
            await sandbox.hello(generation=f"{build_id}/{generation}/{directory.id}")
            await self._attach(directory, build_id, network)
        except BaseException:
            await asyncio.shield(self._destroy(directory))
            raise
        directory.mark_ready()
        return sandbox

    async def _attach(self, directory: SandboxDirectory, build_id: str, network: NetworkRules | None) -> None:
        """Let the egress proxy serve the sandbox by these rules. Raises SandboxGone and SandboxUnavailable."""
        if network is not None and self._egress is not None:
            await self._egress.attach(directory.id, build_id, network, partial(open_listeners, directory))

    async def _launch(
        self, directory: SandboxDirectory, bwrap: Path, *, connected: bool = False
    ) -> AgentSandbox:
        if os.geteuid() == 0:
            owner = launching.unprivileged_id(directory.id)
            for path in (directory.home, directory.home / "workspace"):
                os.chown(path, owner, owner)
        certificate = self._egress.certificate if connected and self._egress is not None else None
        await asyncio.to_thread(self._start, directory, bwrap, certificate)
        sandbox = self._sandbox(directory)
        try:
            async with asyncio.timeout(_START_S):
                await sandbox.hello()
        except (NightshiftError, TimeoutError) as error:
            raise SandboxUnavailable(
                directory.log().strip() or f"the sandbox did not start: {error}"
            ) from error
        return sandbox

    def _start(self, directory: SandboxDirectory, bwrap: Path, certificate: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        status = os.open(directory.path / "bwrap.json", flags, 0o600)
        log = os.open(directory.path / "log", flags, 0o600)
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{handle}/agent.sock")
            listener.listen(128)
            launching.start(
                *(self._settings, bwrap, directory),
                listener=listener,
                status=status,
                log=log,
                certificate=certificate,
            )
        finally:
            listener.close()
            for opened in (status, log, handle):
                os.close(opened)

    def _sandbox(self, directory: SandboxDirectory) -> AgentSandbox:
        channel = LocalChannel(directory, self._settings.preview_host, self._egress)
        return AgentSandbox(directory.id, "local", channel)

    async def connect(self, sandbox_id: str, *, network: NetworkRules | None = None) -> AgentSandbox:
        directory = self._directory(sandbox_id)
        record = directory.read()
        if not directory.pids():
            await self._destroy(directory)
            raise SandboxGone(f"sandbox {sandbox_id} has ended")
        if not directory.ready:
            raise SandboxGone(f"sandbox {sandbox_id} was never ready")
        sandbox = self._sandbox(directory)
        if directory.paused.exists():
            await sandbox.resume_all()
            directory.paused.unlink(missing_ok=True)
        tags = record.metadata
        if await sandbox.hello() != f"{tags['build']}/{tags['generation']}/{sandbox_id}":
            raise SandboxGone(f"sandbox {sandbox_id} is not the one it was")
        await self._attach(directory, tags["build"], network)
        return sandbox

    def _directory(self, sandbox_id: str) -> SandboxDirectory:
        kind, _, rest = sandbox_id.partition("-")
        if kind not in ("local", "probe") or not rest.isalnum():
            raise SandboxGone(f"no sandbox {sandbox_id[:100]!r} on this machine")
        return SandboxDirectory(self._settings.state_dir / sandbox_id)

    def _records(self) -> Iterator[tuple[SandboxDirectory, SandboxInfo | None]]:
        """Yields the directories of this owner, and those without a record."""
        for directory in _directories(self._settings.state_dir):
            record = None
            with suppress(SandboxGone):
                record = directory.read()
            if record is None or record.metadata.get("owner") == self._settings.owner:
                yield directory, record

    async def list(self) -> list[SandboxInfo]:
        """Implements SandboxDriver. Also removes the directories of sandboxes that have ended or never got a record."""
        infos = []
        for directory, record in list(self._records()):
            if record is not None and directory.pids():
                infos.append(record)
            elif (record and directory.ready) or directory.age_s() > _UNFINISHED_S:
                await self._destroy(directory)
        return infos

    async def kill(self, sandbox_id: str) -> None:
        with suppress(SandboxGone):
            await self._destroy(self._directory(sandbox_id))

    async def _destroy(self, directory: SandboxDirectory) -> None:
        await asyncio.to_thread(destroy, directory)


class LocalChannel:
    """Opens one connection to the agent's unix socket for each request."""

    def __init__(self, directory: SandboxDirectory, preview_host: str, egress: EgressProcess | None) -> None:
        self._directory = directory
        self._egress = egress
        self._preview_host = preview_host

    @asynccontextmanager
    async def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[ByteSource]:
        reader, writer = await self._directory.dial()
        try:
            with suppress(ConnectionError):  # the agent refused before it had read all; its answer says why
                writer.write(json_frame(request))
                if body is not None:
                    async for part in body:
                        writer.write(part)
                        await writer.drain()
                await writer.drain()
            yield reader
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            if reader.at_eof():
                self._require_alive()

    def _require_alive(self) -> None:
        if not self._directory.pids():
            raise SandboxGone(f"sandbox {self._directory.id} has ended")

    async def open_port(self, port: int) -> str:
        self._require_alive()
        return await preview.open_preview(self._directory, self._preview_host, port)

    async def take_traffic(self) -> Sequence[HostTraffic]:
        return [] if self._egress is None else await self._egress.take_traffic(self._directory.id)

    async def pause(self) -> None:
        await AgentSandbox(self._directory.id, "local", self).pause_all()
        self._directory.paused.touch()

    async def kill(self) -> None:
        await asyncio.to_thread(destroy, self._directory)

    async def alive(self) -> bool:
        return bool(self._directory.pids())


def destroy(directory: SandboxDirectory) -> None:
    """Kill the sandbox's processes and previews and remove its directory. Does nothing when it has ended."""
    for pid in preview.running(directory):
        end(pid, directory.id)
    deadline = time.monotonic() + 10
    while (pids := directory.pids()) and time.monotonic() < deadline:
        for pid in pids:
            end(pid, directory.id)
        time.sleep(0.005)
    shutil.rmtree(directory.path, onerror=_open_up)


def _open_up(remove: Callable[..., Any], path: str, error: Any) -> None:
    """`rmtree` calls this on an error: grants the owner access to the directory, then removes it again."""
    if isinstance(error[1], FileNotFoundError):
        return
    for directory in (os.path.dirname(path), path):
        with suppress(OSError):
            if not stat.S_ISLNK(os.lstat(directory).st_mode):
                os.chmod(directory, 0o700)
    with suppress(OSError):
        if remove is os.rmdir or not os.path.isdir(path):
            remove(path)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _directories(state_dir: Path) -> list[SandboxDirectory]:
    return [SandboxDirectory(path) for path in sorted(state_dir.iterdir())] if state_dir.is_dir() else []


def close_all(state_dir: Path) -> int:
    """End every local sandbox and probe under this directory, of every owner. Returns how many there were."""
    directories = _directories(state_dir)
    for directory in directories:
        destroy(directory)
    return len(directories)
