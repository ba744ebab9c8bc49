"""The folder of a stack: who holds it, what runs there, and what is remembered between runs."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil

from nightshift.devstack.errors import DirectoryUnusable, HomeInUse

_LOCK, _STACK, _PORTS = "stack.lock", "stack.json", "ports.json"
_SNAPSHOT_KEY = "snapshot.key"


@contextlib.contextmanager
def hold(home: Path) -> Iterator[None]:
    """Own this home while inside. The kernel drops the lock when we die, so a stale one cannot be."""
    with _opened(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(
                f"a stack runs on {home} already (process {holder(home) or 'unknown'})",
                hint="use that one (`nightshift ps`), stop it, or choose another folder with --home",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        (home / _STACK).unlink(missing_ok=True)  # of a stack that was killed
        try:
            yield
        finally:
            (home / _STACK).unlink(missing_ok=True)


def _opened(home: Path) -> TextIO:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return (home / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise DirectoryUnusable(
            f"{home} cannot be the folder of a stack: {error.strerror}",
            hint="choose another folder with --home",
        ) from error


def is_held(home: Path) -> bool:
    """Whether a stack runs on this home."""
    try:
        with (home / _LOCK).open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_stack(home: Path, stack: Mapping[str, Any]) -> None:
    """Tell others what runs here. It may hold a password of a given address: for the owner's eyes only."""
    write_json(home / _STACK, stack)


def read_stack(home: Path) -> dict[str, Any] | None:
    """What runs here; none when no stack runs, or it is not ready yet."""
    if not is_held(home):
        return None
    try:
        told: dict[str, Any] = json.loads((home / _STACK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return told


def remember_ports(home: Path, ports: Mapping[str, int]) -> None:
    """Keep them for the next run, so that a client's saved address stays right."""
    write_json(home / _PORTS, ports)


def remembered_ports(home: Path) -> dict[str, int]:
    """The ports of the last run."""
    try:
        told = json.loads((home / _PORTS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(part): int(port) for part, port in told.items()}


def snapshot_key(home: Path) -> str:
    """The key of this home's snapshots: drawn once, for the owner's eyes only. Call it while holding the home."""
    path = home / _SNAPSHOT_KEY
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text(encoding="utf-8").strip():
            return known
    drawn = secrets.token_hex(32)
    _write_text(path, f"{drawn}\n")
    return drawn


def holder(home: Path) -> int | None:
    """The process that holds this home, or held it last; none when it cannot be told."""
    try:
        return int((home / _LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def lives(pid: int) -> bool:
    """Whether this process runs; one that ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, readable by its owner only."""
    _write_text(path, json.dumps(value) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half of it."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
