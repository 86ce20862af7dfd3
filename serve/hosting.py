"""The artifacts that a replica hosts, and the lane of each of their signatures.

Those of another pool are told of by their manifests; see serve.remote for who runs them.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, ArtifactError, Signature
from aigc.artifact.contract import Arrays, Contract
from aigc.artifact.manifest import Level
from aigc.artifact.session import read_manifest
from aigc.artifact.store import locate, version_order
from serve.batching import Batch, Job, Piece
from serve.memory import Memory
from serve.metrics import LaneMetrics, Metrics
from serve.settings import Limits

PIXELS = "pixels"
"""Name of a lane's output when it is an image: (N, H, W, C) uint8."""


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
        deadline_s: float | None = None,
    ) -> Job:
        """Samples first_index .. first_index + n - 1 of `seed`."""
        draw = Seeds(lane=self, seed=seed, first_index=first_index, label=label)
        return Job(
            lane=self, n=n, draw=draw, draw_together=self._draw_together, deadline_s=deadline_s
        )

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


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """One artifact: opened and verified here, or told of by its manifest and run elsewhere."""

    artifact: Contract
    lanes: Mapping[str, SignatureLane]
    tensors: Mapping[str, SignatureLane]
    """The lanes that give every output as the graph does; the same lane where it is no image."""
    pool: str | None = None
    """The other pool whose replicas run it; None for this replica's own."""

    @property
    def id(self) -> str:
        return self.artifact.id

    @property
    def digest(self) -> str:
        return self.artifact.manifest.digest


class Models:
    """Artifacts by `name` and `name@version`. Never changes: it is replaced."""

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
        loader: "Loader",
        *,
        pinned: Mapping[str, str] | None = None,
        known: Iterable[Hosted] = (),
    ) -> "Models":
        """Open artifacts and replay their references, those already `known` excepted.

        Blocks. Raises ArtifactError.
        """
        opened = {one.digest: one for one in known if one.pool is None}
        hosted: dict[str, Hosted] = {}
        for reference in references:
            uri = locate(reference)
            one = opened.get(read_manifest(uri).digest) or loader.open(uri)
            hosted[one.id] = one
        return cls(list(hosted.values()), pinned)

    def find(self, reference: str) -> Hosted | None:
        """The artifact called `name@version`, or the newest called `name`."""
        return self._by_reference.get(reference)

    def known(self) -> str:
        """The names to choose from, for messages."""
        return ", ".join(one.id for one in self.all) or "none"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Opens artifacts as the replicas of a pool do, within their memory."""

    threads: int
    max_batch: int
    memory: Memory
    metrics: Metrics

    def open(self, uri: str) -> Hosted:
        """One artifact, its references replayed. Blocks. Raises ArtifactError."""
        began_s = time.perf_counter()
        manifest = read_manifest(uri)
        if any(signature.step for signature in manifest.signatures.values()):
            raise ArtifactError(
                f"{manifest.id} has a graph that is run step by step, which is not served yet;"
                " `aigc sample` draws from it"
            )
        graphs = {signature.graph for signature in manifest.signatures.values()}
        weights = sum(manifest.files[graph].bytes for graph in graphs if graph in manifest.files)
        part = self.memory.load(manifest.id, weights)
        artifact = Artifact.open(uri, verify=False, threads=self.threads)
        part.opened()
        hosted = self._hosted(artifact)
        for name in manifest.signatures:
            # The tensor lane gives all that there is, pixels too.
            part.run_batches(self.max_batch, partial(_run_batch, hosted.tensors[name]))
        artifact.verify()
        self.memory.keep(part)
        self.metrics.loaded(manifest, time.perf_counter() - began_s)
        return hosted

    def _hosted(self, artifact: Artifact) -> Hosted:
        manifest = artifact.manifest
        lanes = {
            name: LocalLane(artifact, name, self.max_batch, self.metrics.lane(manifest, name))
            for name in manifest.signatures
        }
        tensors = {
            name: lane
            if lane.image is None
            else TensorLane(artifact, name, self.max_batch, lane.metrics)
            for name, lane in lanes.items()
        }
        return Hosted(artifact=artifact, lanes=lanes, tensors=tensors)


def _run_batch(lane: SignatureLane, size: int) -> None:
    """A batch of nothing: only its size matters. Raises ArtifactError if the graph fails on it."""
    assert isinstance(lane, LocalLane)
    inputs = {
        spec.name: np.zeros((size, *spec.shape), _NUMPY_TYPES[spec.dtype])
        for spec in lane.spec.inputs
    }
    try:
        lane.run(inputs)
    except Exception as error:  # onnxruntime raises types without a common base
        message = f"{lane.artifact.id}: a batch of {size} of {lane.name!r} fails: {error}"
        raise ArtifactError(message) from error


_NUMPY_TYPES = {"float32": np.float32, "int64": np.int64}


def _newest_last(hosted: Hosted) -> tuple[str, tuple[int, ...]]:
    manifest = hosted.artifact.manifest
    return manifest.name, version_order(manifest.version)
