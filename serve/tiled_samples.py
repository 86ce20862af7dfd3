"""Samples beyond the bounds of their free axes: each is run as a job of tiles, and put together.

    outputs = await submit_tiled(runner, params, offload)       # runner.tiling is its tiles

A tile is a sample like any other to the batcher: those of several requests share batches, and count
by what they cost. So the outputs are the same alone and in a batch.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import prod
from typing import Protocol, TypeVar

import numpy as np

from aigc.artifact import TensorSpec, user_inputs
from aigc.artifact.axes import Shape, shape_at
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.tiling import Shapes
from serve.batching.progress import ProgressCallback
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.sampling_params import SamplingParams
from serve.settings import Limits

T = TypeVar("T")


class Offload(Protocol):
    """Calls a function that handles a number of values, in a thread if they are many."""

    def __call__(self, values: int, function: Callable[[], T]) -> Awaitable[T]: ...


async def submit_tiled(
    runner: SignatureRunner,
    params: SamplingParams,
    offload: Offload,
    *,
    inputs: Arrays | None = None,
    deadline_s: float | None = None,
    request_id: str = "",
    on_progress: ProgressCallback | None = None,
) -> Arrays:
    """runner.submit() of samples that are made of tiles, a job for each sample.

    `runner` is at their sizes. Its errors are those of submit(); the first ends all jobs.
    """
    tiling = runner.tiling
    assert tiling is not None
    places = tiling.places()
    taken, given = runner.artifact.signature(runner.name).shapes
    given = with_pixels(runner, given)

    async def one(position: int) -> Arrays:
        def cut() -> Arrays:
            row = _row(runner, params, inputs, position)
            return tiling.cut({name: array[0] for name, array in row.items()}, taken, places)

        def assemble(tiles: Arrays) -> Arrays:
            whole: Arrays = {}
            tiling.assemble(whole, tiles, given, places)
            return {name: array[None] for name, array in whole.items()}

        values = runner.spec.num_values
        tiles = await runner.submit(
            SamplingParams(n=len(places)),
            inputs=await offload(values, cut),
            deadline_s=deadline_s,
            request_id=request_id,
        )
        whole = await offload(values, partial(assemble, tiles))
        if on_progress is not None:
            on_progress(position, whole)
        return whole

    tasks = [asyncio.create_task(one(position)) for position in range(params.n)]
    try:
        rows = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await offload(params.n * runner.spec.num_values, partial(_stacked, rows))


def max_pixels(limits: Limits, runner: SignatureRunner, image: TensorSpec) -> int:
    """Most pixels of all given images of an input together, where samples are made of tiles.

    About as many as the limit on values has room for, and always those of the largest single run.
    """
    spec = runner.spec
    pixels, largest = (
        prod(shape_at(image.shape, sizes)[1:]) for sizes in (spec.sizes({}), spec.largest)
    )
    fits = limits.max_values * pixels // runner.values_per_sample
    return min(user_inputs.MAX_PIXELS, max(fits, largest))


def num_bytes(runner: SignatureRunner, n: int) -> int:
    """Bytes of n samples while they are made of tiles: inputs and outputs of the whole and of all
    tiles. 0 for samples that one run makes."""
    tiling = runner.tiling
    if tiling is None:
        return 0
    image = runner.image.num_values if runner.image is not None else 0
    outputs = 4 * (runner.values_per_sample - image) + image  # images are uint8 pixels
    inputs = 4 * sum(spec.num_values for spec in runner.spec.inputs)
    # A tile has as many inputs and outputs for each place as the whole.
    places = prod(tiling.tile_sizes.values()) / prod(tiling.sizes.values())
    copies = 2 if n > 1 else 1  # samples of several are put together
    return n * int((inputs + outputs) * (1 + len(tiling) * places) + (copies - 1) * outputs)


def with_pixels(runner: SignatureRunner, shapes: Shapes) -> dict[str, Shape]:
    """Shapes of what a runner gives: those of the outputs, and of the image as pixels."""
    if runner.image is None:
        return dict(shapes)
    channels, height, width = shapes[runner.image.name]
    return {**shapes, PIXELS: (height, width, channels)}


def _row(
    runner: SignatureRunner, params: SamplingParams, inputs: Arrays | None, position: int
) -> Arrays:
    """All inputs of one sample, batch axis first: a row of those given, or drawn."""
    if inputs is not None:
        return {name: array[position : position + 1] for name, array in inputs.items()}
    own = params.rows(position, position + 1)
    drawn = runner.artifact.draw(
        runner.name, own.seed, own.indices, own.label, own.settings, sizes=own.sizes
    )
    return runner.complete(drawn)


def _stacked(rows: list[Arrays]) -> Arrays:
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
