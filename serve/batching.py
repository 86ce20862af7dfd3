"""Samples of many requests run together: requests are split, merged, shed and cancelled here.

    batcher = Batcher(max_queue=8192)
    pixels = await batcher.submit(Job(lane=lane, n=100, draw=draw))

The unit is the sample. While a batch runs in the one inference thread, arriving samples queue up
and form the next batch: nothing lingers when the machine is idle, and batches grow by themselves
under load. A lane is one graph; a batch never mixes lanes.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

logger = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The queue is full. `retry_after_s` is when it may have room again."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The batcher was closed before the job was done."""


class Lane(Protocol):
    """A graph that takes batches."""

    @property
    def max_batch(self) -> int:
        """Most samples per run."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs with a batch axis first -> outputs with the same batch axis. In a thread."""

    def observe(self, batch: "Batch") -> None:
        """Told of every batch that ran, on the event loop: here metrics are counted."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One request: `n` samples of a lane."""

    lane: Lane
    n: int
    draw: Callable[[int, int], Arrays]
    """(start, stop) -> the inputs of samples start .. stop - 1 of this job. Runs in the thread."""
    taken: int = 0
    """Samples that went into a batch already."""
    parts: list[Arrays] = field(default_factory=list)
    queued_at_s: float = 0.0
    waited_s: float | None = None
    """From submission to the first batch, by the monotonic clock."""
    done: "asyncio.Future[Arrays] | None" = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Samples start .. stop - 1 of a job, in one batch."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that ran: its size, how long the thread took, and the waits that ended with it."""

    size: int
    seconds: float
    waits_s: tuple[float, ...]


class Queue(Protocol):
    """Which samples run next. Another order is another class with these three methods."""

    def push(self, job: Job) -> None:
        """Append a job."""

    def take(self) -> list[Piece]:
        """The next batch: pieces of one lane, at most its max_batch samples. Empty if none."""

    def discard(self, job: Job) -> None:
        """Forget the samples of a job that were not taken yet."""


