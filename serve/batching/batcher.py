"""Runs samples of many requests together: splits, merges, sheds and cancels requests.

    batcher = Batcher(max_queue=8192)
    outputs = await batcher.submit(Job(runner=runner, params=SamplingParams(n=100), draw=draw))

The unit is the sample. While a batch runs in the one inference thread, arriving samples queue up
and form the next batch: an idle batcher runs a batch at once unless `linger_s` is set, and batches
grow by themselves under load. A batch never mixes runners. `serve.batching.fair_queue` chooses the
next batch when the previous one ends, in the thread, so the thread never waits for the event loop
while there is work.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from aigc.artifact.sampling_inputs import Arrays
from serve.batching.admission import Admission
from serve.batching.batch_runner import BatchResult, run
from serve.batching.fair_queue import FairQueue, Queue
from serve.batching.job_queue import JobQueue
from serve.batching.jobs import (
    BatchSlice,
    BatchStats,
    ClosedError,
    DeadlineError,
    Job,
    Outcome,
    PartialOutput,
    RunTooLongError,
    StuckError,
    as_exception,
    batch_error,
    is_autoregressive,
)
from serve.batching.latency import LatencyEstimator, RunningBatch

TURNS = 4
"""Turns of the event loop between batches that run on it. In this many a request gets from its
socket to the queue, and an outcome to its client; without them both would wait for more batches."""

WATCH_S = 0.5
"""Interval at which the running batch is checked against its time limit."""

logger = logging.getLogger(__name__)


class _QueueError(Exception):
    """The queue itself failed; `jobs` depended on it then."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(f"{len(jobs)} jobs depended on it")
        self.jobs = jobs


