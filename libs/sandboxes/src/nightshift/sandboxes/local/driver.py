"""The local driver: creates sandboxes with bubblewrap, finds them again after a restart, ends them."""

import asyncio
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import structlog

from nightshift.eventlog.errors import NightshiftError
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local import launch as launching
from nightshift.sandboxes.local import preview
from nightshift.sandboxes.local.channel import LocalChannel
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.local.state import Record, SandboxDirectory, end
from nightshift.sandboxes.port import SandboxInfo

_log = structlog.get_logger(__name__)
_START_S = 20.0
#: Seconds after which a directory whose sandbox never became ready counts as abandoned.
_UNFINISHED_S = 120.0


class LocalDriver:
    """Implements SandboxDriver with bubblewrap. Several processes may share a state directory."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._bwrap: Path | None = None
        self._previews = preview.Previews(settings.preview_host)

    @property
    def name(self) -> Literal["local"]:
        return "local"

    async def probe(self) -> Path:
        """Return a bubblewrap that works here, after starting a sandbox with it. Raises NoSandboxHere with a hint."""
        if self._bwrap is None:
            tried = []
            for bwrap in launching.candidates(self._settings):
                directory = self._new_directory("probe", {"probe": "bubblewrap"})
                try:
                    await self._launch(directory, bwrap)
                except SandboxUnavailable as error:
                    tried.append((bwrap, str(error)))
                    continue
                finally:
                    await self._destroy(directory)
                self._bwrap = bwrap
                return bwrap
            raise launching.refusal(tried)
        return self._bwrap

    def _new_directory(self, kind: str, metadata: Mapping[str, str]) -> SandboxDirectory:
        """Make a directory and write its record before anything runs, so that `list` finds it if this process dies."""
        directory = SandboxDirectory(self._settings.state_dir / f"{kind}-{secrets.token_hex(8)}")
        directory.path.mkdir(parents=True, mode=0o700)
        directory.write({**metadata, "owner": self._settings.owner})
        directory.home.mkdir()
        (directory.home / "workspace").mkdir()
        return directory

    async def create(
        self, build_id: str, *, generation: int, metadata: Mapping[str, str] | None = None
    ) -> AgentSandbox:
        tags = {
            **(metadata or {}),
            "build": build_id,
            "generation": str(generation),
            "owner": self._settings.owner,
        }
        for directory, record in self._records():
            if directory.ready and dict(record.metadata) == tags and directory.pids():
                return await self.connect(directory.id)
        bwrap = await self.probe()
        directory = self._new_directory("local", tags)
        try:
            sandbox = await self._launch(directory, bwrap)
            await sandbox.hello(generation=f"{build_id}/{generation}/{directory.id}")
        except BaseException:
            await asyncio.shield(self._destroy(directory))
            raise
        directory.mark_ready()
        return sandbox

    async def _launch(self, directory: SandboxDirectory, bwrap: Path) -> AgentSandbox:
        if os.geteuid() == 0:
            owner = launching.unprivileged_id(directory.id)
            for path in (directory.home, directory.home / "workspace"):
                os.chown(path, owner, owner)
        await asyncio.to_thread(self._start, directory, bwrap)
        sandbox = self._sandbox(directory)
        try:
            async with asyncio.timeout(_START_S):
                await sandbox.hello()
        except (NightshiftError, TimeoutError) as error:
            raise SandboxUnavailable(
                directory.log().strip() or f"the sandbox did not start: {error}"
            ) from error
        return sandbox

    def _start(self, directory: SandboxDirectory, bwrap: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        status = os.open(directory.path / "bwrap.json", flags, 0o600)
        log = os.open(directory.path / "log", flags, 0o600)
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{handle}/agent.sock")
            listener.listen(128)
            launching.start(
                self._settings, bwrap, launching.Launch(directory.id, directory.home, listener, status, log)
            )
        finally:
            listener.close()
            for opened in (status, log, handle):
                os.close(opened)

    def _sandbox(self, directory: SandboxDirectory) -> AgentSandbox:
        return AgentSandbox(
            directory.id, "local", channel=LocalChannel(directory), controls=_Controls(self, directory)
        )

    async def connect(self, sandbox_id: str) -> AgentSandbox:
        directory = self._directory(sandbox_id)
        record = directory.read()
        if not directory.pids():
            await self._destroy(directory)
            raise SandboxGone(f"sandbox {sandbox_id} has ended")
        if not directory.ready:
            raise SandboxGone(f"sandbox {sandbox_id} was never ready")
        sandbox = self._sandbox(directory)
        if directory.paused:
            await sandbox.resume_all()
            directory.mark_paused(False)
        tags = record.metadata
        if await sandbox.hello() != f"{tags['build']}/{tags['generation']}/{sandbox_id}":
            raise SandboxGone(f"sandbox {sandbox_id} is not the one it was")
        return sandbox

    def _directory(self, sandbox_id: str) -> SandboxDirectory:
        kind, _, rest = sandbox_id.partition("-")
        if kind not in ("local", "probe") or not rest.isalnum():
            raise SandboxGone(f"no sandbox {sandbox_id[:100]!r} on this machine")
        return SandboxDirectory(self._settings.state_dir / sandbox_id)

    def _directories(self) -> list[SandboxDirectory]:
        if not self._settings.state_dir.is_dir():
            return []
        return [SandboxDirectory(path) for path in sorted(self._settings.state_dir.iterdir())]

    def _records(self) -> Iterator[tuple[SandboxDirectory, Record]]:
        for directory in self._directories():
            with suppress(SandboxGone):
                record = directory.read()
                if record.metadata.get("owner") == self._settings.owner:
                    yield directory, record

    async def list(self) -> list[SandboxInfo]:
        """See SandboxDriver. Also removes the directories of sandboxes that have ended or never got a record."""
        infos = []
        for directory, record in list(self._records()):
            if directory.pids():
                state: Literal["running", "paused"] = "paused" if directory.paused else "running"
                infos.append(SandboxInfo(directory.id, state, record.metadata, record.started_at))
            elif directory.ready or directory.age_s() > _UNFINISHED_S:
                await self._destroy(directory)
        for directory in self._directories():
            if not directory.has_record and directory.age_s() > _UNFINISHED_S:
                await self._destroy(directory)
        return infos

    async def kill(self, sandbox_id: str) -> None:
        with suppress(SandboxGone):
            await self._destroy(self._directory(sandbox_id))

    async def _destroy(self, directory: SandboxDirectory) -> None:
        await asyncio.to_thread(destroy, directory)

    async def open_port(self, directory: SandboxDirectory, port: int) -> str:
        return await self._previews.open(directory, port)


class _Controls:
    def __init__(self, driver: LocalDriver, directory: SandboxDirectory) -> None:
        self._driver = driver
        self._directory = directory

    async def open_port(self, port: int) -> str:
        if not self._directory.pids():
            raise SandboxGone(f"sandbox {self._directory.id} has ended")
        return await self._driver.open_port(self._directory, port)

    async def pause(self) -> None:
        sandbox = self._driver._sandbox(self._directory)
        await sandbox.pause_all()
        self._directory.mark_paused(True)

    async def kill(self) -> None:
        await self._driver.kill(self._directory.id)

    async def alive(self) -> bool:
        return bool(self._directory.pids())


def destroy(directory: SandboxDirectory) -> None:
    """End the tree and its previews and remove the directory. Does nothing when they are gone already."""
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


def close_all(state_dir: Path) -> int:
    """End every local sandbox and probe under this directory, of every owner. Returns how many there were."""
    directories = [SandboxDirectory(path) for path in state_dir.iterdir()] if state_dir.is_dir() else []
    for directory in directories:
        destroy(directory)
    return len(directories)
