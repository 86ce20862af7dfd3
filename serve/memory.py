"""What a replica holds in memory, measured while it loads, and refused before it is too much.

    memory = Memory(limit_bytes=4 << 30)
    part = memory.load("digits@1", weights=9_000_000)   # MemoryLimitError if those cannot fit
    artifact = Artifact.open(uri, verify=False)
    part.opened()
    part.run_batches(64, run)                           # what a full batch takes
    memory.keep(part)

Counted is the resident memory of this process. Before a graph is read its files' sizes stand for
it; a full batch is run only if what smaller ones took says that it fits.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aigc.artifact import ArtifactError

SHARE = 0.8
"""Of a machine's memory for replicas; the rest is Ray's, the proxy's and the system's."""

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

GROWTH = 4
"""A batch that is tried is so many times the one before it."""
CAUTION = 1.5
"""Samples are expected to take so many times what those of the last step took, each."""


class MemoryLimitError(ArtifactError):
    """An artifact does not fit; the message has the sum and its parts."""


def share(replicas: int) -> int:
    """Bytes for each of so many replicas, should they all be on this machine."""
    return int(SHARE * machine_bytes()) // max(1, replicas)


def machine_bytes() -> int:
    """Of this machine, or of the cgroup that this process is in."""
    total = int(psutil.virtual_memory().total)
    for file in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max", and there are two kinds of cgroup
            total = min(total, int(file.read_text()))
    return total


def resident_bytes() -> int:
    """Of this process, now."""
    return int(psutil.Process().memory_info().rss)


@dataclass(kw_only=True)
class Part:
    """What an artifact takes."""

    memory: "Memory"
    name: str
    before: int
    """Resident bytes before it was loaded."""
    weights: int = 0
    """Bytes that its open graphs took."""
    arena: int = 0
    """Bytes that running full batches took."""

    def opened(self) -> None:
        """The graphs are open: what they took is known. Raises MemoryLimitError for too much."""
        self.weights = max(0, self.memory.resident() - self.before)
        self.memory.check(self, {})

    def run_batches(self, largest: int, run: Callable[[int], object]) -> None:
        """Call `run` with growing batch sizes up to `largest`.

        Raises MemoryLimitError before the first that would be too much, as those before tell.
        """
        start, already = self.memory.resident(), self.arena
        size, grown, per_sample = 0, 0, 0.0
        while size < largest:
            following = min(max(1, size * GROWTH), largest)
            expected = int(CAUTION * per_sample * (following - size))
            self.memory.check(self, {f"a batch of {following}": expected})
            run(following)
            now = max(0, self.memory.resident() - start)
            per_sample = max(0, now - grown) / (following - size)
            size, grown = following, now
            self.arena = already + grown
        self.memory.check(self, {})


@dataclass(kw_only=True)
class Memory:
    """The bound of one replica. `resident` tells what its process has, in bytes."""

    limit_bytes: int
    resident: Callable[[], int] = resident_bytes
    parts: dict[str, Part] = field(default_factory=dict)
    """What was loaded, by artifact; what is no longer hosted stays until keep_only()."""

    def load(self, name: str, weights: int) -> Part:
        """Begin to load an artifact whose graphs' files have so many bytes.

        Raises MemoryLimitError if they alone are too much.
        """
        part = Part(memory=self, name=name, before=self.resident())
        # While a graph is opened, its file and what is made of it are in memory together.
        self.check(part, {"weights": weights, "reading them": weights})
        return part

    def keep(self, part: Part) -> None:
        """It is loaded and will be hosted."""
        self.parts[part.name] = part

    def keep_only(self, hosted: Collection[str]) -> None:
        """What else was loaded is no longer hosted."""
        self.parts = {name: part for name, part in self.parts.items() if name in hosted}

    def check(self, part: Part, more: Mapping[str, int]) -> None:
        """Raise MemoryLimitError if `more` bytes beside what is resident are too much."""
        total = self.resident() + sum(more.values())
        if total <= self.limit_bytes:
            return
        others = [one for name, one in self.parts.items() if name != part.name]
        process = max(0, part.before - sum(one.weights + one.arena for one in others))
        own = {"weights": part.weights, "full batches": part.arena, **more}
        shown = [f"the process {_size(process)}"]
        shown += [f"{one.name} {_size(one.weights + one.arena)}" for one in others]
        shown += [f"{part.name}'s {what} {_size(size)}" for what, size in own.items() if size]
        raise MemoryLimitError(
            f"{part.name} does not fit: with it a replica would hold {_size(total)} and may hold"
            f" {_size(self.limit_bytes)} ({', '.join(shown)}); give the pool more memory, fewer"
            " artifacts or a smaller limits.max_batch"
        )


def _size(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
