"""The home folder of a stack: its lock, the state of the running stack, and ports and keys that stay between runs."""

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
    """Hold the lock of this home folder within the block.

    Raises HomeInUse when another stack holds it, and DirectoryUnusable when the folder cannot be used. The kernel
    releases the lock when the process dies, so no stale lock can exist.
    """
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
        (home / _STACK).unlink(missing_ok=True)  # a stack that was killed has left it
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
    """Return whether a process holds the lock of this home folder."""
    try:
        with (home / _LOCK).open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_stack(home: Path, stack: Mapping[str, Any]) -> None:
    """Write the state of the running stack for `ps` and scripts.

    Only its owner may read the file, because an address may contain a password.
    """
    write_json(home / _STACK, stack)


def read_stack(home: Path) -> dict[str, Any] | None:
    """Return the state of the running stack, or None when no stack runs or it is not ready yet."""
    if not is_held(home):
        return None
    try:
        written: dict[str, Any] = json.loads((home / _STACK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return written


def remember_ports(home: Path, ports: Mapping[str, int]) -> None:
    """Save the ports for the next run, so that addresses which clients have saved stay valid."""
    write_json(home / _PORTS, ports)


def remembered_ports(home: Path) -> dict[str, int]:
    """Return part → port of the last run. Empty when there was none."""
    try:
        written = json.loads((home / _PORTS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(part): int(port) for part, port in written.items()}


def snapshot_key(home: Path) -> str:
    """Return the key on which the digests of this home's snapshots depend. The first call creates it.

    The caller must hold the lock of the home.
    """
    path = home / _SNAPSHOT_KEY
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text(encoding="utf-8").strip():
            return known
    drawn = secrets.token_hex(32)
    _write_text(path, f"{drawn}\n")
    return drawn


def holder(home: Path) -> int | None:
    """Return the id of the process that has the lock of this home, or had it last.

    Returns None when that is unknown.
    """
    try:
        return int((home / _LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def lives(pid: int) -> bool:
    """Return whether a process with this id runs. A zombie does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the value to the file as JSON. The file is replaced in one step, and only its owner may read it."""
    _write_text(path, json.dumps(value) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write a new file and rename it, so that no reader sees a half-written file."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
