"""Surroundings of a run on one worker: store, lease, stop condition and listeners."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aigc.training.object_store import RunStore


@dataclass(frozen=True)
class RunReport:
    """One line of metrics.jsonl, and what a progress bar shows."""

    samples: int
    samples_per_second: float
    wall_seconds: float
    """Since the run began, over all restarts."""
    values: dict[str, float]
    """Losses and metrics, `phase/name`: means over all workers since the previous report."""
    host: dict[str, float] = field(default_factory=dict)
    """Values that depend on the machine: data_wait (share of the time), rows_skipped,
    checkpoint_age_s, checkpoint_failures, workers, and cost where a price is given."""
    quality_samples: int | None = None
    """Samples seen when the quality among the values was measured; None without one."""
    quality_note: str = ""
    """Reason to doubt that quality."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The store of a run, its lease, its listeners and its stop condition.

    context = RunContext(store=NullStore(folder), on_report=progress.show)
    train_run(context, config, source)
    """

    store: RunStore
    check_lease: Callable[[], None] = lambda: None
    """Raises LeaseLost once another driver trains the run."""
    stop: Callable[[int], bool] = lambda samples: False
    """Called with the samples seen, after every batch; true ends the run with a checkpoint."""
    on_report: Callable[[RunReport], None] = lambda report: None
    on_workers: Callable[[int], None] = lambda workers: None
    """Called with the number of workers that begin, and with 0 when none is left."""
    lost_samples: int = 0
    """Samples of work that the last restart cost."""

    @property
    def folder(self) -> Path:
        """The working folder."""
        return self.store.folder

    def publish(self, checkpoint: Path) -> None:
        """Publish a whole checkpoint. Raises LeaseLost if the run is another driver's now."""
        self.check_lease()
        self.store.publish(checkpoint, self.check_lease)
