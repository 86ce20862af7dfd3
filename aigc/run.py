"""A run is a folder.

<storage>/<run>/
    config.json      fully resolved
    history.jsonl    every start of its workers: when, from which sample, how many, on what
    metrics.jsonl    losses and metrics by samples seen
    grids/           pictures by samples seen, a column per class
    checkpoints/     see aigc/checkpoint.py
    events.*         TensorBoard
"""

import datetime
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc import checkpoint, models
from aigc.artifact import codecs, latents
from aigc.config import TrainConfig
from aigc.data import Dataset
from aigc.train import Event, Outcome, Sync, TrainState, train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """One line of metrics.jsonl, and what a progress bar shows."""

    samples: int
    samples_per_second: float
    wall_seconds: float
    """Since the run began, over all restarts."""
    values: dict[str, float]
    """Losses and metrics, `phase/name`, means since the report before over all workers."""


class Run:
    """A run's folder.

    run = Run("runs/digits"); run.create(config); run.resume_or_start(...)
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / "config.json").exists()

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write its config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config.to_json(), indent=1) + "\n"
        codecs.write(self.folder / "config.json", text.encode())

    def config(self) -> TrainConfig:
        """The config that the run was begun or last resumed with. Raises ValueError if none."""
        try:
            document = json.loads((self.folder / "config.json").read_text())
        except FileNotFoundError:
            raise ValueError(f"{self.folder} is no run: it holds no config.json") from None
        model = models.load(str(document["preset"]).partition(":")[0])
        return TrainConfig.from_json(document, model.Config)

    def starts(self) -> list[dict[str, Any]]:
        """history.jsonl: one entry per start of the workers, oldest first."""
        path = self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def check_resume(self, config: TrainConfig) -> None:
        """Raise ValueError naming the fields that may not change on resume but did."""
        old, new = self.config().fixed(), config.fixed()
        changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in old if old[k] != new.get(k)]
        if changed:
            raise ValueError(
                f"{self.folder} cannot resume with another {'; '.join(changed)};"
                " give the old values or another --name"
            )

    def facts(self) -> dict[str, Any]:
        """trainer.json of the newest checkpoint. Raises ValueError if there is none."""
        return json.loads((self._newest() / checkpoint.TRAINER).read_text())  # type: ignore[no-any-return]

    def trained(self) -> TrainState:
        """The state of the newest checkpoint. Raises ValueError if there is none."""
        path = self._newest()
        state = TrainState(self.config())
        checkpoint.load(path, state)
        return state

    def _newest(self) -> Path:
        path = checkpoint.newest(self.checkpoints)
        if path is None:
            raise ValueError(f"{self.folder} has no whole checkpoint yet; train it first")
        return path


def work(
    run: Run,
    config: TrainConfig,
    dataset: Dataset,
    sync: Sync,
    publish: Callable[[Report], None] = lambda report: None,
    stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Train one worker's share of a run from its newest checkpoint on; rank 0 writes the folder.

    Raises NonFiniteLoss; ValueError if the run was begun on other data.
    """
    state = TrainState(config, device)
    begun = time.monotonic()
    found = checkpoint.newest(run.checkpoints)
    if found is not None:
        facts = checkpoint.load(found, state)
        _check_same(facts, config, dataset)
        begun -= facts["wall_seconds"]
    writer = _Writer(run, config, dataset, sync, begun, publish, state.samples)
    try:
        return train(config, state, dataset, writer.events(), sync, stop)
    finally:
        writer.close()


def _check_same(facts: dict[str, Any], config: TrainConfig, dataset: Dataset) -> None:
    if facts["data"] != dataset.fingerprint():
        raise ValueError(
            f"the run was begun on data {facts['data']}, got {dataset.fingerprint()};"
            " resume with the same data or train under another --name"
        )
    if facts["config"] != config.fingerprint():
        raise ValueError("the checkpoint is of a run with another config; give another --name")
    old, new = facts["environment"], checkpoint.environment()
    if old != new:
        changed = {key: (old.get(key), new[key]) for key in new if old.get(key) != new[key]}
        log.warning("resumed, but no longer bit-exact: %s", changed)


class _Writer:
    """Rank 0's reports, grids and checkpoints; the other ranks only take part in their timing."""

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        dataset: Dataset,
        sync: Sync,
        begun: float,
        publish: Callable[[Report], None],
        samples: int,
    ) -> None:
        self.run, self.config, self.dataset, self.sync = run, config, dataset, sync
        self.begun, self.publish = begun, publish
        self.mark = (time.monotonic(), samples)
        self.data = dataset.fingerprint()
        if sync.rank != 0:
            return
        from torch.utils.tensorboard import SummaryWriter

        cut_back(run.folder / "metrics.jsonl", samples)
        start = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "samples": samples,
            "workers": sync.world,
            "environment": checkpoint.environment(),
        }
        with (run.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(start) + "\n")
        self.board = SummaryWriter(str(run.folder), purge_step=samples or None)

    def events(self) -> list[Event]:
        c = self.config
        return [
            Event(c.report_interval, self.report, at_end=c.report_interval > 0),
            Event(c.grid_interval, self.grid, at_end=c.grid_interval > 0),
            Event(c.checkpoint_interval, self.checkpoint),
        ]

    def report(self, state: TrainState, values: dict[str, float]) -> None:
        if self.sync.rank != 0:
            return
        now, (then, samples) = time.monotonic(), self.mark
        self.mark = now, state.samples
        speed = (state.samples - samples) / max(now - then, 1e-9)
        report = Report(state.samples, round(speed, 2), round(now - self.begun, 3), values)
        with (self.run.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, state.samples)
        self.publish(report)

    def grid(self, state: TrainState, values: dict[str, float]) -> None:
        if self.sync.rank != 0 or state.model.config.modality != "image":
            return
        folder = self.run.folder / "grids"
        folder.mkdir(exist_ok=True)
        picture = grid(state)
        codecs.write(folder / f"{state.samples:012d}.png", codecs.png(picture))
        self.board.add_image("samples", picture, state.samples, dataformats="HWC")

    def checkpoint(self, state: TrainState, values: dict[str, float]) -> None:
        if self.sync.rank != 0:
            return
        facts = {
            "config": self.config.fingerprint(),
            "data": self.data,
            "environment": checkpoint.environment(),
            "wall_seconds": round(time.monotonic() - self.begun, 3),
            "workers": self.sync.world,
        }
        checkpoint.save(self.run.checkpoints, state, facts, self.config.keep_checkpoints)

    def close(self) -> None:
        if self.sync.rank == 0:
            self.board.close()


def grid(state: TrainState, columns: int = 10, per_row: int = 8) -> np.ndarray:
    """Samples of the averaged model, a column per class: (H, W, C) uint8."""
    model = state.served()
    module = model.exports()["sample"].module
    like = next(model.parameters())
    n = columns * per_row
    inputs = [torch.from_numpy(latents.normal(0, range(n), (model.config.latent,))).to(like)]
    if model.config.num_classes:
        inputs.append(torch.arange(n, device=like.device) % columns % model.config.num_classes)
    with torch.no_grad():
        images = module(*inputs).float().cpu().numpy()
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
