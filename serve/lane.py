"""One signature of one artifact: what dialects look at, and how samples of it are run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, Signature
from aigc.artifact.contract import Arrays, Contract
from aigc.artifact.manifest import Level
from aigc.artifact.steps import PREFIX
from serve.batching import Batch, Job, Piece
from serve.fair import GoesOn, Outcome, Until
from serve.metrics import LaneMetrics
from serve.settings import Limits

PIXELS = "pixels"
"""Name of a lane's output when it is an image: (N, H, W, C) uint8."""

Choices = Mapping[str, float | Sequence[float]]
"""What a signature lets a caller choose, for all samples or for each."""


class SignatureLane:
    """One signature of one artifact, as far as its contract goes: all that dialects look at."""

    limits: Limits | None = None
    """Of its pool, if that is another one than the replica's that was asked."""
    replica: str | None = None
    """Which one ran its samples, if not the one that was asked."""

    def __init__(self, artifact: Contract, name: str, max_batch: int, metrics: LaneMetrics) -> None:
        self.artifact = artifact
        self.name = name
        self.max_batch = max_batch
        self.metrics = metrics
        self.spec: Signature = artifact.signature(name)
        self.image = next(
            (out for out in self.spec.outputs if out.kind == "image" and out.range is not None),
            None,
        )
        self.values_per_sample = sum(int(np.prod(out.shape)) for out in self.spec.outputs)
        label = self.spec.label
        self.num_classes = int(label.range[1]) + 1 if label is not None and label.range else None

    @property
    def level(self) -> Level:
        """The reproducibility level of the machine, measured when the references were replayed."""
        return self.artifact.reproducibility[self.name].level


class LocalLane(SignatureLane):
    """One signature that this replica runs: draws from seeds, gives pixels or numbers."""

    artifact: Artifact

    def job(
        self,
        *,
        seed: int,
        first_index: int,
        n: int,
        label: int | Sequence[int] | None,
        settings: Choices | None = None,
        prefix: NDArray[np.int64] | None = None,
        until: Until | None = None,
        deadline_s: float | None = None,
    ) -> Job:
        """Samples first_index .. first_index + n - 1 of `seed`.

        Where they go by steps, `prefix` (n, L) is how they begin, and `until` says whether what was
        drawn of one after that is enough.
        """
        draw = Seeds(
            lane=self,
            seed=seed,
            first_index=first_index,
            label=label,
            settings=settings or {},
            prefix=prefix,
        )
        return Job(
            lane=self,
            n=n,
            draw=draw,
            draw_together=self._draw_together,
            until=until,
            deadline_s=deadline_s,
        )

    def _draw_together(self, pieces: Sequence[Piece]) -> Arrays:
        """The inputs of pieces of several jobs that job() made."""
        parts = [(_seeds(piece), piece.start, piece.stop) for piece in pieces]
        seeds = [draw.seed for draw, start, stop in parts for _ in range(start, stop)]
        indices = [index for draw, *span in parts for index in draw.indices(*span)]
        labels = [label for draw, *span in parts for label in draw.labels(*span)]
        given = None if all(label is None for label in labels) else labels
        names = {name for draw, *_ in parts for name in draw.settings}
        settings = {
            name: [value for draw, *span in parts for value in draw.setting(name, *span)]
            for name in names
        }
        inputs = self.artifact.draw(self.name, seeds, indices, given, settings)
        if any(draw.prefix is not None for draw, *_ in parts):
            inputs[PREFIX] = np.concatenate([draw.begin(*span) for draw, *span in parts])
        return inputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One run of the graph; images leave it as uint8 pixels, once for the whole batch."""
        outputs = self.artifact.run(self.name, inputs)
        if self.image is None:
            return outputs
        pixels = self.artifact.uint8(self.name, outputs)
        return {PIXELS: pixels} | {k: v for k, v in outputs.items() if k != self.image.name}

    def observe(self, batch: Batch) -> None:
        self.metrics.observe(batch)


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """How the inputs of a job follow from its seed: its `draw`."""

    lane: SignatureLane
    seed: int
    first_index: int
    label: int | Sequence[int] | None
    settings: Choices = field(default_factory=dict)
    prefix: NDArray[np.int64] | None = None

    def __call__(self, start: int, stop: int) -> Arrays:
        part = self.label if isinstance(self.label, int | None) else self.label[start:stop]
        settings = {name: self.setting(name, start, stop) for name in self.settings}
        inputs = self.lane.artifact.draw(
            self.lane.name, self.seed, self.indices(start, stop), part, settings
        )
        if self.prefix is not None:
            inputs[PREFIX] = self.begin(start, stop)
        return inputs

    def indices(self, start: int, stop: int) -> range:
        """Of samples start .. stop - 1 within the seed."""
        return range(self.first_index + start, self.first_index + stop)

    def labels(self, start: int, stop: int) -> Sequence[int | None]:
        """What was asked for samples start .. stop - 1."""
        if isinstance(self.label, int | None):
            return [self.label] * (stop - start)
        return self.label[start:stop]

    def setting(self, name: str, start: int, stop: int) -> Sequence[float]:
        """That of samples start .. stop - 1, its default where none was asked for."""
        value = self.settings.get(name)
        if value is None:
            value = next(s.default for s in self.lane.spec.inputs if s.name == name)
        if isinstance(value, int | float):
            return [value] * (stop - start)
        assert value is not None
        return value[start:stop]

    def begin(self, start: int, stop: int) -> NDArray[np.int64]:
        """How samples start .. stop - 1 begin, (stop - start, L); zeros where nothing was said."""
        if self.prefix is not None:
            return self.prefix[start:stop]
        return np.zeros((stop - start, *self.lane.spec.outputs[0].shape), np.int64)


def _seeds(piece: Piece) -> Seeds:
    """The draw of a job that LocalLane.job() made."""
    draw = piece.job.draw
    assert isinstance(draw, Seeds)
    return draw


class TensorLane(LocalLane):
    """The same graph for those who want its images as they leave it, beside the pixels.

    A lane of its own, so that a batch of pixels alone never carries floats along.
    """

    def __init__(self, artifact: Artifact, name: str, max_batch: int, metrics: LaneMetrics) -> None:
        super().__init__(artifact, name, max_batch, metrics)
        if self.image is not None:
            self.values_per_sample += int(np.prod(self.image.shape))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One run of the graph: every output by its own name, and the image as pixels too."""
        outputs = self.artifact.run(self.name, inputs)
        return {PIXELS: self.artifact.uint8(self.name, outputs), **outputs}


