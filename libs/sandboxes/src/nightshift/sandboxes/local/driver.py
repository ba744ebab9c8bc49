"""The local driver. It creates sandboxes with bubblewrap, finds them after a restart, and ends them."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
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
from nightshift.sandboxes.local.cgroups import Cgroups, Group
from nightshift.sandboxes.local.disks import Disks, NoDisks
from nightshift.sandboxes.local.network import open_listeners
from nightshift.sandboxes.local.removal import remove_tree
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.local.state import SandboxDirectory
from nightshift.sandboxes.port import DriverName, HostTraffic, NetworkRules, SandboxInfo
from nightshift.sandboxes.usage import GroupUsage

_log = structlog.get_logger(__name__)
_START_S = 20.0
#: Seconds after which a directory counts as abandoned when its sandbox has never become ready.
_UNFINISHED_S = 120.0
#: A new sandbox needs at least this part of its disk's size free on the host.
_LEAST_ROOM = 1 / 16


class LocalDriver:
    """A SandboxDriver that uses bubblewrap on this machine. Several processes may share a state directory."""

    name: DriverName = "local"

    def __init__(self, settings: LocalSettings, egress: EgressProcess | None = None) -> None:
        """`egress` is the egress proxy. If it is None, no sandbox has a network."""
        self._settings = settings
        self._egress = egress
        self._bwrap: Path | None = None
        self._cgroups = Cgroups.find()
        self._disks: Disks | None = None

    async def probe(self) -> Path:
        """Return the path of a bubblewrap that has just started a sandbox here as a test. Later calls return the same
        path.

        Raises NoSandboxHere with a hint when none can.
        """
        if self._bwrap is not None:
            return self._bwrap
        tried = []
        await asyncio.to_thread(launching.compile_agent)
        try:
            self._disks = await asyncio.to_thread(Disks.prepare, self._settings.limits.disk())
        except NoDisks as error:
            _log.warning("sandbox.disk_unlimited", reason=str(error))
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
        """Create a sandbox's directory with its record, before any process of it starts.

        So `list` finds the sandbox even if this process dies.
        """
        directory = SandboxDirectory(self._settings.state_dir / f"{kind}-{secrets.token_hex(8)}")
        directory.path.mkdir(parents=True, mode=0o700)
        directory.write({**metadata, "owner": self._settings.owner})
        directory.own.mkdir()
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
            if record and dict(record.metadata) == tags and directory.ready and directory.runs:
                return await self.connect(directory.id, network=network)
        bwrap = await self.probe()
        self._require_room()
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
        """Make the egress proxy serve the sandbox by the rules `network`. Does nothing without rules or without a
        proxy.

        Raises SandboxGone and SandboxUnavailable.
        """
        if network is not None and self._egress is not None:
            await self._egress.attach(directory.id, build_id, network, partial(open_listeners, directory))

    async def _launch(
        self, directory: SandboxDirectory, bwrap: Path, *, connected: bool = False
    ) -> AgentSandbox:
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
        if os.geteuid() == 0:
            agent = launching.Ids.of(directory.id).agent
            os.chown(directory.own, agent, agent)
        log = os.open(directory.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        disk = None
        try:
            if self._disks is None:
                directory.home.mkdir()
            else:
                disk = self._disks.make(directory.disk)
            listener.bind(f"/proc/self/fd/{handle}/agent.sock")
            listener.listen(128)
            launching.start(
                *(self._settings, bwrap, directory),
                listener=listener,
                cgroups=self._cgroups,
                log=log,
                certificate=certificate,
                disk=disk,
            )
        except OSError as error:
            raise SandboxUnavailable(f"the sandbox did not start: {error}") from error
        finally:
            if disk is not None:
                disk.close()
            listener.close()
            os.close(log)
            os.close(handle)

    def _require_room(self) -> None:
        """Raise SandboxUnavailable when the machine's disk is nearly full, because writes to a new sandbox's disk
        could be lost.
        """
        disk = os.statvfs(self._settings.state_dir)
        if (
            self._disks is not None
            and disk.f_bavail * disk.f_frsize < self._settings.limits.disk_bytes * _LEAST_ROOM
        ):
            free = disk.f_bavail * disk.f_frsize // 1024**2
            raise SandboxUnavailable(f"the disk of this machine has only {free} MiB left for sandboxes")

    def _channel(self, directory: SandboxDirectory) -> "LocalChannel":
        group = self._cgroups.group(directory.id)
        return LocalChannel(directory, self._settings, group, self._egress)

    def _sandbox(self, directory: SandboxDirectory, generation: str | None = None) -> AgentSandbox:
        return AgentSandbox(directory.id, "local", self._channel(directory), generation=generation)

    async def connect(self, sandbox_id: str, *, network: NetworkRules | None = None) -> AgentSandbox:
        directory = self._directory(sandbox_id)
        record = directory.read()
        if not directory.runs:
            await self._destroy(directory)
            raise SandboxGone(f"sandbox {sandbox_id} has ended")
        if not directory.ready:
            raise SandboxGone(f"sandbox {sandbox_id} was never ready")
        tags = record.metadata
        if directory.paused.exists():
            await self._channel(directory).resume()
        await self._attach(directory, tags["build"], network)
        return self._sandbox(directory, f"{tags['build']}/{tags['generation']}/{sandbox_id}")

    def _directory(self, sandbox_id: str) -> SandboxDirectory:
        kind, _, rest = sandbox_id.partition("-")
        if kind not in ("local", "probe") or not rest.isalnum():
            raise SandboxGone(f"no sandbox {sandbox_id[:100]!r} on this machine")
        return SandboxDirectory(self._settings.state_dir / sandbox_id)

    def _records(self) -> Iterator[tuple[SandboxDirectory, SandboxInfo | None]]:
        """Yield (directory, record) for each sandbox of this owner, and (directory, None) if the record is missing."""
        for directory in _directories(self._settings.state_dir):
            record = None
            with suppress(SandboxGone):
                record = directory.read()
            if record is None or record.metadata.get("owner") == self._settings.owner:
                yield directory, record

    async def list(self) -> list[SandboxInfo]:
        """Return the running sandboxes of this owner.

        Also removes the directories of sandboxes that have ended, and old ones without a record.
        """
        infos = []
        for directory, record in list(self._records()):
            if record is not None and directory.runs:
                infos.append(record)
            elif (record and directory.ready) or directory.age_s() > _UNFINISHED_S:
                await self._destroy(directory)
        self._cgroups.sweep()
        return infos

    async def visited_at(self, sandbox_id: str) -> datetime | None:
        return preview.visited_at(self._directory(sandbox_id))

    async def kill(self, sandbox_id: str) -> None:
        with suppress(SandboxGone):
            await self._destroy(self._directory(sandbox_id))

    async def _destroy(self, directory: SandboxDirectory) -> None:
        await asyncio.to_thread(destroy, directory, self._cgroups)


class LocalChannel:
    """The Channel (see client.py) to a local sandbox.

    Each request is one connection to the Unix socket of the agent program.
    """

    def __init__(
        self, directory: SandboxDirectory, settings: LocalSettings, group: Group, egress: EgressProcess | None
    ) -> None:
        self._egress = egress
        self._directory = directory
        self._settings = settings
        self._group = group
        self._before = group.memory_kills() or 0, group.throttled_s()

    @asynccontextmanager
    async def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[ByteSource]:
        reader, writer = await self._directory.dial()
        try:
            # The agent may refuse before it has read the whole request; its answer says why.
            with suppress(ConnectionError):
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
        if not self._directory.runs:
            raise SandboxGone(f"sandbox {self._directory.id} has ended")

    async def open_port(self, port: int) -> str:
        self._require_alive()
        return await preview.open_preview(self._directory, self._settings.preview_host, port)

    async def take_traffic(self) -> Sequence[HostTraffic]:
        return [] if self._egress is None else await self._egress.take_traffic(self._directory.id)

    async def group_usage(self) -> GroupUsage:
        limits, kills = self._settings.limits, self._group.memory_kills()
        return GroupUsage(
            memory_bytes=limits.memory_bytes,
            memory_kills=None if kills is None else kills - self._before[0],
            processes=limits.processes,
            cpus=limits.cpus,
            throttled_s=self._group.throttled_s() - self._before[1],
        )

    async def pause(self) -> None:
        self._directory.paused.touch()
        if not await asyncio.to_thread(self._group.freeze, True):
            await AgentSandbox(self._directory.id, "local", self).pause_all()

    async def resume(self) -> None:
        if not await asyncio.to_thread(self._group.freeze, False):
            await AgentSandbox(self._directory.id, "local", self).resume_all()
        self._directory.paused.unlink(missing_ok=True)

    async def kill(self) -> None:
        await asyncio.to_thread(destroy, self._directory, self._group.cgroups)

    async def alive(self) -> bool:
        return self._directory.runs


def destroy(directory: SandboxDirectory, cgroups: Cgroups) -> None:
    """Kill the sandbox's processes and previews, and remove its directory. Does nothing when the sandbox is gone."""
    preview.end(directory)
    first, group = directory.first(), cgroups.group(directory.id)
    deadline = time.monotonic() + 10
    while first is not None and first.runs() and time.monotonic() < deadline:
        first.kill()
        group.freeze(False)  # a frozen process cannot end
        time.sleep(0.002)
    group.remove()
    remove_tree(directory.path)


def _directories(state_dir: Path) -> list[SandboxDirectory]:
    return [SandboxDirectory(path) for path in sorted(state_dir.iterdir())] if state_dir.is_dir() else []


def close_all(state_dir: Path) -> int:
    """End all local sandboxes in this state directory, of every owner, including test ones. Returns their number."""
    directories, cgroups = _directories(state_dir), Cgroups.find()
    for directory in directories:
        destroy(directory, cgroups)
    return len(directories)
