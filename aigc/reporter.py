"""What a run leaves behind while it trains: reports, pictures, quality, checkpoints.

Rank 0 writes; the others only take part in the timing. Nothing here changes what is trained, and
nothing here ends a run: a report that cannot be written is said and passed over.
"""

import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc import checkpoint, data
from aigc.artifact import codecs
from aigc.config import TrainConfig
from aigc.data import Source
from aigc.feed import as_input, tensors
from aigc.noise import Noise
from aigc.quality import Quality, generated
from aigc.state import TrainState
from aigc.train import Event, Sync

log = logging.getLogger(__name__)

HISTOGRAM_ROWS = 64


@dataclass(frozen=True)
class Report:
    """One line of metrics.jsonl, and what a progress bar shows."""

    samples: int
    samples_per_second: float
    wall_seconds: float
    """Since the run began, over all restarts."""
    values: dict[str, float]
    """Losses and metrics, `phase/name`, means since the report before over all workers."""
    host: dict[str, float] = field(default_factory=dict)
    """What depends on the machine: data_wait (share of the time), rows_skipped, checkpoint_age_s,
    checkpoint_failures, workers, and cost where a price is given."""


class Reporter:
    """Rank 0's hand in a run's folder.

    reporter = Reporter(folder, config, source, sync, since, publish)
    train(..., reporter.events())
    reporter.close()
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        source: Source,
        sync: Sync,
        since: "Since",
        publish: Callable[[Report], None],
        written: Callable[[Path], None],
    ) -> None:
        self.folder, self.config, self.source, self.sync = folder, config, source, sync
        self.since, self.publish = since, publish
        self.mark = (time.monotonic(), since.samples)
        self.active = sync.rank == 0
        self.quality: float | None = since.quality
        self.skipped = 0.0
        self.collapsed = False
        if not self.active:
            return
        self.fingerprint = source.fingerprint()
        self.board = self._open_board(since.samples)
        self.judge = Quality(config, source)

        def saved(path: Path) -> None:
            written(path)
            since.saved = time.monotonic()  # one that could not be written is none

        self.writer = checkpoint.Writer(folder / "checkpoints", config.keep_checkpoints, saved)

    def _open_board(self, samples: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=samples or None)

    @contextmanager
    def _tensorboard(self, samples: int) -> Iterator[None]:
        """Its writer ends at the first full disk: the next report begins a new file."""
        try:
            yield
        except OSError as error:
            log.warning("TensorBoard was not written: %s", error)
            self.board = self._open_board(samples)

    def events(self) -> list[Event]:
        """To be given to the loop, on every rank."""
        c = self.config
        return [
            Event(c.evaluate_interval, self.evaluate, at_end=c.evaluate_interval > 0),
            Event(c.report_interval, self.report, at_end=c.report_interval > 0),
            Event(c.grid_interval, self.grid, at_end=c.grid_interval > 0),
            Event(c.checkpoint_interval, self.checkpoint),
        ]

    def report(self, state: TrainState, values: dict[str, float]) -> None:
        """A line of metrics.jsonl, TensorBoard scalars, and the report to whoever listens."""
        if not self.active:
            return
        now, (then, samples) = time.monotonic(), self.mark
        self.mark = now, state.samples
        elapsed = max(now - then, 1e-9)
        batches = (state.samples - samples) / self.config.batch
        self.skipped += values.pop("data/skipped") * batches
        waited = values.pop("data/wait_s") * batches
        reason = state.model.collapsed(values)
        if reason and not self.collapsed:
            log.warning("after %d samples: %s", state.samples, reason)
        self.collapsed = bool(reason)
        if self.quality is not None:
            values["quality/frechet"] = self.quality
        report = Report(
            state.samples,
            round((state.samples - samples) / elapsed, 2),
            round(self.since.wall_seconds(), 3),
            values,
            self._host(waited / elapsed),
        )
        with _passed_over("report"), (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        with self._tensorboard(state.samples):
            for name, value in (values | report.host).items():
                self.board.add_scalar(name, value, state.samples)
        self.publish(report)

    def _host(self, waited: float) -> dict[str, float]:
        host = {
            "workers": float(max(1, self.sync.world)),
            "data_wait": round(waited, 4),
            "rows_skipped": self.skipped,
            "checkpoint_age_s": round(time.monotonic() - self.since.saved, 1),
            "checkpoint_failures": float(self.writer.failures),
            "restarts": float(self.since.restarts),
            "rollbacks": float(self.since.rollbacks),
            "work_lost_samples": float(self.since.lost_samples),
        }
        if self.config.price_per_worker_hour:
            host["cost"] = round(self.cost(), 6)
        return host

    def cost(self) -> float:
        """What the run has cost so far, over all restarts."""
        return self.since.worker_seconds(self.sync.world) / 3600 * self.config.price_per_worker_hour

    def grid(self, state: TrainState, values: dict[str, float]) -> None:
        """A picture of samples, and how a batch is judged, into the folder and TensorBoard."""
        if not self.active:
            return
        with _passed_over("grid"), self._tensorboard(state.samples):
            if state.model.exports()["sample"].signature.outputs[0].kind == "image":
                folder = self.folder / "grids"
                folder.mkdir(exist_ok=True)
                picture = grid(state)
                codecs.write(folder / f"{state.samples:012d}.png", codecs.png(picture))
                self.board.add_image("samples", picture, state.samples, dataformats="HWC")
            for name, distribution in distributions(self.config, state, self.source).items():
                self.board.add_histogram(name, distribution, state.samples)

    def evaluate(self, state: TrainState, values: dict[str, float]) -> None:
        """Quality of the averaged weights, by a judge that never saw generated data."""
        if self.active:
            self.quality = self.judge.measure(state.served())

    def checkpoint(self, state: TrainState, values: dict[str, float]) -> None:
        """Take a snapshot; a thread writes it."""
        if not self.active:
            return
        facts: dict[str, Any] = {
            "data": self.fingerprint,
            "environment": checkpoint.environment(),
            "wall_seconds": round(self.since.wall_seconds(), 3),
            "worker_seconds": round(self.since.worker_seconds(self.sync.world), 3),
            "workers": self.sync.world,
            "rollbacks": self.since.rollbacks,
        }
        if self.quality is not None:
            facts["quality"] = self.quality
        if self.config.price_per_worker_hour:
            facts["cost"] = round(self.cost(), 6)
        with self._tensorboard(state.samples):
            self.board.flush()  # a mirror takes its files along with the checkpoint
        self.writer.put(checkpoint.snapshot(state, facts))

    def close(self) -> None:
        """Wait for what is being written. Raises OSError if the last checkpoint was not."""
        if not self.active:
            return
        with _passed_over("TensorBoard"):
            self.board.close()
        self.writer.close()


class Since:
    """From where and when a start of the workers counts: what was before it is in `facts`."""

    def __init__(self, facts: dict[str, Any], workers: int) -> None:
        """`facts` is trainer.json of the checkpoint resumed from, {} for a new run."""
        self.samples: int = facts.get("samples", 0)
        self.quality: float | None = facts.get("quality")
        self.restarts = self.rollbacks = self.lost_samples = 0
        self.saved = time.monotonic()
        self._begun = time.monotonic()
        self._wall: float = facts.get("wall_seconds", 0.0)
        self._worker: float = facts.get("worker_seconds", self._wall * facts.get("workers", 1))

    def wall_seconds(self) -> float:
        """Of training, over all restarts."""
        return self._wall + time.monotonic() - self._begun

    def worker_seconds(self, workers: int) -> float:
        """Wall seconds times workers, over all restarts."""
        return self._worker + (time.monotonic() - self._begun) * max(1, workers)


def start_line(samples: int, workers: int, lost_samples: int) -> dict[str, Any]:
    """An entry of history.jsonl: workers begin."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "samples": samples,
        "workers": workers,
        "work_lost_samples": lost_samples,
        "environment": checkpoint.environment(),
    }


