"""`nightshift down`: stops the stack of a home."""

import asyncio
import contextlib
import os
import signal

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import write_result
from nightshift.devstack.stack.home import holder, is_held, lives
from nightshift.eventlog.errors import NightshiftError, NotFound

app = cyclopts.App(name="down")

#: Seconds that an orderly stop may take.
_LIMIT = 45.0


@app.default
async def down(*, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Stop the stack of a home in order and wait until its processes have exited. Its data is kept.

    For example:

        nightshift down --home .nightshift
    """
    pid = holder(home) if is_held(home) else None
    if pid is None:
        raise NotFound(f"no stack runs on {home}", hint="`nightshift ps` shows the one on the default folder")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_LIMIT):
            while is_held(home) or lives(pid):  # the process releases the home before it exits
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NightshiftError(
            f"the stack on {home} (process {pid}) has not stopped after {_LIMIT:.0f} s",
            hint="a second `nightshift down` ends it at once",
        ) from None
    write_result({"home": str(home), "stopped": pid}, f"the stack on {home} has stopped", as_json=json)
