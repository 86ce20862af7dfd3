"""The artifacts that a replica hosts, with a runner for each of their signatures.

Models of another pool are known by their manifests; serve.hosting.pool_client runs them.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar

from aigc.artifact import Artifact, ArtifactError, Signature
from aigc.artifact.folder import Contents, SealedFolder
from aigc.artifact.outputs import ValuesError
from aigc.artifact.providers import ProviderOptions, Taken
from aigc.artifact.sampling_inputs import ArtifactSpec
from aigc.artifact.signing import Trust
from aigc.artifact.store import locate, version_order
from aigc.artifact.trial import Bounds, least, try_out
from serve.batching.batch_runner import RowsError
from serve.batching.batcher import Batcher
from serve.hosting.memory_budget import Allocation, MemoryBudget
from serve.hosting.runner import AutoregressiveRunner, LocalRunner, SignatureRunner, TensorRunner
from serve.hosting.time_limit import within
from serve.metrics import Metrics

T = TypeVar("T")
KnownProvider = Taken | Literal["unknown"]
"""An execution provider; unknown of another pool that leaves the choice to its replicas, until one
has started."""

LOAD_S = 300.0
"""Default limit for loading an artifact."""

LONGEST_S, SLOWER = 60.0, 20.0
"""A batch is given up after the larger of LONGEST_S and SLOWER times the duration of a full one at
load: a machine that swaps or is crowded slows down, but not by that much."""


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """One artifact: opened and verified here, or known by its manifest and run by another pool."""

    artifact: ArtifactSpec
    runners: Mapping[str, SignatureRunner]
    """Runners by signature; images leave them as pixels."""
    tensors: Mapping[str, SignatureRunner]
    """Runners that also give images as the graph does; the same runner where there are none."""
    pool: str | None = None
    """The other pool whose replicas run it; None for this replica."""
    find_provider: Callable[[], KnownProvider]
    """Function that gives `provider`, which another pool may not have reported yet."""

    @property
    def provider(self) -> KnownProvider:
        """Execution provider that runs it."""
        return self.find_provider()

    @property
    def id(self) -> str:
        return self.artifact.id

    @property
    def digest(self) -> str:
        return self.artifact.manifest.digest


class HostedModels:
    """Artifacts by `name` and `name@version`. Immutable: it is replaced."""

    def __init__(
        self, hosted: Sequence[HostedModel], pinned: Mapping[str, str] | None = None
    ) -> None:
        self.all = tuple(sorted(hosted, key=_newest_last))
        self._by_reference: dict[str, HostedModel] = {}
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
        loader: "ModelLoader",
        *,
        pinned: Mapping[str, str] | None = None,
        known: Iterable[HostedModel] = (),
    ) -> "HostedModels":
        """Open artifacts and replay their references, except for those already `known`.

        Blocks. Raises ArtifactError.
        """
        opened = {one.digest: one for one in known if one.pool is None}
        hosted: dict[str, HostedModel] = {}
        for reference in references:
            folder = loader.locate(reference)
            one = opened.get(folder.manifest.digest) or loader.open(folder.uri)
            hosted[one.id] = one
        return cls(list(hosted.values()), pinned)

    def find(self, reference: str) -> HostedModel | None:
        """The artifact called `name@version`, or the newest called `name`."""
        return self._by_reference.get(reference)

    def known(self) -> str:
        """The names to choose from, for messages."""
        return ", ".join(one.id for one in self.all) or "none"


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Opens artifacts within the memory of a replica and within a time."""

    threads: int
    max_batch: int
    provider: ProviderOptions = field(default_factory=ProviderOptions)
    """Execution provider of the artifacts."""
    max_batch_seconds: float | None = None
    """Seconds after which a batch is given up; None for longest_s() of a full one."""
    memory: MemoryBudget
    metrics: Metrics
    batcher: Batcher
    """Batcher of the runners."""
    seconds: float = LOAD_S
    """Time limit for loading one artifact."""
    trust: Trust | None = None
    """Signers of which an artifact must have a signature; None for none."""
    apart: bool = False
    """True to try each artifact in a process of its own first, with the memory that is left."""
    tried: dict[str, int] = field(default_factory=dict)
    """Bytes of memory with which an artifact passed its trial, by digest."""

    def open(self, uri: str) -> HostedModel:
        """Open an artifact and replay its references. Blocks. Raises ArtifactError."""
        began_s = time.perf_counter()
        hosted, allocation = self._in_time(uri, self._open, uri)
        # Not in the thread: an artifact that exceeded its time must not count as loaded.
        self.memory.keep(allocation)
        self.memory.enforce()
        self.metrics.loaded(hosted.artifact.manifest, time.perf_counter() - began_s)
        return hosted

    def locate(self, reference: str) -> SealedFolder:
        """The artifact's folder, its signature checked. Blocks. Raises ArtifactError."""
        return self._in_time(reference, lambda: SealedFolder.open(locate(reference), self.trust))

    def _in_time(self, reference: str, work: Callable[..., T], *args: object) -> T:
        """Run `work` within the time limit. Raises ArtifactError after it."""
        try:
            return within(self.seconds, work, *args)
        except TimeoutError:
            raise ArtifactError(
                f"{reference} was not loaded within {self.seconds:.0f} s; check that its store"
                " answers, or raise limits.max_load_seconds"
            ) from None

    def _open(self, uri: str) -> tuple[HostedModel, Allocation]:
        began_s = time.perf_counter()
        folder = SealedFolder.open(uri, self.trust)
        folder = replace(folder, until_s=time.monotonic() + self.seconds)
        manifest = folder.manifest
        allocation = self.memory.load(manifest.id, folder.model_bytes)
        graphs, checked = folder.graphs()
        beside = folder.outside_bytes(checked)
        self.memory.check(allocation, {"weights outside of its graphs": 2 * beside})
        self.memory.claim_gpu(allocation, sum(map(len, graphs.values())) + beside)
        contents = folder.contents(graphs, checked)
        folder.check()
        if self.apart:
            # One second less, so that the error says what took too long.
            left_s = self.seconds - (time.perf_counter() - began_s) - 1
            memory_bytes = self.memory.limit_bytes - allocation.before
            self._try_out(folder, contents, memory_bytes, left_s)
        artifact = Artifact(manifest, uri, contents, self.threads, options=self.provider)
        del graphs, contents
        allocation.opened()
        runners, tensors = self._runners(artifact)
        for name in manifest.offered:
            # The tensor runner gives all outputs, pixels too.
            runner, took_s = tensors[name], list[float]()
            spec = runner.spec
            # The largest first: what does not fit is refused before the rest takes time.
            for sizes in (spec.largest, spec.sizes({})) if spec.axes else ({},):
                run = partial(_run_batch, runner, spec.at(sizes), took_s)
                allocation.run_batches(spec.max_batch(sizes, self.max_batch), run)
            for each in (runner, runners[name]):
                each.max_seconds = self.max_batch_seconds or longest_s(max(took_s))
        artifact.verify()
        hosted = HostedModel(
            artifact=artifact,
            runners=runners,
            tensors=tensors,
            find_provider=lambda: artifact.provider,
        )
        return hosted, allocation

    def _try_out(
        self, folder: SealedFolder, contents: Contents, memory_bytes: int, seconds: float
    ) -> None:
        """Raise ArtifactError unless it loads within these bounds, or did before with less."""
        digest = folder.manifest.digest
        if self.tried.get(digest, math.inf) <= memory_bytes:
            return
        bounds = Bounds(
            memory_bytes=max(0, memory_bytes),
            seconds=max(1.0, seconds),
            threads=self.threads,
            max_batch=self.max_batch,
        )
        try_out(folder.manifest_bytes, contents, bounds)
        self.tried[digest] = memory_bytes

    def _runners(self, artifact: Artifact) -> tuple[dict[str, LocalRunner], dict[str, LocalRunner]]:
        """Runners and tensor runners by signature."""
        manifest = artifact.manifest
        runners: dict[str, LocalRunner] = {
            name: (AutoregressiveRunner if artifact.signature(name).step else LocalRunner)(
                artifact, name, self.max_batch, self.metrics.runner(manifest, name), self.batcher
            )
            for name in manifest.offered
        }
        tensors = {
            name: runner
            if runner.image is None
            else TensorRunner(artifact, name, self.max_batch, runner.metrics, self.batcher)
            for name, runner in runners.items()
        }
        return runners, tensors


def longest_s(measured_s: float) -> float:
    """Time limit of a batch that took `measured_s` when its model was loaded."""
    return max(LONGEST_S, SLOWER * measured_s)


def _run_batch(runner: LocalRunner, spec: Signature, took_s: list[float], size: int) -> None:
    """Run a dummy batch to measure memory and time. Raises ArtifactError if the graph fails."""
    began_s = time.perf_counter()
    try:
        runner.run(least(spec, size))
    except (RowsError, ValuesError):  # dummy inputs may have invalid outputs
        pass
    except Exception as error:  # onnxruntime raises types without a common base
        message = f"{runner.artifact.id}: a batch of {size} of {runner.name!r} fails: {error}"
        raise ArtifactError(message) from error
    took_s.append(time.perf_counter() - began_s)


def _newest_last(hosted: HostedModel) -> tuple[str, tuple[int, ...]]:
    manifest = hosted.artifact.manifest
    return manifest.name, version_order(manifest.version)
