"""Reads the files of a local sandbox that a stack's gateway opened, from outside of it."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import Sandbox

T = TypeVar("T")


def text_in_sandbox(home: Path, sandbox_id: str, path: str) -> str:
    """Returns the text of a file in the workspace of a sandbox of the stack on `home`."""
    return _with_sandbox(home, sandbox_id, lambda sandbox: sandbox.read_file(path)).decode()


def names_in_sandbox(home: Path, sandbox_id: str) -> set[str]:
    """Returns the paths of all entries in the workspace of a sandbox of the stack on `home`."""
    return {entry.path for entry in _with_sandbox(home, sandbox_id, lambda sandbox: sandbox.list_tree())}


def _with_sandbox(home: Path, sandbox_id: str, work: Callable[[Sandbox], Awaitable[T]]) -> T:
    async def connected() -> T:
        sandbox = await LocalDriver(LocalSettings(home / "sandboxes")).connect(sandbox_id)
        return await work(sandbox)

    # In a thread with an event loop of its own, because the caller may run inside one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(connected())).result()