class Fifo:
    """First come, first served; later jobs of the same lane fill the batch."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def push(self, job: Job) -> None:
        self._jobs.append(job)

    def take(self) -> list[Piece]:
        if not self._jobs:
            return []
        lane = self._jobs[0].lane
        room = lane.max_batch
        pieces: list[Piece] = []
        passed: list[Job] = []
        while self._jobs and room:
            job = self._jobs.popleft()
            if job.lane is not lane:
                passed.append(job)
                continue
            stop = min(job.n, job.taken + room)
            pieces.append(Piece(job=job, start=job.taken, stop=stop))
            room -= stop - job.taken
            job.taken = stop
            if stop < job.n:
                self._jobs.appendleft(job)
        self._jobs.extendleft(reversed(passed))
        return pieces

    def discard(self, job: Job) -> None:
        if job.taken < job.n and job in self._jobs:
            self._jobs.remove(job)


class Batcher:
    """Feeds one inference thread; lives on one event loop."""

    def __init__(
        self,
        *,
        max_queue: int,
        queue: Queue | None = None,
        observe_queue: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._max_queue = max_queue
        self._observe_queue = observe_queue
        self._queue: Queue = queue or Fifo()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._samples_per_s = 0.0
        self.queued = 0
        """Samples waiting, those in the running batch not counted."""
        self.running_since_s: float | None = None
        """When the batch now in the thread began, by the monotonic clock; None when idle."""
        self.busy_s = 0.0
        """Seconds that all batches so far took, the running one not counted. Only grows."""
        self.shed_s = 0.0
        """Seconds that the samples refused so far would have taken. Only grows."""

    @property
    def work_s(self) -> float:
        """Seconds that the waiting samples will take, by the pace of the last batches."""
        return self.queued * self._seconds_per_sample()

    def _seconds_per_sample(self) -> float:
        """0 before the first batch."""
        return 1 / self._samples_per_s if self._samples_per_s else 0.0

    async def submit(self, job: Job) -> Arrays:
        """Run a job; outputs by name, batch axis first, in the order of its samples.

        Raises OverloadedError at once if its samples do not fit in the queue, ClosedError after
        close(), and what the job's own draw or run raised. Cancelling it takes its samples out of
        the queue.
        """
        if self._closed:
            raise ClosedError
        if self.queued + job.n > self._max_queue:
            self.shed_s += job.n * self._seconds_per_sample()
            raise OverloadedError(self._retry_after_s())
        job.done = asyncio.get_running_loop().create_future()
        job.queued_at_s = time.monotonic()
        self._queue.push(job)
        self._count(job.n)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run_queue())
        try:
            return await job.done
        finally:
            self._drop(job)

    def close(self) -> None:
        """Refuse new jobs and fail those that wait; the running batch ends in its thread."""
        self._closed = True
        while pieces := self._queue.take():
            for piece in pieces:
                self._count(piece.start - piece.stop)
                _fail(piece.job, ClosedError())
        self._thread.shutdown(wait=False)

    async def _run_queue(self) -> None:
        """Run batches until the queue is empty. Ends; the next submit starts it again."""
        loop = asyncio.get_running_loop()
        try:
            while pieces := self._queue.take():
                size = sum(piece.stop - piece.start for piece in pieces)
                self._count(-size)
                started = self.running_since_s = time.monotonic()
                waits = []
                for piece in pieces:
                    if piece.job.waited_s is None:
                        piece.job.waited_s = started - piece.job.queued_at_s
                        waits.append(piece.job.waited_s)
                lane = pieces[0].job.lane
                outcomes, seconds = await loop.run_in_executor(self._thread, _run, lane, pieces)
                self.running_since_s = None
                for piece, outcome in zip(pieces, outcomes, strict=True):
                    self._settle(piece, outcome)
                self.busy_s += seconds
                rate = size / max(seconds, 1e-6)
                weight = 0.2 if self._samples_per_s else 1.0
                self._samples_per_s += weight * (rate - self._samples_per_s)
                try:
                    lane.observe(Batch(size=size, seconds=seconds, waits_s=tuple(waits)))
                except Exception:  # counting must not cost those who wait their samples
                    logger.exception("a batch could not be counted")
        finally:
            self.running_since_s = None
            self._pump = None

    def _settle(self, piece: Piece, outcome: Arrays | Exception) -> None:
        job = piece.job
        if isinstance(outcome, Exception):
            _fail(job, outcome)
            self._drop(job)
            return
        job.parts.append(outcome)
        if piece.stop == job.n and job.done is not None and not job.done.done():
            job.done.set_result(_concatenate(job.parts))

    def _drop(self, job: Job) -> None:
        """Take what is left of a job out of the queue."""
        if job.taken < job.n:
            self._queue.discard(job)
            self._count(job.taken - job.n)
            job.taken = job.n

    def _count(self, samples: int) -> None:
        self.queued += samples
        self._observe_queue(self.queued)

    def _retry_after_s(self) -> int:
        return min(30, 1 + int(self.queued / max(self._samples_per_s, 1.0)))


def _fail(job: Job, error: Exception) -> None:
    if job.done is not None and not job.done.done():
        job.done.set_exception(error)


def _concatenate(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(lane: Lane, pieces: list[Piece]) -> tuple[list[Arrays | Exception], float]:
    """In the thread: draw each piece, run them together; an error is the outcome of its piece."""
    started = time.monotonic()
    drawn: list[Arrays | Exception] = []
    for piece in pieces:
        try:
            drawn.append(piece.job.draw(piece.start, piece.stop))
        except Exception as error:
            drawn.append(error)
    good = [inputs for inputs in drawn if not isinstance(inputs, Exception)]
    ran: list[Arrays | Exception] = _run_together(lane, good) if good else []
    outcomes = iter(ran)
    answer = [inputs if isinstance(inputs, Exception) else next(outcomes) for inputs in drawn]
    return answer, time.monotonic() - started


def _run_together(lane: Lane, drawn: list[Arrays]) -> list[Arrays | Exception]:
    """One run for all; when it fails, one for each, so that the fault stays with its own piece."""
    sizes = [len(next(iter(inputs.values()))) for inputs in drawn]
    try:
        outputs = lane.run(_concatenate(drawn))
        if any(len(array) != sum(sizes) for array in outputs.values()):
            raise RuntimeError("the graph changed the size of the batch")
    except Exception as error:
        if len(drawn) == 1:
            return [error]
        return [outcome for inputs in drawn for outcome in _run_together(lane, [inputs])]
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
