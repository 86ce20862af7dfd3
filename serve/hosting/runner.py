"""Runners: one signature of one artifact, and how its samples are run.

    outputs = await runner.submit(SamplingParams(n=4, seed=7))            # drawn from the seed
    outputs = await runner.submit(SamplingParams(n=4), inputs=inputs)     # run on complete inputs

A LocalRunner feeds this replica's batcher, serve.hosting.pool_client.RemoteRunner another pool's.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.artifact.autoregressive import not_finite
from aigc.artifact.axes import Sizes, shape_at
from aigc.artifact.manifest import Level
from aigc.artifact.outputs import OutputError, bad_rows
from aigc.artifact.sampling_inputs import PREFIX, Arrays, ArtifactSpec, channels, is_picture
from aigc.artifact.tiling import Tiling
from serve.batching.batch_runner import RowsError
from serve.batching.batcher import Batcher
from serve.batching.jobs import (
    BatchSlice,
    BatchStats,
    Job,
    Outcome,
    PartialOutput,
    Runner,
    RunTooLongError,
    StepRunner,
    as_exception,
    batch_error,
)
from serve.batching.progress import ProgressCallback
from serve.metrics import RunnerMetrics
from serve.sampling_params import Choices, SamplingParams
from serve.settings import Limits

PIXELS = "pixels"
"""Name of a runner's output when it is an image: (N, H, W, C) uint8."""

logger = logging.getLogger(__name__)