class SteppedLane(LocalLane):
    """A signature that goes by steps. Its rows begin, go on and end at different times."""

    def __init__(self, artifact: Artifact, name: str, max_batch: int, metrics: LaneMetrics) -> None:
        super().__init__(artifact, name, max_batch, metrics)
        self._rows: list[Piece] = []
        """Of one sample each."""
        self._writing = artifact.writing(name)
        """What they have come to, in the same order."""

    def keep(self, rows: Sequence[Piece]) -> None:
        """Only these of the rows are still wanted."""
        if len(rows) < len(self._rows):
            wanted = {(piece.job, piece.start) for piece in rows}
            stay = [(piece.job, piece.start) in wanted for piece in self._rows]
            self._keep([i for i, stays in enumerate(stay) if stays])

    def _keep(self, rows: list[int]) -> None:
        self._rows = [self._rows[i] for i in rows]
        self._writing.keep(rows)

    def join(self, rows: Sequence[Piece], inputs: Arrays) -> None:
        """Pieces of one sample each begin. Raises ValueError, and nothing has changed then."""
        self._writing.join([self.artifact.checked(self.name, inputs)])
        self._rows += rows

    def advance(self) -> tuple[list[Piece], list[Outcome], list[int]]:
        """A step of all rows: what came of each, and how many steps those took that left."""
        failed = self._step()
        writing, rows = self._writing, self._rows
        self._end_early()
        name = self.spec.outputs[0].name
        ended = writing.ended.tolist()
        outcomes: list[Outcome] = [
            {name: writing.tokens[i : i + 1].copy()}
            if end
            else GoesOn(part=writing.tokens[i, : int(at)])
            for i, (end, at) in enumerate(zip(ended, writing.position, strict=True))
        ]
        took = writing.position[writing.ended].tolist()
        if any(ended):
            self._keep([i for i, end in enumerate(ended) if not end])
        return [*rows, *failed], [*outcomes, *failed.values()], took

    def _step(self) -> dict[Piece, Exception]:
        """One step; rows on which the graph fails alone leave, and the others take it."""
        failed: dict[Piece, Exception] = {}
        try:
            if self._rows:
                self._writing.advance()
        except Exception:
            for i in range(len(self._rows)):
                try:
                    self._writing.copy([i]).advance()
                except Exception as error:
                    failed[self._rows[i]] = error
            self._keep([i for i, row in enumerate(self._rows) if row not in failed])
            try:
                if self._rows:
                    self._writing.advance()
            except Exception as error:  # each alone would do, together they do not
                failed |= dict.fromkeys(self._rows, error)
                self._keep([])
        return failed

    def _end_early(self) -> None:
        """End the rows of which their jobs have enough."""
        writing = self._writing
        for i, row in enumerate(self._rows):
            if row.job.until is not None and not writing.ended[i]:
                drawn = writing.tokens[i, writing.begun[i] : writing.position[i]]
                writing.ended[i] = row.job.until(drawn)
