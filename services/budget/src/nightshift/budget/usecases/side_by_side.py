"""Runs a bounded number of works at once."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def side_by_side(works: Sequence[Coroutine[Any, Any, T]], *, most: int) -> list[T]:
    """Run the works, at most `most` at once, and return their results in order.

    When works fail, the others are finished first. Then the first error is raised.
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