class SignatureRunner(ABC):
    """One signature of one artifact: its contract, and a way to run its samples."""

    limits: Limits | None = None
    """Limits of the runner's pool; None for those of this replica."""
    cost: float = 1.0
    """Cost of a sample, tiles included, beside one of the default sizes: what a key pays."""
    tiling: Tiling | None = None
    """Tiles of a sample, of at() of sizes beyond the bounds of the axes; None for no tiles."""
    replica: str | None = None
    """Replica that ran the samples; None for this one."""

    def __init__(
        self, artifact: ArtifactSpec, name: str, max_batch: int, metrics: RunnerMetrics
    ) -> None:
        self.artifact = artifact
        self.name = name
        self.max_batch = max_batch
        self.metrics = metrics
        self.spec: Signature = artifact.signature(name)
        self.image = next(filter(is_picture, self.spec.outputs), None)
        self.values_per_sample = self._values(self.spec.at(self.spec.sizes({})))
        """Numbers in the outputs of a sample; of the default sizes, unless at() chose others."""
        self.defaults: dict[str, float] = {
            spec.name: _number(spec, spec.default)
            for spec in self.spec.inputs
            if spec.kind == "setting" and spec.default is not None
        }
        """Default value of each setting."""
        label = self.spec.label
        self.num_classes = int(label.range[1]) + 1 if label is not None and label.range else None

    def at(self, sizes: Sizes) -> Self:
        """This runner at sizes of its free axes: its `spec` and `image` have fixed shapes.

        It runs samples as this one does, in the same batches.
        """
        if not self.spec.axes:
            return self
        sized = copy(self)
        sized.spec = self.spec.at(sizes)
        sized.tiling = tiling = self.spec.tiling(sizes)
        sized.cost = self.spec.cost(tiling.tile_sizes if tiling is not None else sizes)
        sized.cost *= sized.num_tiles
        sized.image = next(filter(is_picture, sized.spec.outputs), None)
        sized.values_per_sample = self._values(sized.spec)
        sized.max_batch = self.spec.max_batch(sizes, self.max_batch)
        return sized

    @property
    def num_tiles(self) -> int:
        """Number of tiles of a sample: 1 where one run makes all of it."""
        return len(self.tiling) if self.tiling is not None else 1

    def _values(self, spec: Signature) -> int:
        """Numbers in what a sample's outputs are for a signature without free axes."""
        return sum(out.num_values for out in spec.outputs)

    @property
    def part_name(self) -> str:
        """`tile` or `chunk`, a part of a sample that no single run makes."""
        return "chunk" if self.artifact.signature(self.name).chunk else "tile"

    @abstractmethod
    async def submit(
        self,
        params: SamplingParams,
        *,
        inputs: Arrays | None = None,
        deadline_s: float | None = None,
        request_id: str = "",
        on_progress: ProgressCallback | None = None,
    ) -> Arrays:
        """Outputs by name, (n, ...), images as uint8 pixels.

        `inputs`: n rows of all inputs, as complete() returns them; None to draw them from the seed.
        `deadline_s`: monotonic time by which all samples must have started. `on_progress`: called
        with each sample's outcomes as they come. Raises the errors of `serve.batching.jobs`,
        OutputError for outputs that break the manifest, and what the graph raises.
        """

    @property
    def level(self) -> Level:
        """Reproducibility level of the machine, measured when the references were replayed."""
        return self.artifact.reproducibility[self.name].level

    @property
    def no_image(self) -> str:
        """Reason why samples are no pictures: a sentence without its full stop."""
        which = f"signature {self.name!r} of {self.artifact.id} gives"
        image = next((out for out in self.spec.outputs if out.kind == "image"), None)
        if image is None:
            return f"{which} no image"
        return f"{which} images of {channels(image)} channels, which no picture holds, as numbers"

    def complete(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs of the signature, from those given. Raises ValueError.

        Called where a request is admitted, so that all inputs are there when it is put into a
        batch: inputs share one only with those of the same names, types and row shapes.
        """
        return self.artifact.complete(self.name, inputs)


def _number(spec: TensorSpec, value: float) -> float:
    """A setting as the number that its tensor holds, whatever other settings share the batch."""
    return int(value) if spec.dtype == "int64" and value == int(value) else float(value)


class LocalRunner(SignatureRunner, Runner):
    """A signature that this replica runs. Images leave it as uint8 pixels."""

    artifact: Artifact

    def __init__(
        self,
        artifact: Artifact,
        name: str,
        max_batch: int,
        metrics: RunnerMetrics,
        batcher: Batcher,
    ) -> None:
        super().__init__(artifact, name, max_batch, metrics)
        self._batcher = batcher
        self._whole = self
        """The runner itself, also in those that at() gives: what the batcher knows."""
        self._seeded_layout = self._layout(artifact.sizes(name))
        """Names, types and row shapes of inputs drawn from seeds, at the default sizes."""
        self.is_bounded = artifact.is_bounded(name)

    async def submit(
        self,
        params: SamplingParams,
        *,
        inputs: Arrays | None = None,
        deadline_s: float | None = None,
        request_id: str = "",
        on_progress: ProgressCallback | None = None,
    ) -> Arrays:
        job = self._whole.job(params, inputs, deadline_s=deadline_s, request_id=request_id)
        job.on_progress = on_progress
        return await self._batcher.submit(job)

    def job(
        self,
        params: SamplingParams,
        inputs: Arrays | None = None,
        *,
        deadline_s: float | None = None,
        request_id: str = "",
    ) -> Job:
        """The batcher's job for samples; arguments as of submit().

        Raises ValueError for a setting that the signature lacks.
        """
        if inputs is None:
            return self._seeded_job(params, deadline_s, request_id)
        sizes = self.artifact.sizes(self.name, given=inputs)
        layout = tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())

        def draw(start: int, stop: int) -> Arrays:
            return {name: array[start:stop] for name, array in inputs.items()}

        return Job(
            runner=self,
            params=params,
            key=None if layout == self._seeded_layout else layout,
            draw=draw,
            cost=self.spec.cost(sizes),
            max_batch=self.spec.max_batch(sizes, self.max_batch),
            deadline_s=deadline_s,
            request_id=request_id,
        )

    def _seeded_job(self, params: SamplingParams, deadline_s: float | None, request_id: str) -> Job:
        if params.settings:
            params = replace(params, settings=self._numbers(params.settings))
        sizes = self.artifact.sizes(self.name, params.sizes)
        layout = self._layout(sizes) if sizes else self._seeded_layout

        def draw(start: int, stop: int) -> Arrays:
            return self._draw(params.rows(start, stop))

        return Job(
            runner=self,
            params=params,
            key=None if layout == self._seeded_layout else layout,
            draw=draw,
            draw_together=self._draw_together,
            cost=self.spec.cost(sizes),
            max_batch=self.spec.max_batch(sizes, self.max_batch),
            deadline_s=deadline_s,
            request_id=request_id,
        )

    def _layout(self, sizes: Sizes) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]:
        """Names, types and row shapes of all inputs at sizes of the free axes."""
        return tuple(
            (spec.name, np.dtype(spec.dtype), shape_at(spec.shape, sizes))
            for spec in self.artifact.inputs(self.name)
        )

    def _numbers(self, settings: Choices) -> dict[str, float | Sequence[float]]:
        """Given settings with the types of the defaults. Raises ValueError for unknown ones."""
        specs = {spec.name: spec for spec in self.spec.inputs if spec.kind == "setting"}
        if unknown := sorted(settings.keys() - specs.keys()):
            known = ", ".join(specs) or "none"
            raise ValueError(f"{self.name!r} has no setting {unknown[0]!r}, it has: {known}")
        return {
            name: _number(specs[name], value)
            if isinstance(value, int | float)
            else [_number(specs[name], one) for one in value]
            for name, value in settings.items()
        }

    def _draw(self, params: SamplingParams) -> Arrays:
        """The inputs of a slice of one job."""
        inputs = self.artifact.draw(
            self.name,
            params.seed,
            params.indices,
            params.label,
            {name: params.setting(name, value) for name, value in self.defaults.items()},
            sizes=params.sizes,
        )
        if self.spec.step:
            inputs[PREFIX] = self._prefix(params)
        return inputs

    def _draw_together(self, slices: Sequence[BatchSlice]) -> Arrays:
        """The inputs of slices of several jobs that are drawn from seeds."""
        parts = [part.job.params.rows(part.start, part.stop) for part in slices]
        seeds = [part.seed for part in parts for _ in range(part.n)]
        indices = [index for part in parts for index in part.indices]
        labels = [label for part in parts for label in part.labels()]
        given_labels = None if all(label is None for label in labels) else labels
        settings = {
            name: [value for part in parts for value in part.setting(name, default)]
            for name, default in self.defaults.items()
        }
        sizes = parts[0].sizes  # their jobs share a key, so all have the same
        inputs = self.artifact.draw(self.name, seeds, indices, given_labels, settings, sizes=sizes)
        if self.spec.step:
            inputs[PREFIX] = np.concatenate([self._prefix(part) for part in parts])
        return inputs

    def _prefix(self, params: SamplingParams) -> NDArray[np.int64]:
        """(n, L) first tokens; zeros where none were given."""
        if params.prefix is not None:
            return params.prefix
        return np.zeros((params.n, *self.spec.outputs[0].fixed_shape), np.int64)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One run of the graph; images become uint8 pixels, once for the whole batch.

        Raises RowsError where some rows hold invalid values, OutputError for wrong shapes.
        """
        outputs = self.artifact.run(self.name, inputs)
        bad = bad_rows(self.spec, outputs)
        if not bad:
            return self._with_pixels(outputs)
        rows = [*bad]
        for array in outputs.values():
            array[rows] = 0  # not sent to anybody; pixels cannot be made of non-finite values
        raise RowsError(self._with_pixels(outputs), bad)

    def _with_pixels(self, outputs: Arrays) -> Arrays:
        if self.image is None:
            return outputs
        pixels = self.artifact.uint8(self.name, outputs)
        return {PIXELS: pixels} | {k: v for k, v in outputs.items() if k != self.image.name}

    def stop(self) -> None:
        """Ask a run that does not end to do so. The artifact does not run after that."""
        self.artifact.stop()

    def observe(self, batch: BatchStats) -> None:
        self.metrics.observe(batch)

    def observe_failure(self, job: Job, error: Exception) -> None:
        """Count and log a failure of the model; other errors are logged where they are handled."""
        if not isinstance(error, OutputError | RunTooLongError):
            return
        too_long = isinstance(error, RunTooLongError)
        (self.metrics.runs_too_long if too_long else self.metrics.output_errors).inc()
        logger.error(
            "a request failed by its model %s, signature %s: %s",
            self.artifact.id,
            self.name,
            error,
            extra={"request_id": job.request_id},
        )


class TensorRunner(LocalRunner):
    """A LocalRunner that returns images twice: as the graph's own values and as pixels.

    A runner of its own, so that a batch of pixels alone never carries floats along.
    """

    def _values(self, spec: Signature) -> int:
        image = next(filter(is_picture, spec.outputs), None)
        return super()._values(spec) + (image.num_values if image else 0)

    def _with_pixels(self, outputs: Arrays) -> Arrays:
        """Every output by its own name, and the image as pixels too."""
        return {PIXELS: self.artifact.uint8(self.name, outputs), **outputs}


class AutoregressiveRunner(LocalRunner, StepRunner):
    """A signature that runs step by step: its rows begin, continue and end at different times."""

    def __init__(
        self,
        artifact: Artifact,
        name: str,
        max_batch: int,
        metrics: RunnerMetrics,
        batcher: Batcher,
    ) -> None:
        super().__init__(artifact, name, max_batch, metrics, batcher)
        self.rows: list[BatchSlice] = []
        """Slices of one sample each."""
        self.decoder = artifact.token_decoder(name)
        """Their tokens and state, in the same order."""

    def keep(self, rows: Sequence[BatchSlice]) -> None:
        if len(rows) < max(len(self.rows), len(self.decoder)):
            wanted = {(part.job, part.start) for part in rows}
            stay = [(part.job, part.start) in wanted for part in self.rows]
            self._keep([i for i, stays in enumerate(stay) if stays])

    def _keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[i] for i in rows]
        self.decoder.keep(rows)

    def join(self, rows: Sequence[BatchSlice], inputs: Arrays) -> None:
        self.decoder.join([self.artifact.checked(self.name, inputs)])
        self.rows += rows

    def advance(self) -> tuple[list[BatchSlice], list[Outcome], list[int]]:
        failed = self._step()
        failed |= self._end_early()
        decoder, rows = self.decoder, self.rows
        name = self.spec.outputs[0].name
        ended = decoder.ended.tolist()
        lost = decoder.failed.tolist()
        outcomes: list[Outcome] = [
            not_finite()
            if lost[i]
            else {name: decoder.tokens[i : i + 1].copy()}
            if end
            else PartialOutput(part=decoder.tokens[i, : int(at)])
            for i, (end, at) in enumerate(zip(ended, decoder.position, strict=True))
        ]
        steps = decoder.position[decoder.ended & ~decoder.failed].tolist()
        if any(ended):
            self._keep([i for i, end in enumerate(ended) if not end])
        return [*rows, *failed], [*outcomes, *failed.values()], steps

    def _step(self) -> dict[BatchSlice, Exception]:
        """Advance all rows by one step; removes and returns the rows that fail, with their errors.

        If a step of all rows fails, each row is tried alone to find those at fault.
        """
        failed: dict[BatchSlice, Exception] = {}
        try:
            if self.rows:
                self.decoder.advance()
        except BaseException:
            for i in range(len(self.rows)):
                try:
                    self.decoder.copy([i]).advance()
                except BaseException as error:
                    failed[self.rows[i]] = as_exception(error)
            self._leave(failed)
            try:
                if self.rows:
                    self.decoder.advance()
            except BaseException as error:  # each row succeeds alone, but not together
                failed |= {row: batch_error(error) for row in self.rows}
                self._keep([])
        return failed

    def _end_early(self) -> dict[BatchSlice, Exception]:
        """Apply stopping criteria; removes and returns rows whose criterion raises."""
        decoder = self.decoder
        failed: dict[BatchSlice, Exception] = {}
        for i, row in enumerate(self.rows):
            criterion = row.job.params.stopping_criterion
            if criterion is not None and not decoder.ended[i]:
                drawn = decoder.tokens[i, decoder.begun[i] : decoder.position[i]]
                try:
                    decoder.ended[i] = criterion(drawn)
                except BaseException as error:
                    failed[row] = as_exception(error)
        if failed:
            self._leave(failed)
        return failed

    def _leave(self, rows: Container[BatchSlice]) -> None:
        self._keep([i for i, row in enumerate(self.rows) if row not in rows])
