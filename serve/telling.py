"""What comes of samples while they are made, told to whoever reads, as slowly as they like.

async for came in told(work):               # work(hear) runs the samples and calls hear
    for position, outcome in came: ...
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from serve.fair import Outcome

Hear = Callable[[int, Outcome], None]
"""Told the position of a sample among those asked for, and what has come of it; on the loop."""

Came = list[tuple[int, Outcome]]


async def told(work: Callable[[Hear], Awaitable[None]]) -> AsyncGenerator[Came, None]:
    """What comes of the samples that `work` runs, each with its position.

    Every part is all that there is of a sample so far, so for who is slow the last one stands for
    those before. Closing this cancels the work. Raises what the work raises.
    """
    latest: dict[int, Outcome] = {}
    news = asyncio.Event()

    def hear(position: int, outcome: Outcome) -> None:
        latest[position] = outcome
        news.set()

    async def run() -> None:
        await work(hear)

    working = asyncio.create_task(run())
    working.add_done_callback(lambda _: news.set())
    try:
        while latest or not working.done():
            await news.wait()
            news.clear()
            if latest:
                came = [*latest.items()]
                latest.clear()
                yield came
        await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
