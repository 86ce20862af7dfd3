"""Samples of many requests run together: requests are split, merged, shed and cancelled here.

    batcher = Batcher(max_queue=8192)
    pixels = await batcher.submit(Job(lane=lane, n=100, draw=draw))

The unit is the sample. While a batch runs in the one inference thread, arriving samples queue up
and form the next batch: nothing lingers when the machine is idle unless asked to, and batches grow
by themselves under load. A lane is one graph; a batch never mixes lanes. Who runs next is decided
in `serve.fair`, when the batch before is done: in the thread, which so never waits for the event
loop while there is work.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from serve.fair import Arrays, Batch, Fair, Job, Lane, Outcome, Piece, Queue
from serve.inference import Ran, is_stepped, run
from serve.pace import Paces, Running, ahead_of

__all__ = [
    "Arrays",
    "Batch",
    "Batcher",
    "ClosedError",
    "DeadlineError",
    "Job",
    "Lane",
    "OverloadedError",
    "Piece",
    "Queue",
    "TooLateError",
]

MAX_RETRY_AFTER_S = 30

TURNS = 4
"""Of the event loop, between batches that it runs itself: a request needs so many from its socket
to the queue, and an outcome fewer to its client's. Else either would wait for the next batches."""

logger = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The queue is full, or too long for a deadline. `retry_after_s` is when to come again."""

    def __init__(self, retry_after_s: int, reason: str = "the queue is full") -> None:
        super().__init__(f"{reason}, try again in {retry_after_s} s")
        self.reason = reason
        self.retry_after_s = retry_after_s


class TooLateError(OverloadedError):
    """The queue is too long for the job's deadline."""


class DeadlineError(Exception):
    """The job's deadline passed before its last samples were taken; they were not run."""

    def __init__(self, n: int) -> None:
        super().__init__(
            f"the deadline passed before all {n} samples were run; ask for fewer or allow more time"
        )


class ClosedError(Exception):
    """The batcher was closed before the job was done."""


