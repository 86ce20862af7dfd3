"""The jobs of a batcher: a queue behind a lock, its number of samples, and the running batch."""

import threading
from collections.abc import Callable

from serve.batching.fair_queue import Queue
from serve.batching.jobs import BatchSlice, Group, Job, Runner
from serve.batching.latency import QueueDepth, RunningBatch, queue_depth


class JobQueue:
    """Shared by the event loop, which adds and drops jobs, and the thread, which takes batches.

    `observe`: called with the number of waiting samples when it changes. `attempt`: calls a
    function whose errors must not fail jobs, with a message for the log.
    """

    def __init__(
        self, queue: Queue, observe: Callable[[int], None], attempt: Callable[..., None]
    ) -> None:
        self._queue = queue
        self._observe = observe
        self._attempt = attempt
        self._lock = threading.Lock()
        self.running: RunningBatch | None = None
        """The batch that was taken last, until it ends."""
        self.num_samples = 0
        """Number of samples waiting, those of the running batch not counted."""

    def push(self, job: Job) -> None:
        """Add a job."""
        with self._lock:
            self._queue.push(job)
            job.waiting = job.n
            self._count(job.n)

    def take(self) -> list[BatchSlice]:
        """The slices of the next batch; none if nothing waits."""
        with self._lock:
            slices = self._queue.take()
            taken = 0
            for part in slices:
                if not part.begun and part.job.waiting:
                    new = min(len(part), part.job.waiting)
                    part.job.waiting -= new
                    taken += new
            if taken:
                self._count(-taken)
        return slices

    def resume(self, group: Group, slices: list[BatchSlice]) -> None:
        """Put slices of the previous batch into the next one of their group."""
        with self._lock:
            self._queue.resume(group, slices)

    def drop(self, job: Job) -> None:
        """Remove the rest of a job."""
        with self._lock:
            if job.taken < job.n:
                message = "a job could not be taken out of the queue"
                self._attempt(message, self._queue.discard, job)
                job.taken = job.n
            if job.waiting:
                self._count(-job.waiting)
                job.waiting = 0

    def drain(self) -> set[Job]:
        """Remove and return all jobs that wait."""
        jobs: set[Job] = set()
        with self._lock:
            while slices := self._queue.take():
                jobs |= {part.job for part in slices}
        return jobs

    def num_samples_beside(self, job: Job) -> int:
        """Number of samples waiting in the group of a job, its own included."""
        with self._lock:
            return self._queue.waiting[job.group].samples

    def depth(self, running: RunningBatch | None) -> dict[Runner, QueueDepth]:
        """Load by runner."""
        with self._lock:
            return queue_depth(self._queue.waiting, running)

    def _count(self, samples: int) -> None:
        self.num_samples += samples
        self._attempt("the queue could not be counted", self._observe, self.num_samples)
