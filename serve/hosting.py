"""The artifacts that a replica hosts, and the lane of each of their signatures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, ArtifactError, Signature
from aigc.artifact.session import Arrays, read_manifest
from aigc.artifact.store import locate, version_order
from serve.batching import Batch, Job, Piece
from serve.metrics import LaneMetrics, Metrics

PIXELS = "pixels"
"""Name of a lane's output when it is an image: (N, H, W, C) uint8."""


class SignatureLane:
    """One signature of one artifact: draws from seeds, runs batches, gives pixels or numbers."""

    def __init__(self, artifact: Artifact, name: str, max_batch: int, metrics: LaneMetrics) -> None:
        self.artifact = artifact
        self.name = name
        self.max_batch = max_batch
        self.metrics = metrics
        self.spec: Signature = artifact.signature(name)
        self.image = next(
            (out for out in self.spec.outputs if out.kind == "image" and out.range is not None),
            None,
        )
        outputs = [self.image] if self.image is not None else list(self.spec.outputs)
        self.values_per_sample = sum(int(np.prod(out.shape)) for out in outputs)
        label = self.spec.label
        self.num_classes = int(label.range[1]) + 1 if label is not None and label.range else None

    @property
    def level(self) -> str:
        """This machine's reproducibility level, measured when the references were replayed."""
        return self.artifact.reproducibility[self.name].level

    def job(self, *, seed: int, first_index: int, n: int, label: int | Sequence[int] | None) -> Job:
        """Samples first_index .. first_index + n - 1 of `seed`."""
        draw = Seeds(lane=self, seed=seed, first_index=first_index, label=label)
        return Job(lane=self, n=n, draw=draw, draw_together=self._draw_together)

    def _draw_together(self, pieces: Sequence[Piece]) -> Arrays:
        """The inputs of pieces of several jobs that job() made."""
        seeds: list[int] = []
        indices: list[int] = []
        labels: list[int | None] = []
        for piece in pieces:
            draw: Seeds = piece.job.draw  # type: ignore[assignment]
            seeds += [draw.seed] * len(piece)
            indices += draw.indices(piece.start, piece.stop)
            labels += draw.labels(piece.start, piece.stop)
        given = None if all(label is None for label in labels) else labels
        return self.artifact.draw(self.name, seeds, indices, given)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One run of the graph; images leave it as uint8 pixels, once for the whole batch."""
        outputs = self.artifact.run(self.name, inputs)
        return outputs if self.image is None else {PIXELS: self.artifact.uint8(self.name, outputs)}

    def observe(self, batch: Batch) -> None:
        self.metrics.observe(batch)


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """How the inputs of a job follow from its seed: its `draw`."""

    lane: SignatureLane
    seed: int
    first_index: int
    label: int | Sequence[int] | None

    def __call__(self, start: int, stop: int) -> Arrays:
        part = self.label if isinstance(self.label, int | None) else self.label[start:stop]
        indices = self.indices(start, stop)
        return self.lane.artifact.draw(self.lane.name, self.seed, indices, part)

    def indices(self, start: int, stop: int) -> range:
        """Of samples start .. stop - 1 within the seed."""
        return range(self.first_index + start, self.first_index + stop)

    def labels(self, start: int, stop: int) -> Sequence[int | None]:
        """What was asked for samples start .. stop - 1."""
        if isinstance(self.label, int | None):
            return [self.label] * (stop - start)
        return self.label[start:stop]


class TensorLane(SignatureLane):
    """The same graph for those who want its images as they leave it, beside the pixels.

    A lane of its own, so that a batch of pixels alone never carries floats along.
    """

    def __init__(self, artifact: Artifact, name: str, max_batch: int, metrics: LaneMetrics) -> None:
        super().__init__(artifact, name, max_batch, metrics)
        self.values_per_sample += sum(int(np.prod(out.shape)) for out in self.spec.outputs)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One run of the graph: every output by its own name, and the image as pixels too."""
        outputs = self.artifact.run(self.name, inputs)
        return {PIXELS: self.artifact.uint8(self.name, outputs), **outputs}


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """One artifact, opened and verified."""

    artifact: Artifact
    lanes: Mapping[str, SignatureLane]
    tensors: Mapping[str, SignatureLane]
    """The lanes that give every output as the graph does; the same lane where it is no image."""

    @property
    def id(self) -> str:
        return self.artifact.id


class Models:
    """The artifacts of a replica by `name` and `name@version`. Never changes: it is replaced."""

    def __init__(self, hosted: Sequence[Hosted], pinned: Mapping[str, str] | None = None) -> None:
        self.all = tuple(sorted(hosted, key=_newest_last))
        self._by_reference: dict[str, Hosted] = {}
        for one in self.all:
            self._by_reference[one.artifact.manifest.name] = one
            self._by_reference[one.id] = one
        for name, version in (pinned or {}).items():
            if f"{name}@{version}" not in self._by_reference:
                raise ArtifactError(f"{name} is pinned to {version}, which is not among the rest")
            self._by_reference[name] = self._by_reference[f"{name}@{version}"]

    @classmethod
    def open(
        cls,
        references: Sequence[str],
        *,
        threads: int,
        max_batch: int,
        metrics: Metrics,
        pinned: Mapping[str, str] | None = None,
        known: Iterable[Hosted] = (),
    ) -> "Models":
        """Open artifacts and replay their references, those already `known` excepted.

        Blocks. Raises ArtifactError.
        """
        opened = {one.artifact.manifest.digest: one for one in known}
        hosted: dict[str, Hosted] = {}
        for reference in references:
            uri = locate(reference)
            one = opened.get(read_manifest(uri).digest) or open_one(
                uri, threads=threads, max_batch=max_batch, metrics=metrics
            )
            hosted[one.id] = one
        return cls(list(hosted.values()), pinned)

    def find(self, reference: str) -> Hosted | None:
        """The artifact called `name@version`, or the newest called `name`."""
        return self._by_reference.get(reference)

    def known(self) -> str:
        """The names to choose from, for messages."""
        return ", ".join(one.id for one in self.all) or "none"


def open_one(uri: str, *, threads: int, max_batch: int, metrics: Metrics) -> Hosted:
    """Open one artifact and replay its references. Blocks. Raises ArtifactError."""
    artifact = Artifact.open(uri, verify=True, threads=threads)
    manifest = artifact.manifest
    lanes = {
        name: SignatureLane(artifact, name, max_batch, metrics.lane(manifest, name))
        for name in manifest.signatures
    }
    tensors = {
        name: lane if lane.image is None else TensorLane(artifact, name, max_batch, lane.metrics)
        for name, lane in lanes.items()
    }
    return Hosted(artifact=artifact, lanes=lanes, tensors=tensors)


def _newest_last(hosted: Hosted) -> tuple[str, tuple[int, ...]]:
    manifest = hosted.artifact.manifest
    return manifest.name, version_order(manifest.version)
