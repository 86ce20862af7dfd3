"""Time, quality and restarts of a run, and the record of a start."""

import datetime
import time
from typing import Any

from aigc.training import checkpoint
from aigc.training.quality_log import is_quality


class RunClock:
    """Time, quality and restarts of a run, counted over all starts of the workers."""

    def __init__(self, facts: dict[str, Any], workers: int) -> None:
        """`facts` is trainer.json of the checkpoint resumed from, {} for a new run."""
        self.workers = workers
        self.samples: int = facts.get("samples", 0)
        self.quality: float | None = None
        self.quality_samples: int | None = None
        if is_quality(facts.get("quality")):
            self.quality = facts["quality"]
            self.quality_samples = facts.get("quality_samples", self.samples)
        self.restarts = self.rollbacks = self.lost_samples = 0
        self.saved = time.monotonic()
        self._begun = time.monotonic()
        self._wall: float = facts.get("wall_seconds", 0.0)
        self._worker: float = facts.get("worker_seconds", self._wall * facts.get("workers", 1))

    def take_up(self, measured: dict[int, float]) -> None:
        """Take over the last quality measured, which may be that of the checkpoint itself."""
        if measured:
            self.quality_samples, self.quality = list(measured.items())[-1]

    def wall_seconds(self) -> float:
        """Duration of training, over all restarts."""
        return self._wall + time.monotonic() - self._begun

    def worker_seconds(self) -> float:
        """Wall seconds times workers, over all restarts."""
        return self._worker + (time.monotonic() - self._begun) * self.workers


def start_record(samples: int, workers: int, lost_samples: int) -> dict[str, Any]:
    """Entry of history.jsonl for a start of the workers."""
    return {
        "time": now(),
        "samples": samples,
        "workers": workers,
        "work_lost_samples": lost_samples,
        "environment": checkpoint.environment(),
    }


def now() -> str:
    """UTC, to the second, as history.jsonl has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
