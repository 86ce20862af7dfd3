"""Runs works one after another, each while the result of the previous one is used.

async for result in one_ahead([partial(run, part) for part in parts]): ...
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def one_ahead(
    works: Sequence[Callable[[], Coroutine[Any, Any, T]]],
) -> AsyncGenerator[T, None]:
    """Results in order; closing this cancels the work that runs. Raises what a work raises."""
    running = asyncio.create_task(works[0]())
    try:
        for following in (*works[1:], None):
            result = await running
            if following is not None:
                running = asyncio.create_task(following())
            yield result
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
