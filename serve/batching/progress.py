"""Adapts a progress callback to an async generator; a slow reader gets only the latest states.

async for progress in stream_progress(work):     # work(on_progress) runs the samples
    for position, outcome in progress: ...
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from serve.batching.jobs import Outcome

ProgressCallback = Callable[[int, Outcome], None]
"""(position of a sample in its request, its new outcome), called on the event loop."""

Progress = list[tuple[int, Outcome]]
"""Samples that changed, by position, with the latest outcome of each."""


async def stream_progress(
    work: Callable[[ProgressCallback], Awaitable[None]],
) -> AsyncGenerator[Progress, None]:
    """Progress of the samples that `work` runs.

    Every outcome holds all of its sample so far, so the latest one replaces those that a slow
    reader missed. Closing the generator cancels the work. Raises what the work raises.
    """
    latest: dict[int, Outcome] = {}
    changed = asyncio.Event()

    def on_progress(position: int, outcome: Outcome) -> None:
        latest[position] = outcome
        changed.set()

    async def run() -> None:
        await work(on_progress)

    working = asyncio.create_task(run())
    working.add_done_callback(lambda _: changed.set())
    try:
        while latest or not working.done():
            await changed.wait()
            changed.clear()
            if latest:
                progress = [*latest.items()]
                latest.clear()
                yield progress
        await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
