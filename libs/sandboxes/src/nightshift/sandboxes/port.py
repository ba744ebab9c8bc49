"""A sandbox as gateway and snapshotter see it. Every driver passes one conformance suite."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from nightshift.contracts.tools import WORKSPACE

#: The home of the user inside, the parent of the workspace. Writable, not in snapshots.
HOME = "/home/user"

__all__ = [
    "HOME",
    "WORKSPACE",
    "CallSpec",
    "CallStatus",
    "Entry",
    "ExportedFile",
    "Match",
    "Sandbox",
    "SandboxDriver",
    "SandboxInfo",
]


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One command. The same `call_id` is run once for as long as the sandbox lives, however often it is started.

    `timeout_s` none: until it ends or is stopped. `output_limit`: bytes kept of each stream: the beginning, and a
    shorter tail.
    """

    call_id: str
    argv: Sequence[str]
    cwd: str = WORKSPACE
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = 120.0
    output_limit: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CallStatus:
    """What the sandbox knows of a call.

    `unknown`: it never began. `running`: it runs. `finished`: every field is set. `died`: it began, and its supervisor
    was killed before it recorded the end; it must not be run again, and its exit code is not known.
    """

    state: Literal["unknown", "running", "finished", "died"]
    exit_code: int | None = None  # 128 + signal for one that was killed
    timed_out: bool = False
    stopped: bool = False
    duration_ms: int = 0
    out_bytes: int = 0  # written by the command, also what was not kept
    err_bytes: int = 0
    out_kept: int = 0  # bytes that `read_output` can give
    err_kept: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree, relative to its root, `/`-separated. `digest`: hex SHA-256 of a file's content."""

    path: str
    kind: Literal["file", "directory", "symlink", "other"]
    mode: int = 0  # permission bits
    size: int = 0
    mtime_ns: int = 0
    digest: str | None = None
    target: str | None = None  # of a symlink


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file on its way out or in: the entry, and for a file its content."""

    entry: Entry
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Match:
    """A line that a search found."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """One listed sandbox. `metadata` holds owner and, unless it is a probe, build and generation."""

    sandbox_id: str
    state: Literal["running", "paused"]
    metadata: Mapping[str, str]
    started_at: datetime


class Sandbox(Protocol):
    """A running sandbox. Every call may raise SandboxGone and SandboxUnavailable; file calls also FileRefused.

    Paths are absolute, or relative to the workspace; a path that leads out of the workspace is refused, also over
    symlinks, and there is no moment between the check and the use.
    """

    @property
    def id(self) -> str: ...

    @property
    def driver(self) -> Literal["local", "e2b"]: ...

    async def start_call(self, spec: CallSpec) -> CallStatus:
        """Start the command unless this call id began before. Returns at once with what is so now."""
        ...

    async def call_status(self, call_id: str) -> CallStatus: ...

    async def wait_call(self, call_id: str, *, wait_s: float) -> CallStatus:
        """Wait until the call is no longer running, or `wait_s` have passed."""
        ...

    async def read_output(
        self, call_id: str, stream: Literal["out", "err"], *, offset: int = 0, limit: int = 1 << 20
    ) -> bytes: ...

    async def stop_call(self, call_id: str) -> CallStatus:
        """End the command and everything it started. Returns when it is over."""
        ...

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        """What was noted for this call before it changed anything; `text` is kept when nothing was noted yet.

        For a call that is no command: whoever comes after a crash finds what the first one was about to do.
        """
        ...

    async def read_file(self, path: str, *, offset: int = 0, limit: int | None = None) -> bytes: ...

    async def write_file(
        self, path: str, content: bytes, *, mode: int | None = None, once: str | None = None
    ) -> None:
        """Replace the file whole, by rename. Missing folders are made. `mode` none: as it was, else 0644.

        `once`: the call this write is of. After it was done it is not done again, so that one who was paused in the
        middle cannot overwrite what came later.
        """
        ...

    async def make_dirs(self, path: str) -> None: ...

    async def stat(self, path: str) -> Entry | None: ...

    async def remove(self, path: str) -> None:
        """Remove a file, a symlink or a whole folder. What is not there is no error."""
        ...

    async def list_tree(
        self, path: str = ".", *, digests: bool = True, exclude: Sequence[str] = ()
    ) -> list[Entry]:
        """Everything below, sorted by path, symlinks not followed. `exclude`: names or patterns, as in snapshots."""
        ...

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> tuple[list[Entry], int]:
        """Files that match, newest first, and how many there are in all."""
        ...

    async def grep(
        self, pattern: str, *, path: str = ".", glob: str = "**/*", ignore_case: bool = False, limit: int
    ) -> tuple[list[Match], bool]:
        """Lines that match, by path, and whether there are more. A pattern that is too slow is refused."""
        ...

    def export_files(self, paths: Sequence[str]) -> AsyncIterator[ExportedFile]:
        """The files with their content, in the order asked; one that is gone or no file meanwhile is left out."""
        ...

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> int:
        """Make these directories, files and symlinks in the workspace, never through a symlink. Returns how many."""
        ...

    async def open_port(self, port: int) -> str:
        """The address under which that port is reached from outside, the same as long as the sandbox lives."""
        ...

    async def pause(self) -> None: ...

    async def kill(self) -> None:
        """End it and all it holds. What is gone already is no error."""
        ...

    async def alive(self) -> bool: ...


class SandboxDriver(Protocol):
    """Makes and finds sandboxes. Raises SandboxUnavailable when the provider does not answer."""

    @property
    def name(self) -> Literal["local", "e2b"]: ...

    async def create(
        self, build_id: str, *, generation: int, metadata: Mapping[str, str] | None = None
    ) -> Sandbox:
        """A new sandbox for this generation of the build's workspace; the same one when it was made before."""
        ...

    async def connect(self, sandbox_id: str) -> Sandbox:
        """The running sandbox, resumed if it was paused. Raises SandboxGone."""
        ...

    async def list(self) -> list[SandboxInfo]:
        """All sandboxes of this owner, running or paused, as the provider reports them.

        Probes and sandboxes whose creator died half-way are among them.
        """
        ...

    async def kill(self, sandbox_id: str) -> None:
        """End a sandbox that need not be connected to. What is gone already is no error."""
        ...
