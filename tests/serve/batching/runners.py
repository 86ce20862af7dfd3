"""Runners and queues that show what a batcher does with them."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from fractions import Fraction
from functools import wraps
from typing import Any

import numpy as np

from aigc.artifact.sampling_inputs import Arrays
from serve.batching.fair_queue import FairQueue, Waiting
from serve.batching.jobs import (
    BatchSlice,
    BatchStats,
    Job,
    Runner,
)
from serve.sampling_params import SamplingParams

HELD_S = 10.0
"""A thread held for longer lets go: a test that fails must end, and so must its process."""


class Doubler(Runner):
    """A runner that doubles; refuses the numbers named, may be held."""

    def __init__(self, max_batch: int = 4, bad: frozenset[int] = frozenset()) -> None:
        self.max_batch = max_batch
        self.bad = bad
        self.open = threading.Event()
        self.open.set()
        self.batches: list[list[int]] = []
        self.observed: list[BatchStats] = []

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        assert self.open.wait(HELD_S), "nobody let the batch through"
        numbers = inputs["x"]
        if self.bad & set(numbers.tolist()):
            raise ValueError("bad number")
        self.batches.append(numbers.tolist())
        return {"y": numbers * 2}

    def observe(self, batch: BatchStats) -> None:
        self.observed.append(batch)

    def job(self, first: int, n: int) -> Job:
        return Job(
            runner=self,
            params=SamplingParams(n=n),
            draw=lambda a, b: {"x": np.arange(first + a, first + b)},
        )


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on an event loop of its own."""

    @wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


async def settled(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not predicate():
            await asyncio.sleep(0.001)


class Equal:
    """A runner whose jobs all get the same at any time, in exact fractions of samples."""

    def __init__(self) -> None:
        self.left: dict[Job, Fraction] = {}
        self.each = Fraction(0)
        """Share of a job that was there from the start."""

    def leave(self, job: Job, unused: int) -> None:
        """A job goes; what it got counts as its share."""
        if self.left.get(job, 0) > unused:
            self.left[job] -= unused
        else:
            self.left.pop(job, None)

    def serve(self, samples: Fraction) -> set[Job]:
        """Jobs that are done when so many samples were shared out."""
        done: set[Job] = set()
        while self.left:
            step = min(min(self.left.values()), samples / len(self.left))
            samples -= step * len(self.left)
            self.each += step
            self.left = {job: left - step for job, left in self.left.items()}
            over = {job for job, left in self.left.items() if not left}
            if not over:
                break
            done |= over
            self.left = {job: left for job, left in self.left.items() if job not in over}
        return done


class Watched(FairQueue):
    """The queue under test: beside one that shares equally, and with what its bounds speak of."""

    def __init__(self, eldest_share: float = 0.25) -> None:
        super().__init__(eldest_share)
        self.share = eldest_share
        self.equal: defaultdict[Runner, Equal] = defaultdict(Equal)
        self.behind: Counter[Job] = Counter()
        """Samples that waited in its runner when it came, its own among them."""
        self.since: Counter[Job] = Counter()
        """Samples that were taken in its runner since then, while it waited."""
        self.late: set[Job] = set()
        """Jobs that were not done when they should have been."""
        self.taken_at_s: dict[tuple[Job, int], float] = {}
        """A moment before the take of each sample, by the monotonic clock."""

    def push(self, job: Job) -> None:
        super().push(job)
        self.equal[job.runner].left[job] = Fraction(job.n)
        self.behind[job] = self.waiting[job.runner].samples

    def take(self) -> list[BatchSlice]:
        now = time.monotonic()
        before = {runner: set(waiting.jobs) for runner, waiting in self.waiting.items()}
        slices = super().take()
        for part in slices:
            self.taken_at_s |= {(part.job, i): now for i in range(part.start, part.stop)}
        if slices:
            runner, taken = slices[0].job.runner, sum(map(len, slices))
            done = self.equal[runner].serve(Fraction(taken))
            unfinished = {job for job in before[runner] if job.taken < job.n}
            if not self.share:
                self.late |= done & unfinished
            for job in unfinished if self.share else ():
                self.since[job] += taken
                if self.since[job] > self.behind[job] / self.share + runner.max_batch:
                    self.late.add(job)
            self._forget(runner)
        return slices

    def discard(self, job: Job) -> None:
        if job in self.waiting.get(job.runner, Waiting()).jobs:
            self.equal[job.runner].leave(job, job.n - job.taken)
        super().discard(job)
        self._forget(job.runner)

    def _forget(self, runner: Runner) -> None:
        if runner not in self.waiting:
            self.equal.pop(runner, None)
