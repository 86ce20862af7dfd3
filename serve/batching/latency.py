"""Latency estimates from measured batches: queue waits, and the work that is queued.

latency = LatencyEstimator()
latency.add(runner, 64, seconds)                   # after every batch
depth = queue_depth(queue.waiting, running)
latency.work_s(depth, running)                     # seconds of all queued and running work
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from serve.batching.fair_queue import Waiting, batches_ahead
from serve.batching.jobs import BatchSlice, Group, Runner, is_autoregressive, runner_of

WEIGHT = 0.2
"""Weight of the newest batch in the moving averages."""


@dataclass(frozen=True, kw_only=True)
class RunningBatch:
    """A batch that was taken from the queue."""

    runner: Runner
    slices: list[BatchSlice]
    size: int
    """Number of samples."""
    work: float
    """Their cost together, in samples of the runner's usual size."""
    since_s: float
    """Monotonic time at which it was taken."""
    waits_s: tuple[float, ...]
    """Queue waits of the jobs whose first batch this is."""

    @classmethod
    def start(cls, slices: list[BatchSlice], now_s: float) -> "RunningBatch":
        """A batch taken now; notes the waits that it ends in their jobs."""
        first = [part.job for part in slices if part.job.waited_s is None]
        for job in first:
            job.waited_s = now_s - job.queued_at_s
        return cls(
            runner=slices[0].job.runner,
            slices=slices,
            size=sum(map(len, slices)),
            work=sum(len(part) * part.job.cost for part in slices),
            since_s=now_s,
            waits_s=tuple(now_s - job.queued_at_s for job in first),
        )


@dataclass(frozen=True, kw_only=True)
class QueueDepth:
    """Load of one runner."""

    jobs: int = 0
    """Jobs waiting."""
    samples: float = 0
    """Samples waiting, by their cost."""
    continuing: int = 0
    """Samples that have begun and need further steps."""


@dataclass(kw_only=True)
class LatencyEstimate:
    """Seconds per sample of one runner.

    Size and duration are averaged over batches separately (exponential moving averages): averaging
    their ratio would let many small batches, which cost more per sample, outweigh the large ones
    that a queue produces.
    """

    seconds: float = 0.0
    """Average duration of a batch."""
    samples: float = 0.0
    """Average size of a batch; samples count by their cost."""
    steps: float = 0.0
    """Average number of steps of an autoregressive sample; 0 for others."""

    def add(self, size: float, seconds: float, steps: Sequence[int] = ()) -> None:
        """Add a batch of `size` samples, and the steps of each that ended with it.

        Samples of several steps lengthen the averaging window as much: otherwise the last rows of
        a text batch, which cost the most, would soon be all that counts.
        """
        weight = WEIGHT / (self.steps or 1.0) if self.samples else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self.samples += weight * (size - self.samples)
        for count in steps:
            self.steps += (WEIGHT if self.steps else 1.0) * (count - self.steps)

    @property
    def seconds_per_run(self) -> float:
        """A sample's share of one run of the graph; 0 before the first batch."""
        return self.seconds / self.samples if self.samples else 0.0

    @property
    def seconds_per_sample(self) -> float:
        """A sample's share of all its runs; 0 before the first batch."""
        return self.seconds_per_run * (self.steps or 1.0)


@dataclass
class LatencyEstimator:
    """Latency estimates of all runners."""

    by_runner: WeakKeyDictionary[Runner, LatencyEstimate] = field(default_factory=WeakKeyDictionary)

    def add(self, runner: Runner, size: float, seconds: float, steps: Sequence[int] = ()) -> None:
        """Add a batch; see LatencyEstimate.add()."""
        self.by_runner.setdefault(runner, LatencyEstimate()).add(size, seconds, steps)

    def seconds_per_sample(self, runner: Runner) -> float:
        """Seconds per sample in the runner's last batches; 0 before the first."""
        estimate = self.by_runner.get(runner)
        return estimate.seconds_per_sample if estimate is not None else 0.0

    def seconds_per_run(self, runner: Runner) -> float:
        """A sample's share of one run of the runner's graph; 0 before the first."""
        estimate = self.by_runner.get(runner)
        return estimate.seconds_per_run if estimate is not None else 0.0

    def rest_s(self, running: RunningBatch | None) -> float:
        """Seconds until the running batch should end."""
        if running is None:
            return 0.0
        whole_s = running.work * self.seconds_per_run(running.runner)
        return max(0.0, running.since_s + whole_s - time.monotonic())

    def work_s(self, depth: Mapping[Runner, QueueDepth], running: RunningBatch | None) -> float:
        """Seconds until all queued and running samples are done; unmeasured runners count 0.

        A continuing sample counts half: on average half of its steps are done.
        """
        return self.rest_s(running) + sum(
            (each.samples + each.continuing / 2) * self.seconds_per_sample(runner)
            for runner, each in depth.items()
        )

    def wait_s(
        self,
        runner: Runner,
        n: float,
        depth: Mapping[Runner, QueueDepth],
        running: RunningBatch | None,
    ) -> float:
        """Estimated seconds until the last of `n` further samples of a runner would start.

        Counts the work that would run before it, not all that is queued: a small request passes a
        large one. Unmeasured runners count 0. Samples of free sizes count by their cost, so a size
        that was never run before takes as long as its cost says.
        """
        own = depth.get(runner, QueueDepth())
        before = min(own.samples + n, n * (own.jobs + 1))
        if is_autoregressive(runner):  # a place becomes free when a sample ends
            lacking = max(0, before + own.continuing - runner.max_batch)
            batches = 1 + lacking
            wait_s = lacking * self.seconds_per_sample(runner)
        else:
            all_of_it = -(-(own.samples + n) // runner.max_batch)
            batches = min(all_of_it, batches_ahead(n, own.jobs + 1, runner.max_batch))
            wait_s = self.seconds_per_sample(runner) * (batches - 1) * runner.max_batch
        for other, each in depth.items():
            if other is not runner:
                rows = min(each.samples + each.continuing, batches * other.max_batch)
                wait_s += self.seconds_per_run(other) * rows
        return self.rest_s(running) + wait_s


def queue_depth(
    waiting: Mapping[Group, Waiting], running: RunningBatch | None
) -> dict[Runner, QueueDepth]:
    """Load by runner. A running autoregressive batch counts as continuing."""
    depth: dict[Runner, QueueDepth] = {}
    for group, each in waiting.items():
        runner = runner_of(group)
        before = depth.get(runner, QueueDepth())
        depth[runner] = QueueDepth(
            jobs=before.jobs + len(each.jobs),
            samples=before.samples + each.samples * each.cost,
            continuing=before.continuing + len(each.continuing),
        )
    if running is not None and is_autoregressive(running.runner):
        before = depth.get(running.runner, QueueDepth())
        depth[running.runner] = replace(before, continuing=before.continuing + running.size)
    return depth
