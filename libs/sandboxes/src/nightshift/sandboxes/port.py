"""The Sandbox protocol, as the gateway and the snapshotter use it. Every driver passes one conformance suite."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from nightshift.contracts.tools import WORKSPACE
from nightshift.sandboxes.usage import Usage

#: The home of the user inside, the parent of the workspace. Writable, not in snapshots.
HOME = "/home/user"

#: The most bytes of a file that are exported or stored as one piece.
PIECE = 8 * 1024**2

CallState = Literal["unknown", "running", "finished", "died"]
EntryKind = Literal["file", "directory", "symlink", "other"]
DriverName = Literal["local", "e2b"]


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One command. A `call_id` runs once in the life of a sandbox, however often it is started.

    With `timeout_s` None the command runs until it ends or is stopped. `output_limit` is the number of bytes kept of
    each stream: the beginning and a shorter end.
    """

    call_id: str
    argv: Sequence[str]
    cwd: str = WORKSPACE
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = 120.0
    output_limit: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CallStatus:
    """The state of a call.

    `unknown`: it never began. `running`: it runs. `finished`: every field is set. `died`: it began, and its supervisor
    was killed before it recorded the end. Such a call must not run again, and its exit code is not known.
    """

    state: CallState
    exit_code: int | None = None  # 128 + signal when a signal ended it
    timed_out: bool = False
    stopped: bool = False
    folder: str = ""  # in the sandbox; its files `out` and `err` hold output that is too long for an answer
    output: tuple[bytes, bytes] | None = None  # stdout and stderr, when the answer to `run_call` holds them


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree, relative to its root, `/`-separated. `digest`: hex SHA-256 of a file's content."""

    path: str
    kind: EntryKind
    mode: int = 0  # permission bits
    size: int = 0
    mtime_ns: int | None = None  # of the content, since 1970; None: not known
    digest: str | None = None
    target: str | None = None  # of a symlink
    link: str | None = None  # the path of a file that this one is a hard link of
    problem: str | None = None  # why the entry, or what is below it, cannot be exported


@dataclass(frozen=True, slots=True)
class Stage:
    """The tree of the workspace at a checkpoint: all `entries`, or the changes from the snapshot with the mark `base`.

    `gone`: paths that the base has and the stage has not. `late`: a tool call may have written between the checkpoint
    and the stage. `torn`: paths that changed while they were read.
    """

    base: int | None
    entries: Sequence[Entry]
    gone: Sequence[str]
    late: bool
    torn: Sequence[str]


@dataclass(frozen=True, slots=True)
class ExportedPart:
    """A part of a file's content: the next `bytes` bytes of its block. `more`: the next part continues this file."""

    path: str
    bytes: int
    more: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ExportedBlock:
    """Parts of files, in order, and their contents one after the other: about PIECE bytes."""

    parts: Sequence[ExportedPart]
    data: bytes


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """An entry that is imported. `content` is set for a file.

    A large file is a series of these: `more` says that the next one continues this file. With `keep`, an import sets
    mode and time of an existing file and leaves its content.
    """

    entry: Entry
    content: bytes = b""
    more: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import. `refused`: path and reason of entries that could not be created, at most 1,000."""

    count: int
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The newest files that match, the number of all that match, and what was not searched."""

    entries: Sequence[Entry]
    total: int
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class GrepQuery:
    """A search. `globs` narrow the files; one that begins with `!` excludes. `offset` and `limit` count matches.

    `mode` decides what a row is: a line, a file, or a file with the number of its matching lines. `before` and
    `after` are lines of context. With `multiline` a match may span lines.
    """

    pattern: str
    limit: int
    path: str = "."
    globs: Sequence[str] = ()
    ignore_case: bool = False
    multiline: bool = False
    mode: Literal["content", "files_with_matches", "count"] = "content"
    before: int = 0
    after: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """A row of a search: a line that matches or is context of one, or a file with its number of matching lines."""

    path: str
    line: int = 0
    text: str = ""
    context: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class FoundMatches:
    """The rows, whether there are more, and what was not searched."""

    rows: Sequence[Match]
    more: bool
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret that a build may use. Commands see `placeholder`; only the secret's hosts get its value instead."""

    account_id: str
    name: str
    placeholder: str


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The exact names of the hosts that commands may reach, and the build's secrets."""

    hosts: frozenset[str]
    secrets: tuple[SecretUse, ...] = ()


@dataclass(frozen=True, slots=True)
class HostTraffic:
    """Traffic with one host. `refused` counts refused attempts; `reason` is that of the last one."""

    host: str
    connections: int = 0
    sent: int = 0
    received: int = 0
    refused: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """One listed sandbox. `metadata` holds owner and, unless it is a probe, build and generation."""

    sandbox_id: str
    state: Literal["running", "paused"]
    metadata: Mapping[str, str]
    started_at: datetime


