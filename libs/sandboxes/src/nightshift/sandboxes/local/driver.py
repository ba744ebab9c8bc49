"""Sandboxes by bubblewrap: made, found again after a restart of the gateway, ended."""

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
from nightshift.sandboxes.local import relay
from nightshift.sandboxes.local.channel import LocalChannel
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.local.state import Place, Record, end
from nightshift.sandboxes.port import SandboxInfo

_log = structlog.get_logger(__name__)
_START_S = 20.0
_UNFINISHED_S = 300.0


class LocalDriver:
    """The port's SandboxDriver. Two of them may share a state directory."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._bwrap: Path | None = None
        self._relays = relay.Relays(settings.preview_host)

    @property
    def name(self) -> Literal["local"]:
        return "local"

    async def probe(self) -> Path:
        """The bubblewrap that works here, found by starting a sandbox. Raises NoSandboxHere with hints."""
        if self._bwrap is None:
            tried = []
            for bwrap in launching.candidates(self._settings):
                place = self._new_place("probe")
                try:
                    await self._launch(place, bwrap)
                except SandboxUnavailable as error:
                    tried.append((bwrap, str(error)))
                    continue
                finally:
                    await self._destroy(place)
                self._bwrap = bwrap
                return bwrap
            raise launching.refusal(tried)
        return self._bwrap

    def _new_place(self, kind: str) -> Place:
        place = Place(self._settings.state_dir / f"{kind}-{secrets.token_hex(8)}")
        place.path.mkdir(parents=True, mode=0o700)
        place.home.mkdir()
        (place.home / "workspace").mkdir()
        return place

    async def create(
        self, build_id: str, *, generation: int, metadata: Mapping[str, str] | None = None
    ) -> AgentSandbox:
        tags = {
            **(metadata or {}),
            "build": build_id,
            "generation": str(generation),
            "owner": self._settings.owner,
        }
        for place, record in self._records():
            if dict(record.metadata) == tags and place.pids():
                return await self.connect(place.id)
        bwrap = await self.probe()
        place = self._new_place("local")
        try:
            sandbox = await self._launch(place, bwrap)
            marker = f"{build_id}/{generation}/{place.id}"
            await sandbox.hello(generation=marker)
        except BaseException:
            await asyncio.shield(self._destroy(place))
            raise
        place.write(Record(place.id, marker, tags))
        return sandbox

    async def _launch(self, place: Place, bwrap: Path) -> AgentSandbox:
        if os.geteuid() == 0:
            owner = launching.unprivileged_id(place.id)
            for path in (place.home, place.home / "workspace"):
                os.chown(path, owner, owner)
        await asyncio.to_thread(self._start, place, bwrap)
        sandbox = self._sandbox(place)
        try:
            async with asyncio.timeout(_START_S):
                await sandbox.hello()
        except (NightshiftError, TimeoutError) as error:
            raise SandboxUnavailable(place.log().strip() or f"the sandbox did not start: {error}") from error
        return sandbox

    def _start(self, place: Place, bwrap: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        status = os.open(place.path / "bwrap.json", flags, 0o600)
        log = os.open(place.path / "log", flags, 0o600)
        directory = os.open(place.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{directory}/agent.sock")
            listener.listen(128)
            launching.start(
                self._settings, bwrap, launching.Launch(place.id, place.home, listener, status, log)
            )
        finally:
            listener.close()
            for handle in (status, log, directory):
                os.close(handle)

    def _sandbox(self, place: Place) -> AgentSandbox:
        return AgentSandbox(place.id, "local", channel=LocalChannel(place), controls=_Controls(self, place))

    async def connect(self, sandbox_id: str) -> AgentSandbox:
        place = self._place(sandbox_id)
        record = place.read()
        if not place.pids():
            await self._destroy(place)
            raise SandboxGone(f"sandbox {sandbox_id} has ended")
        sandbox = self._sandbox(place)
        if place.paused:
            await sandbox.resume_all()
            place.mark_paused(False)
        if await sandbox.hello() != record.generation:
            raise SandboxGone(f"sandbox {sandbox_id} is not the one it was")
        return sandbox

    def _place(self, sandbox_id: str) -> Place:
        if not sandbox_id.startswith("local-") or not sandbox_id.removeprefix("local-").isalnum():
            raise SandboxGone(f"no sandbox {sandbox_id[:100]!r} on this machine")
        return Place(self._settings.state_dir / sandbox_id)

    def _records(self) -> Iterator[tuple[Place, Record]]:
        if not self._settings.state_dir.is_dir():
            return
        for path in sorted(self._settings.state_dir.iterdir()):
            with suppress(SandboxGone):
                place = Place(path)
                record = place.read()
                if record.metadata.get("owner") == self._settings.owner:
                    yield place, record

    async def list(self) -> list[SandboxInfo]:
        infos = []
        for place, record in list(self._records()):
            if place.pids():
                infos.append(SandboxInfo(place.id, "paused" if place.paused else "running", record.metadata))
            else:
                await self._destroy(place)
        return infos

    async def kill(self, sandbox_id: str) -> None:
        with suppress(SandboxGone):
            await self._destroy(self._place(sandbox_id))

    async def _destroy(self, place: Place) -> None:
        await asyncio.to_thread(destroy, place)

    async def open_port(self, place: Place, port: int) -> str:
        return await self._relays.open(place, port)


class _Controls:
    def __init__(self, driver: LocalDriver, place: Place) -> None:
        self._driver = driver
        self._place = place

    async def open_port(self, port: int) -> str:
        if not self._place.pids():
            raise SandboxGone(f"sandbox {self._place.id} has ended")
        return await self._driver.open_port(self._place, port)

    async def pause(self) -> None:
        sandbox = self._driver._sandbox(self._place)
        await sandbox.pause_all()
        self._place.mark_paused(True)

    async def kill(self) -> None:
        await self._driver.kill(self._place.id)

    async def alive(self) -> bool:
        return bool(self._place.pids())


def destroy(place: Place) -> None:
    """End the tree and its relays and remove the directory. What is gone already is no error."""
    for pid in relay.running(place):
        end(pid, place.id)
    deadline = time.monotonic() + 10
    while (pids := place.pids()) and time.monotonic() < deadline:
        for pid in pids:
            end(pid, place.id)
        time.sleep(0.005)
    shutil.rmtree(place.path, onerror=_open_up)


def _open_up(remove: Callable[..., Any], path: str, error: Any) -> None:
    """A directory without permissions stands in the way of its own removal, also for its owner."""
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
    """End every local sandbox under this directory, whoever made it. Returns how many were there."""
    places = [Place(path) for path in state_dir.iterdir()] if state_dir.is_dir() else []
    for place in places:
        destroy(place)
    return len(places)
