"""Runs `nightshift up` as a child process for one command. The stack stops with the command unless it is kept."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightshift.devstack.child import die_with_parent
from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.passwords import hide_passwords

#: Seconds that a stack may take to start, and to stop.
_START, _STOP = 90.0, 40.0


_ADDRESS_KEYS = {"postgres": "dsn", "kafka": "bootstrap", "s3": "endpoint", "model": "base_url"}


def addresses(stack: Mapping[str, Any]) -> dict[str, str]:
    """Returns server → address for the servers in the description of a stack. Passwords are masked."""
    return {part: hide_passwords(stack[part][key]) for part, key in _ADDRESS_KEYS.items() if part in stack}


class StackChild:
    """A `nightshift up` that runs as a child process.

    `pid` is the process to end later when the stack is kept after the command.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def stop(self) -> None:
        """Stops the stack in order. Kills it when it does not stop in time."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP)
                return


async def start_stack(
    home: Path, *, arguments: list[str], environment: Mapping[str, str], outlives_us: bool
) -> StackChild:
    """Starts `nightshift up` with these arguments and environment variables, and waits until the stack is ready.

    Raises NightshiftError, with the stack's last output, when it fails. If `outlives_us`, the stack keeps running when
    this process exits. Otherwise it stops with this process.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "up.log"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nightshift.cli", "up", "--json", "--home", str(home), *arguments),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # Ctrl-C then reaches only this process, which stops the stack in order
            preexec_fn=None if outlives_us else die_with_parent(signal.SIGTERM),
        )
    stack = StackChild(process)
    try:
        async with asyncio.timeout(_START):
            json.loads(await process.stdout.readline() if process.stdout else b"")
    except BaseException as error:
        await stack.stop()
        if isinstance(error, ValueError | TimeoutError):
            tail = " ".join(log.read_text(encoding="utf-8", errors="replace").split()[-60:])
            hint = f"its logs are in {home}/logs"
            raise NightshiftError(f"the stack did not start: {tail}", hint=hint) from error
        raise
    return stack
