"""What the host remembers of a local sandbox: a directory each, so that another gateway finds it again.

<state dir>/<sandbox id>/   sandbox.json  what it is, written last: without it the sandbox was never handed out
                            bwrap.json    what bubblewrap said of its pids
                            agent.sock    the agent's socket, outside of what the sandbox sees
                            home/         the sandbox's /home/user
                            ports/        one file for each preview: where its relay listens
                            paused, log
"""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightshift.sandboxes.errors import SandboxGone


@dataclass(frozen=True, slots=True)
class Record:
    """What `sandbox.json` holds."""

    sandbox_id: str
    generation: str  # the marker inside
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox's directory on the host."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def ports(self) -> Path:
        return self.path / "ports"

    @property
    def paused(self) -> bool:
        return (self.path / "paused").exists()

    def mark_paused(self, paused: bool) -> None:
        marker = self.path / "paused"
        if paused:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    def write(self, record: Record) -> None:
        body = {
            "sandbox_id": record.sandbox_id,
            "generation": record.generation,
            "metadata": dict(record.metadata),
        }
        write_json(self.path / "sandbox.json", body)

    def read(self) -> Record:
        """Raises SandboxGone."""
        try:
            value = json.loads((self.path / "sandbox.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise SandboxGone(f"no sandbox {self.id} on this machine") from None
        return Record(value["sandbox_id"], value["generation"], value["metadata"])

    def pids(self) -> list[int]:
        """The living host processes of the tree: its process 1 and bubblewrap's monitor of it."""
        found = []
        with suppress(OSError, ValueError):
            for line in (self.path / "bwrap.json").read_text(encoding="utf-8").splitlines():
                if (pid := json.loads(line).get("child-pid")) is not None:
                    found.append(int(pid))
        return [pid for pid in found if names(pid, self.id)]

    def log(self) -> str:
        with suppress(OSError):
            return (self.path / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return ""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(value), encoding="utf-8")
    new.rename(path)


def names(pid: int, token: str) -> bool:
    """Whether this pid lives and its command line has the token: never another that got the number since."""
    try:
        return token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def end(pid: int, token: str) -> None:
    if names(pid, token):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
