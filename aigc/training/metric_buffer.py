"""Losses and metrics of the batches: read from the device late, checked, averaged for reports."""

from collections import deque

import torch

from aigc.training.divergence import DivergenceMonitor
from aigc.training.step import StepMetrics

Values = dict[str, float]


class MetricBuffer:
    """Losses and metrics of the batches: read from the device `lag` batches late, averaged."""

    def __init__(self, monitor: DivergenceMonitor, num_totals: int, lag: int) -> None:
        self.stopped = False
        self._monitor, self._lag = monitor, lag
        self._totals = [_Mean() for _ in range(num_totals)]
        self._queue: deque[tuple[int, StepMetrics, torch.cuda.Event | None]] = deque()

    def add(self, samples: int, report: StepMetrics) -> None:
        """Add the metrics of a batch that began at `samples`. Raises Diverged."""
        copied = None
        if self._lag:
            report = [(names, values.to("cpu", non_blocking=True)) for names, values in report]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._queue.append((samples, report, copied))
        while len(self._queue) > self._lag:
            self._read()

    def read_all(self) -> None:
        """Read everything that was added. Raises Diverged."""
        while self._queue:
            self._read()

    def take(self, number: int) -> Values:
        """Means since the last call with this number."""
        return self._totals[number].take()

    def _read(self) -> None:
        samples, report, copied = self._queue.popleft()
        if copied is not None:
            copied.synchronize()
        values: Values = {}
        for names, tensor in report:
            values |= zip(names, tensor.tolist(), strict=True)
        self.stopped |= values.pop("run/stop") > 0
        self._monitor.observe(samples, values)
        for total in self._totals:
            total.add(values)


class _Mean:
    """Running means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Values) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def take(self) -> Values:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means
