"""Checkpoints, quality, reports and pictures of a run while it trains, written by rank 0.

Nothing here changes what is trained, and nothing here ends a run: what cannot be computed or
written is left out with a warning.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from aigc.artifact import image_files
from aigc.config import TrainConfig
from aigc.data import Source
from aigc.files import append_line, write
from aigc.rng import BatchRNG
from aigc.training import checkpoint, tensorboard
from aigc.training.dataloader import batch_of
from aigc.training.evaluator import Measurement
from aigc.training.held_out import HeldOut
from aigc.training.loop import Outcome, PeriodicAction
from aigc.training.metric_buffer import Values
from aigc.training.pictures import picture
from aigc.training.quality_log import (
    append_quality,
    last_metric,
    last_note,
    read_quality,
)
from aigc.training.ratings import Ratings
from aigc.training.run_clock import RunClock, now
from aigc.training.run_context import RunContext, RunReport
from aigc.training.run_folder import CHECKPOINTS, GRIDS, HISTORY, METRICS, RULE, unmeasured
from aigc.training.state import TrainState
from aigc.training.stopping import Decision, decide

log = logging.getLogger(__name__)

HISTOGRAM_ROWS = 64
AFTER = "a rule had ended the run"
WAIT_S = 5.0
"""Maximum time that a checkpoint waits for the report of its samples to be published with it."""


class Reporter:
    """Writes metrics, grids, quality and checkpoints into the run's folder. Rank 0 only.

    reporter = Reporter(context, config, source, clock)
    train(config, state, source, periodic_actions(config, reporter))
    reporter.close()
    """

    def __init__(
        self, context: RunContext, config: TrainConfig, source: Source, clock: RunClock
    ) -> None:
        self.context, self.config, self.source, self.clock = context, config, source, clock
        self.folder = context.folder
        self.mark = (time.monotonic(), clock.samples)
        """Time and samples of the last report."""
        self.quality, self.quality_samples = clock.quality, clock.quality_samples
        self.quality_note = last_note(self.folder)
        self.quality_metric = last_metric(self.folder) or config.quality.partition("@")[0]
        self.quality_metric = self.quality_metric or "frechet"  # as earlier versions had it
        self.skipped = 0.0
        self.collapsed = False
        self.failing: set[str] = set()
        self.last_snapshot = -1
        """Samples of the last snapshot."""
        self.reported = threading.Event()
        """Set unless a report of the last snapshot's samples is still to come."""
        self.fingerprint = source.fingerprint()
        self.event_file = tensorboard.EventFile(self.folder, clock.samples)
        self.measured = read_quality(self.folder)
        self.unrecorded: deque[Measurement] = deque()
        """Measurements that could not be written into quality.jsonl yet."""
        self.decision = decide(config, self.measured, self.quality_metric)
        """The end of the run by a rule; None until there is one."""
        self.held_out = HeldOut(config, source)
        self.last_report: RunReport | None = None
        self.ratings = Ratings(self.folder, config, self._rate)
        self.writer = checkpoint.Writer(
            self.folder / CHECKPOINTS, config.keep_checkpoints, self._publish
        )

    def _publish(self, path: Path) -> None:
        """Publish a checkpoint that is whole on the disk, with the report of its samples."""
        self.ratings.written(path)
        self.reported.wait(WAIT_S)
        self.context.publish(path)
        self.clock.saved = time.monotonic()  # a checkpoint that could not be published is not saved

    @contextmanager
    def _continue_without(self, what: str) -> Iterator[None]:
        """Turn an error in the block into a warning, once until `what` works again."""
        try:
            yield
        except Exception as error:
            if what not in self.failing:
                message = " ".join(str(error).split()) or type(error).__name__
                log.warning("training goes on without %s: %s", what, message)
            self.failing.add(what)
        else:
            self.failing.discard(what)

    def report(self, state: TrainState, values: Values) -> None:
        """Write a line of metrics.jsonl and TensorBoard scalars, and pass the report on."""
        at, (then, samples) = time.monotonic(), self.mark
        self.mark = at, state.samples
        elapsed = max(at - then, 1e-9)
        batches = (state.samples - samples) / self.config.batch
        self.skipped += values.pop("data/skipped") * batches
        waited = values.pop("data/wait_s") * batches
        reason = state.model.collapsed(values)
        if reason and not self.collapsed:
            log.warning("after %d samples: %s", state.samples, reason)
        self.collapsed = bool(reason)
        report = self._with_quality(
            RunReport(
                state.samples,
                round((state.samples - samples) / elapsed, 2),
                round(self.clock.wall_seconds(), 3),
                values,
                self._host(waited / elapsed),
            )
        )
        self.last_report = report
        with self._continue_without("the report in metrics.jsonl"):
            append_line(self.folder / METRICS, asdict(report))
        with self._continue_without("TensorBoard's report"):
            self.event_file.add(state.samples, tensorboard.scalars(values | report.host))
        self.reported.set()
        with self._continue_without("the report to whoever watches"):
            self.context.on_report(report)

    def _with_quality(self, report: RunReport) -> RunReport:
        """The report with the last quality measured, if there is one."""
        if self.quality is None:
            return report
        return replace(
            report,
            values=report.values | {self._quality_key: self.quality},
            quality_samples=self.quality_samples,
            quality_note=self.quality_note,
        )

    @property
    def _quality_key(self) -> str:
        return f"quality/{self.quality_metric.partition('/')[0]}"

    def _host(self, waited: float) -> dict[str, float]:
        host = {
            "workers": float(self.clock.workers),
            "data_wait": round(waited, 4),
            "rows_skipped": self.skipped,
            "checkpoint_age_s": round(time.monotonic() - self.clock.saved, 1),
            "checkpoint_failures": float(self.writer.failures),
            "restarts": float(self.clock.restarts),
            "rollbacks": float(self.clock.rollbacks),
            "work_lost_samples": float(self.clock.lost_samples),
        }
        if self.config.price_per_worker_hour:
            host["cost"] = round(self.cost(), 6)
        return host

    def cost(self) -> float:
        """Cost of the run so far, over all restarts."""
        return self.clock.worker_seconds() / 3600 * self.config.price_per_worker_hour

    def grid(self, state: TrainState, values: Values) -> None:
        """Write a picture of samples, and histograms of the model's outputs on real rows."""
        with self._continue_without("the grid of samples"):
            shown = picture(state.ema_model(), self.held_out.images)
            if shown is not None:
                folder = self.folder / GRIDS
                folder.mkdir(exist_ok=True)
                write(folder / f"{state.samples:012d}.png", image_files.png(shown))
                self.event_file.add(state.samples, [tensorboard.picture("samples", shown)])
        with self._continue_without("the histograms"):
            outputs = distributions(self.config, state, self.source)
            if outputs:
                summaries = [tensorboard.histogram(name, x) for name, x in outputs.items()]
                self.event_file.add(state.samples, summaries)

    def evaluate(self, state: TrainState, values: Values) -> None:
        """Save the state: the quality of its averaged weights is measured beside the run."""
        self.checkpoint(state, values)

    def _rate(self, found: Measurement) -> None:
        """Record a measurement, with the samples that it belongs to.

        Those after the decision of a rule would not be there if it had come at once.
        """
        if self.decision is not None:
            return
        self.unrecorded.append(found)
        self._record()
        if found.quality is None:
            return
        self.quality, self.quality_samples = found.quality, found.samples
        self.quality_note, self.quality_metric = found.note, found.metric
        with self._continue_without("TensorBoard's quality"):
            scalars = tensorboard.scalars({self._quality_key: found.quality})
            self.event_file.add(found.samples, scalars)
        self.measured[found.samples] = found.quality
        self.decision = decide(self.config, self.measured, found.metric)

    def _record(self) -> None:
        """Append what is not in quality.jsonl yet, such as what came while the disk was full: the
        checkpoint of a measurement without a line there is kept, and measured again on resume."""
        with self._continue_without("the record of quality"):
            while self.unrecorded:
                found = self.unrecorded[0]
                append_quality(
                    self.folder, found.samples, found.quality, found.note, metric=found.metric
                )
                self.unrecorded.popleft()

    def stop(self, samples: int) -> bool:
        """True if the run is to stop after the next batch; called before each of them."""
        self.ratings.poll()
        return self.decision is not None or self.context.stop(samples)

    def finish(self, outcome: Outcome, samples: int) -> Outcome:
        """Wait for the last measurements of a run that is done; the wait is bounded.

        Returns `done` for a run that a rule ends.
        """
        self.reported.set()
        self.writer.finish()
        if outcome == "done":
            self.ratings.finish(lambda: self.decision is not None or self.context.stop(samples))
        self._record()
        if self.decision is not None:
            self._end_by_rule(self.decision, samples)
            outcome = "done"
        if outcome == "done":
            with self._continue_without("pruning"):
                self._prune()
            if self.last_report and self.quality_samples != self.last_report.quality_samples:
                with self._continue_without("the report to whoever watches"):
                    self.context.on_report(self._with_quality(self.last_report))
        return outcome

    def _prune(self) -> None:
        """Delete checkpoints that were kept until they were measured."""
        folder = self.folder / CHECKPOINTS
        if checkpoint.prune(folder, self.config.keep_checkpoints):
            self.context.check_lease()
            self.context.store.prune(path.name for path in folder.iterdir())

    def _end_by_rule(self, decision: Decision, samples: int) -> None:
        log.warning(
            "stopped by %s: %s; the best checkpoint is of %d samples, the run trained on to %d"
            " meanwhile",
            decision.rule,
            decision.reason,
            decision.best,
            samples,
        )
        with self._continue_without("the record of the rule"):
            note = {"event": RULE, "trained": samples}
            append_line(self.folder / HISTORY, {"time": now()} | note | asdict(decision))
            for path in unmeasured(self.folder / CHECKPOINTS):
                append_quality(self.folder, int(path.name), None, AFTER)

    def checkpoint(self, state: TrainState, values: Values) -> None:
        """Take a snapshot, unless there is one of these samples already; a thread writes it."""
        if self.last_snapshot == state.samples:
            return
        self.last_snapshot = state.samples
        # Before `reported` is cleared for this snapshot: the writer may still wait for the last
        # one's. It also keeps at most one snapshot in memory.
        self.writer.finish()
        if self._reports(state.samples):
            self.reported.clear()
        else:
            self.reported.set()
        facts: dict[str, Any] = {
            "data": self.fingerprint,
            "environment": checkpoint.environment(),
            "wall_seconds": round(self.clock.wall_seconds(), 3),
            "worker_seconds": round(self.clock.worker_seconds(), 3),
            "workers": self.clock.workers,
            "rollbacks": self.clock.rollbacks,
        }
        if self.ratings.due(state.samples):
            facts["measure"] = True
        if self.quality is not None:
            facts |= {"quality": self.quality, "quality_samples": self.quality_samples}
        if self.config.price_per_worker_hour:
            facts["cost"] = round(self.cost(), 6)
        self.writer.put(checkpoint.snapshot(state, facts))

    def _reports(self, samples: int) -> bool:
        """True if a report is due at `samples`."""
        interval = self.config.report_interval
        if not interval:
            return False
        crossed = samples // interval > (samples - self.config.batch) // interval
        return crossed or samples >= self.config.samples

    def close(self) -> None:
        """Wait for the writer. Raises OSError if the last checkpoint could not be written."""
        self.reported.set()
        self.ratings.close()
        self.writer.close()


