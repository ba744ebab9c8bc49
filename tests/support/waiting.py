"""Waits for a condition instead of sleeping for a guessed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
# Tests state limits for an idle machine. A limit only ends a hanging test, so a busy machine gets more time.
_BUSY_FACTOR = 2.0


async def eventually(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]],
    timeout: float = 10.0,
    *,
    what: str | None = None,
    promised: bool = False,
) -> T:
    """Calls the predicate until its result is truthy and returns that. An AssertionError counts as falsy.

    Raises AssertionError after twice `timeout` seconds, or after `timeout` seconds when the documentation promises
    users this time (`promised`).
    """
    limit = timeout if promised else timeout * _BUSY_FACTOR
    deadline, pause = time.monotonic() + limit, _FIRST_PAUSE
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
                f"{name}: not within {limit:g} s; last answer {answer!r}, last failure {failure!r}"
            ) from failure
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