@contextmanager
def _passed_over(what: str) -> Iterator[None]:
    """A full disk must not end a run that could go on."""
    try:
        yield
    except OSError as error:
        log.warning("%s was not written: %s", what, error)


def distributions(config: TrainConfig, state: TrainState, source: Source) -> dict[str, Any]:
    """What the model says of some real rows, by name, for histograms; changes nothing."""
    like = next(state.model.parameters())
    size = min(HISTOGRAM_ROWS, len(source))
    samples, labels = data.gather(source, range(size), "skip")
    taken = tensors(samples, labels, config.model.modality)
    batch = {name: as_input(value, like) for name, value in taken.items()}
    noise = Noise(config.seed, 0, size, 0, size, like)
    state.model.eval()
    with torch.no_grad():
        found = state.model.distributions(batch, noise)
    state.model.train()
    return {name: value.float().cpu().numpy() for name, value in found.items()}


def grid(state: TrainState, columns: int = 10, per_row: int = 8) -> np.ndarray:
    """Samples of the averaged model, a column per class: (H, W, C) uint8."""
    n = columns * per_row
    images, *_ = generated(state.served(), range(n), torch.arange(n) % columns).values()
    return codecs.grid(codecs.to_uint8(images, -1, 1), columns)


def cut_back(path: Path, samples: int) -> None:
    """Drop the lines of a metrics.jsonl beyond a checkpoint, and a half-written last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["samples"] <= samples:
                kept.append(line + "\n")
        except ValueError:
            continue
    codecs.write(path, "".join(kept).encode())
