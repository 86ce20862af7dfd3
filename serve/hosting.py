"""The artifacts that a replica hosts, and the lane of each of their signatures.

Those of another pool are told of by their manifests; see serve.remote for who runs them.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aigc.artifact import Artifact, ArtifactError
from aigc.artifact.contract import Contract
from aigc.artifact.session import read_manifest
from aigc.artifact.store import locate, version_order
from serve.lane import LocalLane, SignatureLane, SteppedLane, TensorLane
from serve.memory import Memory
from serve.metrics import Metrics


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
        graphs = {signature.graph for signature in manifest.signatures.values()}
        weights = sum(manifest.files[graph].bytes for graph in graphs if graph in manifest.files)
        part = self.memory.load(manifest.id, weights)
        artifact = Artifact.open(uri, verify=False, threads=self.threads)
        part.opened()
        hosted = self._hosted(artifact)
        for name in manifest.offered:
            # The tensor lane gives all that there is, pixels too.
            part.run_batches(self.max_batch, partial(_run_batch, hosted.tensors[name]))
        artifact.verify()
        self.memory.keep(part)
        self.metrics.loaded(manifest, time.perf_counter() - began_s)
        return hosted

    def _hosted(self, artifact: Artifact) -> Hosted:
        manifest = artifact.manifest
        lanes = {
            name: (SteppedLane if artifact.signature(name).step else LocalLane)(
                artifact, name, self.max_batch, self.metrics.lane(manifest, name)
            )
            for name in manifest.offered
        }
        tensors = {
            name: lane
            if lane.image is None
            else TensorLane(artifact, name, self.max_batch, lane.metrics)
            for name, lane in lanes.items()
        }
        return Hosted(artifact=artifact, lanes=lanes, tensors=tensors)


def _run_batch(lane: SignatureLane, size: int) -> None:
    """A batch of nothing: only its size matters. Raises ArtifactError if the graph fails on it.

    Settings have their least value: what goes by steps then takes one.
    """
    assert isinstance(lane, LocalLane)
    inputs = {
        spec.name: np.full(
            (size, *spec.shape),
            spec.range[0] if spec.kind == "setting" and spec.range else 0,
            _NUMPY_TYPES[spec.dtype],
        )
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
