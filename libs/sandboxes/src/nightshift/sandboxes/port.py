"""The Sandbox protocol, which the sandbox gateway and the snapshotter use. All drivers pass the same conformance
tests.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from nightshift.contracts.tools import WORKSPACE
from nightshift.sandboxes.usage import Usage

#: The user's home inside a sandbox, the parent of the workspace. Commands can write there; snapshots leave it out.
HOME = "/home/user"

#: The most bytes of a file that are exported or stored in one piece.
PIECE = 8 * 1024**2

CallState = Literal["unknown", "running", "finished", "died"]
EntryKind = Literal["file", "directory", "symlink", "other"]
DriverName = Literal["local", "e2b"]


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One command to run.

    The command with one `call_id` runs once in a sandbox, however often it is started. If `timeout_s` is None, it runs
    until it ends or is stopped. `output_limit` is the number of bytes of each stream that are kept: its beginning and
    a shorter part of its end.
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

    - `unknown`: the call never began.
    - `running`: the call runs.
    - `finished`: the call has ended, and the exit code is set.
    - `died`: the call began, and its supervisor was killed before it recorded the end. The exit code is not known, and
      the call must not run again.
    """

    state: CallState
    exit_code: int | None = None  # 128 + signal when a signal ended it
    timed_out: bool = False
    stopped: bool = False
    folder: str = ""  # in the sandbox; its files `out` and `err` hold output too long for an answer
    output: tuple[bytes, bytes] | None = None  # stdout and stderr, when the answer contains them


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a tree. `path` is relative to the tree's root. `digest` is the SHA-256 of a file's content, in hex."""

    path: str
    kind: EntryKind
    mode: int = 0  # permission bits
    size: int = 0
    mtime_ns: int | None = None  # when the content last changed, since 1970; None: not known
    digest: str | None = None
    target: str | None = None  # where a symlink leads
    link: str | None = None  # for a hard link: the path of the first file with this content
    problem: str | None = None  # why the entry, or what is below it, cannot be exported


@dataclass(frozen=True, slots=True)
class Stage:
    """The tree of the workspace at a checkpoint, kept in the sandbox until it is stored.

    - `base`: the mark of the snapshot since which `entries` have changed. None when `entries` is the whole tree.
    - `gone`: the paths that the base has and this tree has not.
    - `late`: a tool call may have written between the checkpoint and the reading of the tree.
    - `torn`: the paths whose files changed while they were read.
    """

    base: int | None
    entries: Sequence[Entry]
    gone: Sequence[str]
    late: bool
    torn: Sequence[str]


@dataclass(frozen=True, slots=True)
class ExportedPart:
    """The next `bytes` bytes of a file, in a block. If `more`, the next part continues the file."""

    path: str
    bytes: int
    more: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ExportedBlock:
    """Parts of files in `parts`, and in `data` the bytes of all parts in the same order, about PIECE bytes in all."""

    parts: Sequence[ExportedPart]
    data: bytes


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """An entry for `import_files`. `content` is set for a file.

    A large file is imported as several of these: if `more`, the next one continues the same file. If `keep`, the import
    sets mode and time of an existing file and leaves its content as it is.
    """

    entry: Entry
    content: bytes = b""
    more: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import. `refused` maps at most 1,000 paths that could not be created to the reasons."""

    count: int
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The result of a glob: the newest matching files, the number of all, and notes about files not searched."""

    entries: Sequence[Entry]
    total: int
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class GrepQuery:
    """A search for lines in files.

    - `globs`: patterns of the files to search. A pattern that begins with `!` excludes files.
    - `mode`: says what each row of the result is: a line, a file, or a file with its number of matching lines.
    - `before`, `after`: how many lines of context to add around a match.
    - `multiline`: a match may span several lines.
    - `offset`, `limit`: how many matches to skip, and how many to return.
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
    """A row of a search: a matching line, a line of context, or a file with its number of matching lines."""

    path: str
    line: int = 0
    text: str = ""
    context: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class FoundMatches:
    """The rows of a search, whether there are more rows, and notes about files not searched."""

    rows: Sequence[Match]
    more: bool
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret of a build. Commands see only `placeholder`; the egress proxy sends the value in its place."""

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
    """Traffic with one host, in bytes. `refused` counts the refused attempts, and `reason` is that of the last one."""

    host: str
    connections: int = 0
    sent: int = 0
    received: int = 0
    refused: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox in a list. `metadata` names the owner and, unless it is only a test sandbox, build and generation."""

    sandbox_id: str
    state: Literal["running", "paused"]
    metadata: Mapping[str, str]
    started_at: datetime