class Batcher:
    """Feeds one inference thread; lives on one event loop, which may run the shortest batches.

    `max_queue`: most samples that may wait.
    `max_wait_s`: jobs are refused while more than this much work waits, since max_queue samples of
    a slow graph may take an hour. An idle batcher takes any job.
    `linger_s`: longest wait of a batch that is not full when nothing ran before it. A job with a
    deadline ends the wait.
    `inline_s`: batches measured to be shorter run on the event loop, for at most this long in a
    row: a hand-over to the thread costs 0.1 ms, and reporting each step of a text about as much.
    `observe_queue`: called with the number of waiting samples when it changes.

    An error of a job's own functions, its runner or the queue fails exactly the jobs that it
    concerns, one of an observer none; nothing waits for ever. A batch in the thread that exceeds
    its runner's `max_seconds` is given up, and every other job with it (`is_stuck`).
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
        self._linger_s = linger_s
        self.inline_s = inline_s
        self._complaints: set[str] = set()
        """Messages already logged, each once."""
        self._open: set[Job] = set()
        """Jobs submitted and not answered."""
        self._jobs = JobQueue(FairQueue() if queue is None else queue, observe_queue, self._try)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._queue_task: asyncio.Task[None] | None = None
        """Task of _run_queue(), while it runs."""
        self._lingering: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self.latency = LatencyEstimator()
        self.admission = Admission(self._jobs, self.latency, max_queue, max_wait_s)
        self._busy: tuple[float, float | None] = (0.0, None)
        """Total seconds of ended batches, and the start of the running one."""
        self._closed = False
        self.observe_job: Callable[[Job], None] | None = None
        """Called by the submitting task with each job that is over."""
        self.is_stuck = False
        """True once a batch was given up: its thread is lost, and only a new process helps."""

    @property
    def queued(self) -> int:
        """Number of samples waiting, those of the running batch not counted."""
        return self._jobs.num_samples

    @property
    def shed_s(self) -> float:
        """Total seconds that samples refused with OverloadedError would have taken."""
        return self.admission.shed_s

    @property
    def running_since_s(self) -> float | None:
        """Monotonic time at which the running batch was taken; None when idle."""
        running = self._jobs.running
        return running.since_s if running else None

    @property
    def is_idle(self) -> bool:
        """True when every job is answered and nothing looks for further ones."""
        return self._queue_task is None and not self._open and self._jobs.running is None

    def busy_s(self, now_s: float) -> float:
        """Total seconds of all batches, the running one up to `now_s` by the monotonic clock."""
        ended_s, since_s = self._busy
        return ended_s + (0.0 if since_s is None else max(0.0, now_s - since_s))

    @property
    def work_s(self) -> float:
        """Estimated seconds until all queued and running samples are done."""
        return self.admission.work_s

    async def submit(self, job: Job) -> Arrays:
        """Run a job; outputs by name, batch axis first, in the order of its samples.

        Raises OverloadedError at once if its samples do not fit into the queue or would wait too
        long; DeadlineError when the deadline passes before all have started; ClosedError after
        close(); RunTooLongError if its batch does not end, StuckError if another's does not;
        ValueError for n < 1; and errors of its functions and runner. Cancelling dequeues it.
        """
        timer = None
        try:
            done = self._enter(job)
            if job.deadline_s is not None:
                slack_s = job.deadline_s - time.monotonic()
                timer = asyncio.get_running_loop().call_later(slack_s, self._expire, job)
            return await done
        finally:
            if timer is not None:
                timer.cancel()
            self._open.discard(job)
            self._jobs.drop(job)
            if self.observe_job is not None:
                self._try("a job could not be observed", self.observe_job, job)

    def _enter(self, job: Job) -> "asyncio.Future[Arrays]":
        """Queue a job and have the queue run if it does not. Raises as submit() does."""
        if self.is_stuck:
            raise StuckError
        if self._closed:
            raise ClosedError
        if job.n < 1:
            raise ValueError(f"n must be at least 1, got {job.n}")
        try:
            self.admission.check(job)
        except Exception:
            raise
        except BaseException as error:  # it would look like the end of the caller's own task
            raise as_exception(error) from error
        job.done = done = asyncio.get_running_loop().create_future()
        self._open.add(job)
        try:
            self._jobs.push(job)
            if self._queue_task is None:
                self._wake(job)
        except BaseException as error:
            raise batch_error(error) from error
        return done

    def close(self) -> None:
        """Refuse new jobs and fail those that wait; the running batch ends in its thread."""
        self._closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        if self._watching is not None:
            self._watching.cancel()
        try:
            waiting = self._jobs.drain()
        except BaseException:
            waiting = {*self._open}
        for job in waiting:
            self._fail(job, ClosedError(job=job))
        self._thread.shutdown(wait=False)

    def _wake(self, job: Job) -> None:
        """Run the queue now, or after lingering."""
        lingers = self._linger_s > 0 and job.deadline_s is None
        if not lingers or self._jobs.num_samples_beside(job) >= job.max_batch:
            self._start()
        elif self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self._linger_s, self._start)

    def _start(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        loop = asyncio.get_running_loop()
        self._queue_task = loop.create_task(self._run_queue())
        if self._watching is None:
            self._watching = loop.call_later(WATCH_S, self._watch)

    def _watch(self) -> None:
        """While batches run: give up one that exceeds its runner's time limit."""
        self._watching = None
        running = self._jobs.running
        if running is not None:
            limit_s = running.runner.max_seconds
            if time.monotonic() - running.since_s > limit_s:
                self._give_up(running, limit_s)
                return
        if self._queue_task is not None:
            self._watching = asyncio.get_running_loop().call_later(WATCH_S, self._watch)

    def _give_up(self, running: RunningBatch, limit_s: float) -> None:
        """The thread does not come back: fail its batch and everything that waits for it."""
        self.is_stuck = self._closed = True
        message = (
            f"a run with these samples in it did not end within {limit_s:.3g} s"
            " (limits.max_batch_seconds) and was given up; it is not repeated"
        )
        for job in {part.job: None for part in running.slices}:
            self._fail(job, RunTooLongError(message))
        for job in [*self._open]:
            self._fail(job, StuckError(job))
        self._try("a run could not be asked to end", running.runner.stop)

    async def _run_queue(self) -> None:
        """Run batches until the queue is empty; the next submit() starts this again.

        A job that has no answer when the queue is empty was lost by the queue, and fails.
        """
        loop = asyncio.get_running_loop()
        try:
            unanswered: list[Job] | None = None
            while unanswered is None or unanswered:
                error: BaseException = RuntimeError("the queue has lost the job")
                unanswered = None
                try:
                    await self._run_batches(loop)
                except _QueueError as failure:
                    error, unanswered = failure.__cause__ or failure, failure.jobs
                except asyncio.CancelledError:
                    for job in [*self._open]:
                        self._fail(job, ClosedError(job=job))
                    raise
                except BaseException as failure:
                    error = failure
                unanswered = [*self._open] if unanswered is None else unanswered
                unanswered = [job for job in unanswered if not job.is_done]
                for job in unanswered:
                    self._fail(job, batch_error(error))
        finally:
            self._jobs.running = None
            self._queue_task = None

    async def _run_batches(self, loop: asyncio.AbstractEventLoop) -> None:
        short: RunningBatch | None = None
        yield_at_s = 0.0  # the first batch of an idle batcher is answered at once
        while batch := short or self._take(_call):
            short = None
            if not self._is_short(batch):
                short = await loop.run_in_executor(self._thread, self._run_on, batch, loop)
                continue
            result = self._run(batch)
            self._finish(batch, result)
            if time.monotonic() + result.seconds > yield_at_s:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                yield_at_s = time.monotonic() + self.inline_s

    def _run_on(self, batch: RunningBatch, loop: asyncio.AbstractEventLoop) -> RunningBatch | None:
        """In the thread: run a batch and its successors; returns the first short one, not run."""
        following: RunningBatch | None = batch
        while following and not self._is_short(following):
            result = self._run(following)
            for part, outcome in zip(result.slices, result.outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self._jobs.drop(part.job)
            loop.call_soon_threadsafe(self._finish, following, result)
            following = self._take(loop.call_soon_threadsafe)
        return following

    def _run(self, batch: RunningBatch) -> BatchResult:
        """Run a batch; slices that need further runs go into the next batch of their group."""
        ended_s, _ = self._busy
        started_s = time.monotonic()
        self._busy = ended_s, started_s
        result = run(batch.runner, batch.slices, started_s)
        self._busy = ended_s + result.seconds, None
        try:
            self._jobs.resume(batch.slices[0].job.group, result.continuing)
        except BaseException as error:
            lost = batch_error(error)
            outcomes: list[Outcome] = [
                lost if isinstance(o, PartialOutput) else o for o in result.outcomes
            ]
            result = replace(result, outcomes=outcomes)
        self._jobs.running = None
        return result

    def _is_short(self, batch: RunningBatch) -> bool:
        """True for a batch that is known to take less than `inline_s`."""
        seconds = batch.work * self.latency.seconds_per_run(batch.runner)
        return 0 < seconds < self.inline_s and batch.runner.is_bounded

    def _take(self, call: Callable[..., object]) -> RunningBatch | None:
        """The next batch, without jobs that are answered or whose deadline has passed.

        Those leave the queue by themselves, but only when the event loop comes round to it. `call`
        calls a function on the event loop. Raises _QueueError.
        """
        while True:
            try:
                slices = self._jobs.take()
            except BaseException as error:
                raise _QueueError([*self._open]) from error
            now_s = time.monotonic()
            over = [part.job for part in slices if part.is_over(now_s)]
            for job in over:
                self._jobs.drop(job)
                call(self._fail, job, DeadlineError(job.n))
            live = [part for part in slices if part.job not in over]
            if live or not slices:
                break
        if not live:
            return None
        self._jobs.running = RunningBatch.start(live, now_s)
        return self._jobs.running

    def _finish(self, batch: RunningBatch, result: BatchResult) -> None:
        """Answer the jobs whose samples ran, and count the batch."""
        for part, outcome in zip(result.slices, result.outcomes, strict=True):
            if not part.job.is_done:
                self._settle(part, outcome)
        self._try("a batch could not be counted", self._observe, batch, result)

    def _observe(self, batch: RunningBatch, result: BatchResult) -> None:
        self.latency.add(batch.runner, batch.work, result.seconds, result.steps)
        ended = len(result.steps) if is_autoregressive(batch.runner) else None
        stats = BatchStats(
            size=batch.size, seconds=result.seconds, waits_s=batch.waits_s, ended=ended
        )
        batch.runner.observe(stats)

    def _settle(self, part: BatchSlice, outcome: Outcome) -> None:
        """Give a job the outcome of one of its slices."""
        job = part.job
        if isinstance(outcome, Exception):
            self._fail(job, outcome)
            return
        try:
            if isinstance(outcome, dict):
                job.place(part, outcome)
            if job.on_progress is not None:
                job.on_progress(part.start, outcome)
        except BaseException as error:
            self._fail(job, error)
            return
        if job.placed == job.n and not job.is_done:
            assert job.done is not None
            job.done.set_result(job.outputs)

    def _expire(self, job: Job) -> None:
        """Its deadline passed. A job whose samples have all started is still answered."""
        if job.taken < job.n:
            self._fail(job, DeadlineError(job.n))

    def _fail(self, job: Job, error: BaseException) -> None:
        """Answer a job with an error, unless it has an answer, and drop the rest of it."""
        if not job.is_done:
            assert job.done is not None
            failure = as_exception(error)
            job.done.set_exception(failure)
            if not isinstance(failure, ClosedError | DeadlineError):
                observe = job.runner.observe_failure
                self._try("a failure could not be counted", observe, job, failure)
        self._jobs.drop(job)

    def _try(self, complaint: str, call: Callable[..., object], *arguments: object) -> None:
        """Call an observer. Its error fails no job and is logged once, since it may recur often."""
        try:
            call(*arguments)
        except BaseException:
            if complaint not in self._complaints:
                self._complaints.add(complaint)
                logger.exception("%s; further failures are not logged", complaint)


def _call(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)