class NullReporter:
    """Reporter of the other ranks: writes nothing."""

    def checkpoint(self, state: TrainState, values: Values) -> None:
        """Do nothing."""

    def evaluate(self, state: TrainState, values: Values) -> None:
        """Do nothing."""

    def report(self, state: TrainState, values: Values) -> None:
        """Do nothing."""

    def stop(self, samples: int) -> bool:
        """False: rank 0 decides."""
        return False

    def finish(self, outcome: Outcome, samples: int) -> Outcome:
        """The outcome, as it is."""
        return outcome

    def grid(self, state: TrainState, values: Values) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def periodic_actions(
    config: TrainConfig, reporter: Reporter | NullReporter
) -> list[PeriodicAction]:
    """The actions of a run for the loop, with the same schedule on every rank.

    The checkpoint comes first: a later action that fails or takes long costs no training.
    """
    c = config
    return [
        PeriodicAction(c.checkpoint_interval, reporter.checkpoint),
        PeriodicAction(
            c.evaluate_interval,
            reporter.evaluate,
            at_end=c.evaluate_interval > 0,
            when_stopped=False,
        ),
        PeriodicAction(c.report_interval, reporter.report, at_end=c.report_interval > 0),
        PeriodicAction(c.grid_interval, reporter.grid, at_end=c.grid_interval > 0),
    ]


def distributions(config: TrainConfig, state: TrainState, source: Source) -> dict[str, Any]:
    """The model's outputs on some real rows, by name, for histograms; the state stays as it is."""
    like = next(state.model.parameters())
    size = min(HISTOGRAM_ROWS, len(source))
    batch = batch_of(source, range(size), config.model.modality, like, "skip")
    noise = BatchRNG(config.seed, 0, size, 0, size, like, config.samples)
    state.model.eval()
    try:
        with torch.no_grad():
            outputs = state.model.distributions(batch, noise)
    finally:
        state.model.train()
    return {name: value.float().cpu().numpy() for name, value in outputs.items()}