class Batcher:
    """Feeds one inference thread; lives on one event loop, where the shortest batches may run.

    `max_wait_s`: while the work that waits would take longer, jobs are refused: max_queue samples
    of a slow graph may be an hour's. An idle batcher takes any job.
    `linger_s`: the longest that a batch that is not full is held back when nothing ran before it,
    for others to join. A job with a deadline is not held back, nor what came with it.
    `inline_s`: batches that are known to take less are run on the event loop, for so long in a row;
    the others there are not kept waiting longer. To wake the thread and to be woken by it costs a
    tenth of a millisecond, and about as much to tell of every step of a text by itself.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        max_wait_s: float = math.inf,
        queue: Queue | None = None,
        linger_s: float = 0.0,
        inline_s: float = 0.0,
        observe_queue: Callable[[int], None] = lambda _: None,
    ) -> None:
        if linger_s < 0:
            raise ValueError(f"linger_s must be at least 0, got {linger_s}")
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._linger_s = linger_s
        self._inline_s = inline_s
        self._observe_queue = observe_queue
        self._queue: Queue = Fair() if queue is None else queue
        self._lock = threading.Lock()
        """Held where the queue, which the thread takes from, is looked at or changed."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._pump: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._running: Running | None = None
        self._paces = Paces()
        self._closed = False
        self.queued = 0
        """Samples waiting, those in the running batch not counted."""
        self.shed_samples = 0
        """Samples of all jobs that were refused with OverloadedError. Only grows."""
        self.busy_s = 0.0
        """Seconds that all batches so far took, the running one not counted. Only grows."""
        self.shed_s = 0.0
        """Seconds that the refused samples would have taken. Only grows."""

    @property
    def running_since_s(self) -> float | None:
        """When the batch now in the thread began, by the monotonic clock; None when idle."""
        running = self._running
        return running.since_s if running else None

    @property
    def work_s(self) -> float:
        """Seconds until all that waits and runs is done, as far as its lanes were measured."""
        running = self._running
        with self._lock:
            ahead = ahead_of(self._queue.waiting, running)
        return self._paces.work_s(ahead, running)

    def seconds_per_sample(self, lane: Lane) -> float:
        """How long a sample of the lane took in its last batches; 0 before the first."""
        return self._paces.seconds_per_sample(lane)

    def wait_s(self, lane: Lane, n: int) -> float:
        """Estimated seconds until the last of `n` further samples of a lane would be taken."""
        running = self._running
        with self._lock:
            ahead = ahead_of(self._queue.waiting, running)
        return self._paces.wait_s(lane, n, ahead, running)

    async def submit(self, job: Job) -> Arrays:
        """Run a job; outputs by name, batch axis first, in the order of its samples.

        Raises OverloadedError at once if its samples do not fit in the queue, would wait there for
        longer than its deadline, or find max_wait_s of work there, DeadlineError when the deadline
        passes before all were taken, ClosedError after close(), ValueError for n < 1, and what the
        job's own draw or run raised. Cancelling it takes its samples out of the queue.
        """
        if self._closed:
            raise ClosedError
        if job.n < 1:
            raise ValueError(f"n must be at least 1, got {job.n}")
        if self.queued + job.n > self._max_queue:
            self._count_shed(job)
            raise OverloadedError(_retry_after_s(self.work_s))
        if self.queued and (work_s := self.work_s) > self._max_wait_s:
            self._count_shed(job)
            reason = f"about {work_s:.0f} s of work wait already"
            raise OverloadedError(_retry_after_s(work_s - self._max_wait_s), reason)
        job.queued_at_s = time.monotonic()
        loop = asyncio.get_running_loop()
        timer = None
        if job.deadline_s is not None:
            slack_s = job.deadline_s - job.queued_at_s
            self._check_deadline(job, slack_s)
            timer = loop.call_later(slack_s, self._expire, job)
        job.done = loop.create_future()
        with self._lock:
            self._queue.push(job)
            self._count(job.n)
        if self._pump is None:
            self._wake(job)
        try:
            return await job.done
        finally:
            if timer is not None:
                timer.cancel()
            self._drop(job)

    def close(self) -> None:
        """Refuse new jobs and fail those that wait; the running batch ends in its thread."""
        self._closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        with self._lock:
            while pieces := self._queue.take():
                self._count(-_new(pieces))
                for piece in pieces:
                    _fail(piece.job, ClosedError())
        self._thread.shutdown(wait=False)

    def _check_deadline(self, job: Job, slack_s: float) -> None:
        if slack_s <= 0:
            raise DeadlineError(job.n)
        wait_s = self.wait_s(job.lane, job.n)
        if wait_s > slack_s:
            self._count_shed(job)
            reason = f"the wait of about {wait_s:.2g} s is longer than the deadline allows"
            raise TooLateError(_retry_after_s(wait_s - slack_s), reason)

    def _wake(self, job: Job) -> None:
        """Run the queue from the next turn of the event loop on, or after lingering."""
        if self._linger_s and job.deadline_s is None:
            with self._lock:
                samples = self._queue.waiting[job.lane].samples
            if samples < job.lane.max_batch:
                if self._lingering is None:
                    loop = asyncio.get_running_loop()
                    self._lingering = loop.call_later(self._linger_s, self._start)
                return
        self._start()

    def _start(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._pump = asyncio.get_running_loop().create_task(self._run_queue())

    async def _run_queue(self) -> None:
        """Run batches until the queue is empty. Ends; the next submit starts it again."""
        loop = asyncio.get_running_loop()
        left: Running | None = None
        until_s = 0.0  # whoever found nothing running is told of the first batch at once
        try:
            while batch := left or self._take(loop):
                left = None
                if not self._is_short(batch):
                    left = await loop.run_in_executor(self._thread, self._run_on, batch, loop)
                    continue
                ran = self._run(batch)
                self._finish(batch, ran)
                if time.monotonic() + ran.seconds > until_s:
                    for _ in range(TURNS):
                        await asyncio.sleep(0)
                    until_s = time.monotonic() + self._inline_s
        finally:
            self._running = None
            self._pump = None

    def _run_on(self, batch: Running, loop: asyncio.AbstractEventLoop) -> Running | None:
        """In the thread: run a batch and what waits by then, up to a short one, which is left."""
        following: Running | None = batch
        while following and not self._is_short(following):
            ran = self._run(following)
            for piece, outcome in zip(ran.pieces, ran.outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self._drop(piece.job)
            loop.call_soon_threadsafe(self._finish, following, ran)
            following = self._take(loop)
        return following

    def _run(self, batch: Running) -> Ran:
        """Run a batch; what needs further runs waits for the next one of its lane."""
        ran = run(batch.lane, batch.pieces)
        with self._lock:
            self._queue.resume(batch.lane, ran.going_on)
            self._running = None
        return ran

    def _is_short(self, batch: Running) -> bool:
        """Whether a batch is known to take less than `inline_s`."""
        return 0 < batch.size * self._paces.seconds_per_run(batch.lane) < self._inline_s

    def _take(self, loop: asyncio.AbstractEventLoop) -> Running | None:
        """The next batch, without the jobs that nobody waits for any more or that are too late.

        Those leave the queue by themselves, but only when the event loop comes round to it.
        """
        while True:
            with self._lock:
                pieces = self._queue.take()
                if new := _new(pieces):
                    self._count(-new)
            now = time.monotonic()
            over = [piece.job for piece in pieces if _is_over(piece, now)]
            for job in over:
                self._drop(job)
                loop.call_soon_threadsafe(_fail, job, DeadlineError(job.n))
            live = [piece for piece in pieces if piece.job not in over]
            if live or not pieces:
                break
        if not live:
            return None
        self._running = Running(
            lane=live[0].job.lane,
            pieces=live,
            size=sum(map(len, live)),
            since_s=now,
            waits_s=_waits_s(live, now),
        )
        return self._running

    def _finish(self, batch: Running, ran: Ran) -> None:
        """Answer those whose samples ran, and count."""
        for piece, outcome in zip(ran.pieces, ran.outcomes, strict=True):
            self._settle(piece, outcome)
        self.busy_s += ran.seconds
        self._paces.add(batch.lane, batch.size, ran.seconds, ran.runs)
        ended = len(ran.runs) if is_stepped(batch.lane) else None
        counted = Batch(size=batch.size, seconds=ran.seconds, waits_s=batch.waits_s, ended=ended)
        try:
            batch.lane.observe(counted)
        except Exception:  # counting must not cost those who wait their samples
            logger.exception("a batch could not be counted")

    def _settle(self, piece: Piece, outcome: Outcome) -> None:
        job = piece.job
        if job.done is None or job.done.done():
            return
        if isinstance(outcome, dict):
            try:
                job.place(piece, outcome)
            except Exception as error:  # a graph whose outputs differ in shape from run to run
                outcome = error
        if job.hear is not None and not isinstance(outcome, Exception):
            job.hear(piece.start, outcome)
        if isinstance(outcome, Exception):
            _fail(job, outcome)
            self._drop(job)
        elif job.placed == job.n:
            job.done.set_result(job.outputs)

    def _expire(self, job: Job) -> None:
        """Its deadline passed. What was wholly taken before is still answered."""
        if job.taken < job.n:
            _fail(job, DeadlineError(job.n))
            self._drop(job)

    def _drop(self, job: Job) -> None:
        """Take what is left of a job out of the queue."""
        with self._lock:
            if job.taken < job.n:
                self._queue.discard(job)
                self._count(job.taken - job.n)
                job.taken = job.n

    def _count_shed(self, job: Job) -> None:
        self.shed_samples += job.n
        self.shed_s += job.n * self.seconds_per_sample(job.lane)

    def _count(self, samples: int) -> None:
        self.queued += samples
        self._observe_queue(self.queued)


def _retry_after_s(wait_s: float) -> int:
    return min(MAX_RETRY_AFTER_S, 1 + int(wait_s))


def _new(pieces: list[Piece]) -> int:
    """How many samples of a batch waited until now."""
    return sum(len(piece) for piece in pieces if not piece.begun)


def _is_over(piece: Piece, now_s: float) -> bool:
    """Whether nobody waits for it, or it is too late to begin with it."""
    job = piece.job
    if job.done is None or job.done.done():
        return True
    return not piece.begun and job.deadline_s is not None and job.deadline_s <= now_s


def _waits_s(pieces: list[Piece], started_s: float) -> tuple[float, ...]:
    """The waits that end with this batch, noted in their jobs."""
    first = [piece.job for piece in pieces if piece.job.waited_s is None]
    for job in first:
        job.waited_s = started_s - job.queued_at_s
    return tuple(started_s - job.queued_at_s for job in first)


def _fail(job: Job, error: Exception) -> None:
    if isinstance(error, StopIteration):  # a future does not take it
        error = RuntimeError(f"the job raised {error!r}")
    if job.done is not None and not job.done.done():
        job.done.set_exception(error)
