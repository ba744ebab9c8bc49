"""Starts a server and waits until it answers. Retries with another random port when a program took the first one."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.errors import PartFailed, PortTaken
from nightshift.devstack.ports import draw_port, is_free

_DRAWS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05


async def start_ready(
    spec_for: Callable[[int], ChildSpec],
    answers: Callable[[Child, int], Awaitable[bool]],
    *,
    port: int,
    timeout: float,
    launch: Callable[[ChildSpec], Awaitable[Child]] | None = None,
) -> tuple[Child, int]:
    """Start the child that `spec_for(port)` describes, and wait until `answers` returns True.

    Returns the child and its port.

    - `port`: 0 means any free port.
    - `timeout`: seconds until the server must answer.
    - `launch`: used instead of `Child.start` when it is given.

    Raises PortTaken when a given port is in use. Raises PartFailed, with the end of the log, when the server exits or
    does not answer in time.
    """
    for draw in range(_DRAWS):
        chosen = port or draw_port()
        if port and not is_free(port):
            raise PortTaken(
                f"{spec_for(port).name}: port {port} is taken by another program",
                hint="end that program, or choose another port (0 takes any that is free)",
            )
        spec = spec_for(chosen)
        child = await launch(spec) if launch is not None else Child.start(spec)
        try:
            await _until_ready(child, chosen, answers, timeout)
        except PartFailed:
            await child.stop(patience=1)
            if port or draw == _DRAWS - 1 or is_free(chosen):
                raise  # the server failed for another reason than its port
        except BaseException:
            await child.stop(patience=1)
            raise
        else:
            return child, chosen
    raise AssertionError("unreachable: the last draw returns or raises")


async def _until_ready(
    child: Child, port: int, answers: Callable[[Child, int], Awaitable[bool]], timeout: float
) -> None:
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    while not await answers(child, port):
        code = child.poll()
        if code is not None:
            raise PartFailed(
                f"{child.spec.name} ended with code {code} while starting",
                tail=child.log_tail(),
                hint=f"its whole log is in {child.spec.log}",
                exit_code=code,
            )
        if time.monotonic() > deadline:
            raise PartFailed(
                f"{child.spec.name} did not answer on port {port} within {timeout:g} s",
                tail=child.log_tail(),
                hint=f"its whole log is in {child.spec.log}",
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