class Sandbox(Protocol):
    """A running sandbox. Every method may raise SandboxGone and SandboxUnavailable; file methods also FileRefused.

    Paths are absolute or relative to the workspace. Refuses a path that leads out of the workspace, also
    through symlinks that change meanwhile.
    """

    @property
    def id(self) -> str: ...

    @property
    def driver(self) -> DriverName: ...

    async def start_call(self, spec: CallSpec) -> CallStatus:
        """Start the command unless this call began before. Returns the state now."""

    async def run_call(self, spec: CallSpec, *, wait_s: float) -> CallStatus:
        """Start the command unless this call began before, and wait until it has ended, for at most `wait_s` seconds.

        Returns the state. For a call that has ended it holds the output, unless that is long.
        """

    async def call_status(self, call_id: str) -> CallStatus: ...

    async def wait_call(self, call_id: str, *, wait_s: float) -> CallStatus:
        """Wait until the call has ended, for at most `wait_s` seconds. Returns its state."""

    async def read_output(
        self, call_id: str, stream: Literal["out", "err"], *, limit: int = 1 << 20
    ) -> bytes: ...

    async def new_output(self, call_id: str, *, reader: str) -> CallStatus:
        """Return the state of a call with the output that it wrote since the last look of another reader.

        `reader` is the id of the call that looks. A reader that repeats its look starts where it started before.
        """

    async def stop_call(self, call_id: str, *, grace_s: float = 2.0) -> CallStatus:
        """End the command and everything it started: by SIGTERM, and by SIGKILL after `grace_s` seconds.

        Returns the state afterwards.
        """

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        """Keep `text` for the call unless a text is kept already. Returns the kept text, or None.

        A call that runs no command notes its intent, so that the next gateway knows it after a crash.
        """

    async def read_file(
        self, path: str, *, offset: int = 0, limit: int = ..., anywhere: bool = False
    ) -> bytes:
        """Read a regular file. With `anywhere`, also one outside the workspace that commands may read."""

    async def write_file(
        self, path: str, content: bytes, *, mode: int | None = None, once: str | None = None
    ) -> None:
        """Replace the file atomically; make missing directories. With `mode` None the mode stays, or is 0644.

        `once` is the id of the call that writes. A second write of the same call does nothing, so a gateway that was
        paused cannot overwrite later changes.
        """

    async def stat(self, path: str) -> Entry | None: ...

    async def remove(self, path: str) -> None:
        """Remove a file, a symlink or a directory with its content. Does nothing when it does not exist."""

    async def list_tree(self, *, exclude: Sequence[str] = (), fresh: bool = False) -> list[Entry]:
        """All entries of the workspace, sorted by path. Does not follow symlinks.

        `exclude` has patterns in the manner of .gitignore: the last one that matches decides, `!` in front keeps, and
        `/` at the end matches directories alone. An entry whose `problem` is set cannot be exported; nor can what is
        below it. Unless `fresh`, a file whose stat is as before is not read again.
        """

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> FoundFiles:
        """Find files by the rules of .gitignore's patterns. Raises FileRefused for a search that takes too long."""

    async def grep(self, query: GrepQuery) -> FoundMatches:
        """Find lines in text files. Raises FileRefused for a slow or wrong pattern."""

    async def stage(
        self,
        mark: int,
        *,
        base: int | None = None,
        fresh: bool = False,
        again: bool = False,
        exclude: Sequence[str] = (),
    ) -> Stage:
        """Return the tree of the checkpoint `mark`, the version of an event of the build.

        A stage is made once, or anew with `again`. `base` is the mark of the snapshot whose tree the caller has. With
        `fresh` every file is read again, and the tree is read until it stands still. `exclude` as for `list_tree`.
        """

    async def hold(self, mark: int, *, exclude: Sequence[str] = ()) -> None:
        """Keep the tree of the checkpoint `mark` from a call that is about to write, for at most about a second."""

    async def held(self) -> Sequence[int]:
        """Return the marks of the stages that are not stored yet, in order."""

    async def stored(self, mark: int) -> None:
        """Tell the sandbox that stage `mark` is stored. The sandbox forgets it and every earlier stage."""

    def export_files(self, mark: int, paths: Sequence[str]) -> AsyncIterator[ExportedBlock]:
        """Yields the contents of these files of a stage, in order.

        A file that was not held is read as it is now, so the caller compares its digest.
        """

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> Imported:
        """Create these entries in the workspace, with their modes and times. Never follows a symlink.

        An entry that cannot be created does not stop the others.
        """

    async def open_port(self, port: int) -> str:
        """Return the address of the port from outside. It stays the same while the sandbox lives.

        May raise PortRefused when nothing listens on the port yet.
        """

    async def usage(self) -> Usage: ...

    async def take_traffic(self) -> Sequence[HostTraffic]:
        """Return the traffic by host since the previous call. Returns none when the driver cannot measure traffic."""

    async def pause(self) -> None: ...

    async def kill(self) -> None:
        """End the sandbox with all its data. Does nothing when it has ended."""

    async def alive(self) -> bool: ...


class SandboxDriver(Protocol):
    """Creates and finds sandboxes. Raises SandboxUnavailable when the provider does not answer."""

    @property
    def name(self) -> DriverName: ...

    async def create(
        self,
        build_id: str,
        *,
        generation: int,
        metadata: Mapping[str, str] | None = None,
        network: NetworkRules | None = None,
    ) -> Sandbox:
        """Create the sandbox of this generation. Returns the existing one when it was created before.

        Without `network` its commands reach nothing outside.
        """

    async def connect(self, sandbox_id: str, *, network: NetworkRules | None = None) -> Sandbox:
        """Return the sandbox, resumed when it was paused. Raises SandboxGone when it has ended.

        `network` holds from now on for a sandbox that was created with a network. None leaves the rules as they are.
        """

    async def visited_at(self, sandbox_id: str) -> datetime | None:
        """Return the time of the last visit to a preview of the sandbox. None without one, or when nobody counts."""

    async def list(self) -> list[SandboxInfo]:
        """Return all sandboxes of this owner, running or paused, as the provider reports them.

        Includes probes, and sandboxes whose creator died before they were ready.
        """

    async def kill(self, sandbox_id: str) -> None:
        """End a sandbox by its id. Does nothing when it has ended."""
