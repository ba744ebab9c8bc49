"""Runs coroutines at the same time, but only a limited number of them."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def side_by_side(works: Sequence[Coroutine[Any, Any, T]], *, most: int) -> list[T]:
    """Run the coroutines, at most `most` at the same time. Returns their results in order.

    When some fail, the others still run to their end. Then the first error is raised.
    """
    places = asyncio.Semaphore(most)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with places:
            return await work

    results = await asyncio.gather(*(one(work) for work in works), return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
