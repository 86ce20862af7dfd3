"""Samples beyond the bounds of their free axes: run as tiles or chunks, and put together.

    outputs = await submit_tiled(runner, params, offload)       # runner.tiling is its tiles
    async for outputs in run_chunks(runner, params, offload, run): ...

A tile is a sample like any other to the batcher: those of several requests share batches, and count
by what they cost. So the outputs are the same alone and in a batch. The chunks of a sound that is
sent as it is made are jobs of their own.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np

from aigc.artifact import Signature, TensorSpec, user_inputs
from aigc.artifact.axes import Shape, shape_at
from aigc.artifact.sampling_inputs import Arrays, is_picture
from aigc.artifact.tiling import Place, Shapes
from serve.batching.jobs import DeadlineError, OverloadedError
from serve.batching.one_ahead import one_ahead
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


async def run_chunks(
    runner: SignatureRunner,
    params: SamplingParams,
    offload: Offload,
    run: Callable[[Callable[[], Awaitable[Arrays]]], Coroutine[Any, Any, Arrays]],
    *,
    inputs: Arrays | None = None,
    deadline_s: float | None = None,
    request_id: str = "",
) -> AsyncGenerator[Arrays, None]:
    """Outputs of one sample, chunk by chunk, each run while the previous one is used.

    `runner` is at its sizes; `run` calls what submits a chunk, and the first time what draws the
    sample. `deadline_s`: by which the first chunk must have started. Raises what submit() raises.
    """
    tiling = runner.tiling
    assert tiling is not None
    places = tiling.places()
    taken, given = runner.artifact.signature(runner.name).shapes
    values = runner.spec.num_values
    whole: Arrays = {}

    async def draw() -> None:
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                row = await offload(values, partial(_row, runner, params, inputs, 0))
        except TimeoutError:
            raise DeadlineError(1) from None
        whole.update({name: array[0] for name, array in row.items()})

    async def submit(place: Place) -> Arrays:
        is_first = place is places[0]
        if is_first:
            await draw()
        chunk = tiling.cut(whole, taken, [place])
        while True:
            try:
                return await runner.submit(
                    SamplingParams(),
                    inputs=chunk,
                    deadline_s=deadline_s if is_first else None,
                    request_id=request_id,
                )
            except OverloadedError as error:  # its beginning is sent already
                if is_first:
                    raise
                await asyncio.sleep(error.retry_after_s)

    works = [partial(run, partial(submit, place)) for place in places]
    async with contextlib.aclosing(one_ahead(works)) as running:
        for place in places:
            yield tiling.kept(await anext(running), given, place)


def max_places(limits: Limits, runner: SignatureRunner, spec: TensorSpec) -> int:
    """Most pixels of all given images of an input together, or samples of a channel of sounds.

    Where samples are made of parts: about as many as the limit on values has room for, and always
    those of the largest single run.
    """
    signature = runner.spec
    places, largest = (
        prod(shape_at(spec.shape, sizes)[1:]) for sizes in (signature.sizes({}), signature.largest)
    )
    fits = limits.max_values * places // runner.values_per_sample
    return min(user_inputs.MAX_PIXELS, max(fits, largest))


def num_bytes(runner: SignatureRunner, n: int, whole: bool) -> int:
    """Bytes of n samples while they are made of tiles or chunks: inputs and outputs of the whole
    and of all parts; without `whole` its inputs alone. 0 for samples that one run makes."""
    tiling = runner.tiling
    if tiling is None:
        return 0
    inputs, outputs = _tensor_bytes(runner.spec.inputs), _output_bytes(runner, runner.spec)
    if not whole:
        return n * inputs
    tile = runner.artifact.signature(runner.name).at(tiling.tile_sizes)
    parts = len(tiling) * (_tensor_bytes(tile.inputs) + _output_bytes(runner, tile))
    copies = 2 if n > 1 else 1  # samples of several are put together
    return n * (inputs + copies * outputs + parts)


def _output_bytes(runner: SignatureRunner, spec: Signature) -> int:
    """Bytes of what a runner gives of a sample of fixed shapes: the image as uint8 pixels, and as
    numbers too if the runner keeps them."""
    total = _tensor_bytes(spec.outputs)
    image = next(filter(is_picture, spec.outputs), None)
    if image is None:
        return total
    keeps = runner.values_per_sample > sum(one.num_values for one in runner.spec.outputs)
    return total + image.num_values - (0 if keeps else _tensor_bytes([image]))


def _tensor_bytes(specs: Iterable[TensorSpec]) -> int:
    """Bytes of one row of tensors of fixed shapes."""
    return sum(spec.num_values * np.dtype(spec.dtype).itemsize for spec in specs)


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
