"""What a replica tells the autoscaler of its work: see serve.autoscaling for what becomes of it."""

import time
from collections.abc import Callable
from typing import Protocol


class Worker(Protocol):
    """What is asked of a batcher."""

    @property
    def work_s(self) -> float:
        """Seconds that the waiting samples will take."""

    @property
    def busy_s(self) -> float:
        """Seconds for which the inference thread ran, since the start."""

    @property
    def running_since_s(self) -> float | None:
        """When the batch now in the thread began, by the monotonic clock; None when idle."""

    @property
    def shed_s(self) -> float:
        """Seconds that the samples refused since the start would have taken."""


IDLE_SHARE = 0.05
"""What health checks and the reports themselves cost the event loop is no work."""


class Load:
    """Differences of a batcher's counters between one report and the next."""

    def __init__(
        self,
        worker: Worker,
        *,
        clock: Callable[[], float] = time.monotonic,
        loop_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`loop_clock` is the processor time of the thread in which report() is called."""
        self._worker = worker
        self._clock = clock
        self._loop_clock = loop_clock
        self._told_s = clock()
        self._busy_s = self._thread_s(self._told_s)
        self._loop_s: float | None = None
        """Unknown until the first report: this object may be made in another thread."""

    def report(self) -> dict[str, float]:
        """`work_s`, `busy` since the last report, `shed_s` since the start. On the event loop.

        Many small requests wear out the event loop long before the inference thread, so the
        busier of the two is what counts.
        """
        now_s = self._clock()
        thread_s, loop_s = self._thread_s(now_s), self._loop_clock()
        seconds = max(now_s - self._told_s, 1e-3)
        inference = (thread_s - self._busy_s) / seconds
        loop = 0.0 if self._loop_s is None else (loop_s - self._loop_s) / seconds
        self._told_s, self._busy_s, self._loop_s = now_s, thread_s, loop_s
        busy = max(inference, loop if loop > IDLE_SHARE else 0.0)
        return {
            "work_s": float(self._worker.work_s),
            "busy": min(max(busy, 0.0), 1.0),
            "shed_s": float(self._worker.shed_s),
        }

    def _thread_s(self, now_s: float) -> float:
        """Seconds for which the thread ran, those of the running batch included."""
        since_s = self._worker.running_since_s
        return self._worker.busy_s + (0.0 if since_s is None else max(0.0, now_s - since_s))