class Sandbox(Protocol):
    """A running sandbox.

    Every method may raise SandboxGone and SandboxUnavailable. The methods for files may also raise FileRefused. Paths
    are absolute or relative to the workspace. A path that leads out of the workspace is refused, even when a command
    changes symlinks during the operation.
    """

    @property
    def id(self) -> str: ...

    @property
    def driver(self) -> DriverName: ...

    async def start_call(self, spec: CallSpec) -> CallStatus:
        """Start the command, unless this call began before. Returns the call's state now."""

    async def run_call(self, spec: CallSpec, *, wait_s: float) -> CallStatus:
        """Start the command, unless this call began before, and wait at most `wait_s` seconds for its end.

        Returns the call's state. The state of a call that has ended contains the output, unless the output is long.
        """

    async def call_status(self, call_id: str) -> CallStatus: ...

    async def wait_call(self, call_id: str, *, wait_s: float) -> CallStatus:
        """Wait at most `wait_s` seconds for the end of the call. Returns its state."""

    async def read_output(
        self, call_id: str, stream: Literal["out", "err"], *, limit: int = 1 << 20
    ) -> bytes: ...

    async def new_output(self, call_id: str, *, reader: str) -> CallStatus:
        """Return the state of a call, with the output that it wrote since another reader last read its output.

        `reader` is the id of the call that reads. If the same reader asks again, the output begins at the same place.
        """

    async def stop_call(self, call_id: str, *, grace_s: float = 2.0) -> CallStatus:
        """End the command and every process that it started. Returns the state afterwards.

        Sends SIGTERM, and SIGKILL after `grace_s` seconds.
        """

    async def note(self, call_id: str, text: str | None = None) -> str | None:
        """Keep `text` for the call, unless a text is kept for it already. Returns the kept text, or None.

        A call that runs no command notes its intent. So the sandbox gateway knows the intent after a crash.
        """

    async def read_file(
        self, path: str, *, offset: int = 0, limit: int = ..., anywhere: bool = False
    ) -> bytes:
        """Read a regular file. If `anywhere`, the file may be outside the workspace, when commands may read it."""

    async def write_file(
        self, path: str, content: bytes, *, mode: int | None = None, once: str | None = None
    ) -> None:
        """Replace the file atomically, and create missing directories.

        If `mode` is None, an existing file keeps its mode, and a new one gets 0644. `once` is the id of the call that
        writes. A second write of that call does nothing, so a delayed sandbox gateway cannot overwrite later changes.
        """

    async def stat(self, path: str) -> Entry | None: ...

    async def remove(self, path: str) -> None:
        """Remove a file, a symlink, or a directory with its content. Does nothing when the path does not exist."""

    async def list_tree(self, *, exclude: Sequence[str] = (), fresh: bool = False) -> list[Entry]:
        """Return all entries of the workspace, sorted by path. Does not follow symlinks.

        `exclude` is a list of patterns like those of .gitignore: the last pattern that matches a path decides, and a
        pattern with `!` in front keeps the path. A pattern with `/` at its end matches directories only. An entry whose
        `problem` is set cannot be exported, nor can anything below it. Unless `fresh`, a file whose stat has not
        changed is not read again.
        """

    async def glob(self, pattern: str, *, path: str = ".", limit: int) -> FoundFiles:
        """Find files by a pattern like those of .gitignore. Raises FileRefused for a search that takes too long."""

    async def grep(self, query: GrepQuery) -> FoundMatches:
        """Find lines in text files. Raises FileRefused for a pattern that is invalid or too slow."""

    async def stage(
        self,
        mark: int,
        *,
        base: int | None = None,
        fresh: bool = False,
        again: bool = False,
        exclude: Sequence[str] = (),
    ) -> Stage:
        """Return the tree of the checkpoint `mark`, which is the version of an event of the build.

        Reads the tree at the first call, and once more if `again`. `base` is the mark of the snapshot whose tree the
        caller has. If `fresh`, reads every file, and repeats that until no file changes. `exclude` is as for
        `list_tree`.
        """

    async def hold(self, mark: int, *, exclude: Sequence[str] = ()) -> None:
        """Protect the tree of the checkpoint `mark` from a call that is about to write. Takes about a second at
        most.
        """

    async def held(self) -> Sequence[int]:
        """Return the marks (versions of checkpoints) of the stages that are not stored yet, in order."""

    async def stored(self, mark: int) -> None:
        """Tell the sandbox that the stage `mark` is stored. The sandbox forgets that stage and every earlier one."""

    def export_files(self, mark: int, paths: Sequence[str]) -> AsyncIterator[ExportedBlock]:
        """Yield the contents of these files of a stage, in order.

        A file that no `hold` protected is read as it is now. So the caller must compare the file's digest.
        """

    async def import_files(self, files: AsyncIterator[ExportedFile]) -> Imported:
        """Create these entries in the workspace, with their modes and times. Never follows a symlink.

        An entry that cannot be created does not stop the others.
        """

    async def open_port(self, port: int) -> str:
        """Return the address at which visitors reach the port from outside.

        The address stays the same while the sandbox lives. May raise PortRefused when nothing listens on the port yet.
        """

    async def usage(self) -> Usage: ...

    async def take_traffic(self) -> Sequence[HostTraffic]:
        """Return the traffic by host since the previous call. Empty when the driver cannot measure traffic."""

    async def pause(self) -> None: ...

    async def kill(self) -> None:
        """End the sandbox and delete all its data. Does nothing when the sandbox has ended."""

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
        """Return the sandbox number `generation` of this build. Create it if it does not exist.

        If `network` is None, the sandbox's commands reach nothing outside.
        """

    async def connect(self, sandbox_id: str, *, network: NetworkRules | None = None) -> Sandbox:
        """Return the sandbox, and resume it when it was paused. Raises SandboxGone when it has ended.

        `network` replaces the rules of a sandbox that was created with a network. None leaves its rules as they are.
        """

    async def visited_at(self, sandbox_id: str) -> datetime | None:
        """Return when a preview was last visited. None without a visit, or when the driver does not count visits."""

    async def list(self) -> list[SandboxInfo]:
        """Return all sandboxes of this owner that the provider reports, running or paused.

        The list includes test sandboxes, and sandboxes whose creator died before they were ready.
        """

    async def kill(self, sandbox_id: str) -> None:
        """End the sandbox with this id. Does nothing when it has ended."""
