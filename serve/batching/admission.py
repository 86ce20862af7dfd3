"""Admission of jobs to a batcher: those that would wait too long are refused at once."""

import time

from serve.batching.job_queue import JobQueue
from serve.batching.jobs import DeadlineError, Job, OverloadedError, Runner, TooLateError
from serve.batching.latency import LatencyEstimator

MAX_RETRY_AFTER_S = 30


class Admission:
    """Refuses jobs by the length of the queue, its seconds of work, and the job's deadline.

    `max_queue`: most samples that may wait. `max_wait_s`: most work that may wait; an idle batcher
    takes any job.
    """

    def __init__(
        self, jobs: JobQueue, latency: LatencyEstimator, max_queue: int, max_wait_s: float
    ) -> None:
        self._jobs = jobs
        self._latency = latency
        self.max_queue = max_queue
        self._max_wait_s = max_wait_s
        self.shed_samples = 0
        """Total samples refused with OverloadedError."""
        self.shed_s = 0.0
        """Total seconds that they would have taken."""

    def check(self, job: Job) -> None:
        """Raise OverloadedError or DeadlineError if the job may not wait; sets its queue time."""
        if self._jobs.num_samples + job.n > self.max_queue:
            raise self._shed(job, self.work_s, "the queue is full")
        if self._jobs.num_samples and (work_s := self.work_s) > self._max_wait_s:
            reason = f"about {work_s:.0f} s of work wait already"
            raise self._shed(job, work_s - self._max_wait_s, reason)
        job.queued_at_s = time.monotonic()
        if job.deadline_s is not None:
            self._check_deadline(job, job.deadline_s - job.queued_at_s)

    def _check_deadline(self, job: Job, slack_s: float) -> None:
        if slack_s <= 0:
            raise DeadlineError(job.n)
        wait_s = self.wait_s(job.runner, job.n * job.cost)
        if wait_s > slack_s:
            reason = f"the wait of about {wait_s:.2g} s is longer than the deadline allows"
            raise self._shed(job, wait_s - slack_s, reason, TooLateError)

    def _shed(
        self, job: Job, wait_s: float, reason: str, kind: type[OverloadedError] = OverloadedError
    ) -> OverloadedError:
        """Count a refused job; returns the error to raise."""
        self.shed_samples += job.n
        self.shed_s += job.n * job.cost * self._latency.seconds_per_sample(job.runner)
        return kind(min(MAX_RETRY_AFTER_S, 1 + int(wait_s)), reason)

    @property
    def work_s(self) -> float:
        """Estimated seconds until all queued and running samples are done."""
        running = self._jobs.running
        return self._latency.work_s(self._jobs.depth(running), running)

    def wait_s(self, runner: Runner, n: float) -> float:
        """Estimated seconds until the last of `n` further samples of a runner would start.

        Samples of free sizes count by their cost.
        """
        running = self._jobs.running
        return self._latency.wait_s(runner, n, self._jobs.depth(running), running)
