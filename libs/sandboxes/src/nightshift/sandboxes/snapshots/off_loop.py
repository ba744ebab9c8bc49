"""Runs slow work in a few separate threads, so that the event loop can answer meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


@lru_cache(1)
def _threads() -> ThreadPoolExecutor:
    # Only two: with more threads the event loop would wait longer for the interpreter's lock.
    return ThreadPoolExecutor(2, thread_name_prefix="snapshots")


async def off_loop(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call the function in one of a few separate threads, so that the event loop stays free. Returns its result."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), lambda: function(*args, **kwargs))
