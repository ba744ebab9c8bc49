"""Waiting for a condition instead of sleeping for a guess."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
# Limits are written for a quiet machine. They end what hangs and measure nothing, so a busy one is given more.
_PATIENCE = 2.0


async def eventually(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]],
    timeout: float = 10.0,
    *,
    what: str | None = None,
    promised: bool = False,
) -> T:
    """Ask until the answer is truthy, and return it. An AssertionError of the predicate counts as "not yet".

    Fails with the last answer, or the last AssertionError, after twice `timeout` seconds. `promised`: the limit is what
    users are promised, and holds as it is.
    """
    patience = timeout if promised else timeout * _PATIENCE
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    while True:
        failure: AssertionError | None = None
        answer: object = None
        try:
            answer = predicate()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer  # type: ignore[return-value]
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(
                f"{name}: not within {patience:g} s; last answer {answer!r}, last failure {failure!r}"
            ) from failure
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
