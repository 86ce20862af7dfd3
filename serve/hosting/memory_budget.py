"""Memory budget of a replica: artifacts that would exceed it are refused while they load.

    memory = MemoryBudget(limit_bytes=4 << 30)
    allocation = memory.load("digits@1", weights=9_000_000)   # MemoryLimitError if they cannot fit
    artifact = Artifact.open(uri, verify=False)
    allocation.opened()
    allocation.run_batches(64, run)                           # measures a full batch
    memory.keep(allocation)

Measured is the resident memory of this process. The sizes of a graph's files stand for it until it
is read; a full batch runs only if smaller ones show that it fits.
"""

import resource
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aigc.artifact import ArtifactError

SHARE = 0.8
"""Share of a machine's memory for replicas; the rest is for Ray, the proxy and the system."""

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

GROWTH = 4
"""Factor between the sizes of trial batches."""
CAUTION = 1.5
"""Safety factor on the bytes per sample measured with the last trial batch."""


ASKED_BYTES = 1 << 30
"""Allowance for memory that is requested and unused: thread stacks, and allocators' reserves."""


class MemoryLimitError(ArtifactError):
    """An artifact does not fit; the message has the total and its parts."""


def replica_share(replicas: int) -> int:
    """Bytes for each of `replicas`, should all of them be on this machine."""
    return int(SHARE * machine_bytes()) // max(1, replicas)


def gpu_share(gpus: float, total_bytes: int) -> int:
    """Bytes of a GPU's memory for a replica that has `gpus` of it; 0 are taken for all of it."""
    return int(SHARE * min(1.0, gpus or 1.0) * total_bytes)


def machine_bytes() -> int:
    """Memory of this machine, or of this process's cgroup if that has less."""
    total = int(psutil.virtual_memory().total)
    for file in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max", and there are two kinds of cgroup
            total = min(total, int(file.read_text()))
    return total


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


@dataclass(kw_only=True)
class Allocation:
    """Memory of one artifact."""

    memory: "MemoryBudget"
    name: str
    before: int
    """Resident bytes before loading."""
    weights: int = 0
    """Bytes of its open graphs."""
    arena: int = 0
    """Bytes of running full batches."""
    on_gpu: int = 0
    """Bytes of its graphs, which a GPU holds."""

    def opened(self) -> None:
        """Measure the open graphs. Raises MemoryLimitError."""
        self.weights = max(0, self.memory.resident() - self.before)
        self.memory.check(self, {})

    def run_batches(self, largest: int, run: Callable[[int], object]) -> None:
        """Call `run` with growing batch sizes up to `largest`.

        Raises MemoryLimitError before the first that, judging by its predecessors, would not fit.
        """
        start, already = self.memory.resident(), self.arena
        size, grown, per_sample = 0, 0, 0.0
        while size < largest:
            next_size = min(max(1, size * GROWTH), largest)
            expected = int(CAUTION * per_sample * (next_size - size))
            self.memory.check(self, {f"a batch of {next_size}": expected})
            run(next_size)
            now = max(0, self.memory.resident() - start)
            per_sample = max(0, now - grown) / (next_size - size)
            size, grown = next_size, now
            self.arena = already + grown
        self.memory.check(self, {})


@dataclass(kw_only=True)
class MemoryBudget:
    """Memory budget of one replica. `resident` measures its process, in bytes."""

    limit_bytes: int
    gpu_limit_bytes: int | None = None
    """Bytes of GPU memory for all artifacts together; None without a GPU or a bound."""
    resident: Callable[[], int] = resident_bytes
    enforced: bool = False
    """True to let the system enforce it; GPU drivers request far more than they use."""
    allocations: dict[str, Allocation] = field(default_factory=dict)
    """Allocations by artifact; those of artifacts no longer hosted stay until keep_only()."""

    def load(self, name: str, weights: int) -> Allocation:
        """Begin to load an artifact whose graph files have `weights` bytes.

        Raises MemoryLimitError if they alone do not fit.
        """
        allocation = Allocation(memory=self, name=name, before=self.resident())
        # While a graph is opened, memory holds its file and the graph.
        self.check(allocation, {"weights": weights, "reading them": weights})
        return allocation

    def claim_gpu(self, allocation: Allocation, graphs: int) -> None:
        """Claim GPU memory for graphs of so many bytes, the least that they take there.

        Raises MemoryLimitError if they do not fit beside those of the other artifacts.
        """
        allocation.on_gpu = graphs
        parts = {name: one.on_gpu for name, one in self.allocations.items()}
        parts[allocation.name] = graphs
        limit, total = self.gpu_limit_bytes, sum(parts.values())
        if limit is None or total <= limit:
            return
        listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
        raise MemoryLimitError(
            f"{allocation.name} does not fit on the GPU: with it the graphs of a replica take at"
            f" least {_size(total)} there and may take {_size(limit)} ({listed}); give the pool"
            " more gpu_memory or gpus, or fewer artifacts"
        )

    def keep(self, allocation: Allocation) -> None:
        """Record an artifact that was loaded and will be hosted."""
        self.allocations[allocation.name] = allocation

    def keep_only(self, hosted: Collection[str]) -> None:
        """Drop the allocations of all other artifacts."""
        self.allocations = {
            name: allocation for name, allocation in self.allocations.items() if name in hosted
        }

    def enforce(self) -> None:
        """Have the system limit this process, so that a run that exceeds the budget fails.

        For graphs that take more memory for some values than in their trial. The system counts
        requested pages, so unused ones are allowed for on top.
        """
        info = psutil.Process().memory_info()
        asked = getattr(info, "data", 0)
        if not self.enforced or not asked:  # only Linux reports it
            return
        most = asked + max(0, self.limit_bytes - info.rss) + ASKED_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))

    def check(self, allocation: Allocation, more: Mapping[str, int]) -> None:
        """Raise MemoryLimitError if `more` bytes do not fit beside the resident ones."""
        total = self.resident() + sum(more.values())
        if total <= self.limit_bytes:
            return
        others = [one for name, one in self.allocations.items() if name != allocation.name]
        process = max(0, allocation.before - sum(one.weights + one.arena for one in others))
        own = {"weights": allocation.weights, "full batches": allocation.arena, **more}
        listed = [f"the process {_size(process)}"]
        listed += [f"{one.name} {_size(one.weights + one.arena)}" for one in others]
        listed += [
            f"{allocation.name}'s {what} {_size(size)}" for what, size in own.items() if size
        ]
        raise MemoryLimitError(
            f"{allocation.name} does not fit: with it a replica would hold {_size(total)} and may"
            f" hold {_size(self.limit_bytes)} ({', '.join(listed)}); give the pool more memory,"
            " fewer artifacts or a smaller limits.max_batch"
        )


def _size(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
