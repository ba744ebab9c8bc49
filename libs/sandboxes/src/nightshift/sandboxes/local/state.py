"""The directory of a local sandbox on the host. From it any process of the sandbox gateway finds the sandbox again.

<state dir>/<sandbox id>/   starting.json its metadata, written before any process starts
                            sandbox.json  the same file, renamed when the sandbox is ready
                            bwrap.json    process 1 and its namespaces, as bubblewrap reports them
                            agent.sock    the agent program's socket, which commands in the sandbox cannot see
                            home.ext4     the disk that is the sandbox's /home/user, where disks can be mounted
                            home/         the sandbox's /home/user elsewhere
                            own/          the directory for the agent program alone: /run/nightshift in the sandbox
                            previews.json the preview process: its pid and start time; visits touch the file
                            paused        exists while the sandbox is paused
                            log           the standard error of bubblewrap and the agent program
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local.process import FirstProcess
from nightshift.sandboxes.port import SandboxInfo

_STARTING, _READY = "starting.json", "sandbox.json"


@dataclass(frozen=True, slots=True)
class SandboxDirectory:
    """The directory of one sandbox on the host."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def disk(self) -> Path:
        return self.path / "home.ext4"

    @property
    def own(self) -> Path:
        """The directory to which only the agent program can write. Inside the sandbox it is /run/nightshift."""
        return self.path / "own"

    @property
    def paused(self) -> Path:
        """The file that exists while the sandbox is paused."""
        return self.path / "paused"

    @property
    def ready(self) -> bool:
        """Whether the sandbox has started completely."""
        return (self.path / _READY).exists()

    def age_s(self) -> float:
        """Return the seconds since an entry was last created or removed in the directory, or 0 when the directory is
        gone.
        """
        try:
            return time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def write(self, metadata: Mapping[str, str]) -> None:
        """Record the metadata of a sandbox that is about to start."""
        write_json(self.path / _STARTING, {"sandbox_id": self.id, "metadata": dict(metadata)})

    def mark_ready(self) -> None:
        (self.path / _STARTING).rename(self.path / _READY)

    def read(self) -> SandboxInfo:
        """Return the sandbox's record. Raises SandboxGone when there is none."""
        for name in (
            _READY,
            _STARTING,
            _READY,
        ):  # read twice, because the file may be renamed after the first attempt
            with suppress(OSError, ValueError):
                value = json.loads((self.path / name).read_text(encoding="utf-8"))
                started = datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)
                state: Literal["running", "paused"] = "paused" if self.paused.exists() else "running"
                return SandboxInfo(self.id, state, value["metadata"], started)
        raise SandboxGone(f"no sandbox {self.id} on this machine")

    def first(self) -> FirstProcess | None:
        """Return process 1 of the sandbox, or None when bubblewrap has not reported it."""
        with suppress(OSError, ValueError, KeyError):
            for line in (self.path / "bwrap.json").read_text(encoding="utf-8").splitlines():
                report = json.loads(line)
                if "child-pid" in report:
                    return FirstProcess(int(report["child-pid"]), int(report["pid-namespace"]))
        return None

    @property
    def runs(self) -> bool:
        """Whether the sandbox runs, which is so as long as its process 1 runs."""
        first = self.first()
        return first is not None and first.runs()

    def log(self) -> str:
        with suppress(OSError):
            return (self.path / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return ""

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the socket of the agent program.

        Raises SandboxGone when the sandbox has ended, and SandboxUnavailable for other errors.
        """
        try:
            handle = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SandboxGone(f"no sandbox {self.id} on this machine") from None
        try:
            # Uses the handle, because the path of a socket has at most 107 bytes.
            return await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/agent.sock")
        except (ConnectionRefusedError, FileNotFoundError):
            raise SandboxGone(f"sandbox {self.id} has ended") from None
        except OSError as error:
            raise SandboxUnavailable(f"sandbox {self.id}: {error}") from error
        finally:
            os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` to the file as JSON, atomically."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(value), encoding="utf-8")
    new.rename(path)
