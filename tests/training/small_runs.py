"""Small runs for tests, their states compared, and stand-ins for a worker and a data set."""

import queue
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import data, models
from aigc.config import TrainConfig
from aigc.data import CorruptRow, Dataset, Source
from aigc.models import text_vae
from aigc.training import checkpoint
from aigc.training.evaluation_process import measurements
from aigc.training.loop import TrainState, train
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext

BATCHES = 6
"""Batches of a whole run here: more than WGAN-GP's five discriminator steps."""


def small(preset: str, **changes: Any) -> TrainConfig:
    """A preset cut down to a few small batches."""
    config = models.preset(preset)
    changes = {"batch": 16, "samples": 16 * BATCHES, "checkpoint_interval": 0} | changes
    return replace(config, **({"report_interval": 0, "grid_interval": 0} | changes))


def float64(preset: str, **changes: Any) -> TrainConfig:
    return small(preset, precision="float64", **changes)


BLURRED = {"model": text_vae.Config(width=48, blur=0.8, dropout=0.3, word_dropout=0.1)}


def finish(config: TrainConfig, state: TrainState | None = None) -> dict[str, Tensor]:
    """Every tensor of the training state at the end of a run."""
    state = state or TrainState(config)
    assert train(config, state, data.load(config.data, config.model)) == "done"
    return checkpoint.tensors(state)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit-equal."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def begin_run(folder: Path, config: TrainConfig) -> Run:
    """A run that has trained nothing yet."""
    run = Run(folder)
    run.create(config)
    return run


def continue_run(
    run: Run, config: TrainConfig, source: Source | None = None, **context: Any
) -> str:
    """Train a run from its last checkpoint on; the outcome, `done` or `stopped`."""
    source = source or data.load(config.data, config.model)
    return train_run(RunContext(store=NullStore(run.folder), **context), config, source)


def resumed(config: TrainConfig, folder: Path, at: int) -> dict[str, Tensor]:
    """Train `at` batches, checkpoint, load into a fresh state, train to the end."""
    first = TrainState(config)
    source, last = data.load(config.data, config.model), config.batch * (at - 1)
    assert train(config, first, source, stop=lambda samples: samples >= last) == "stopped"
    assert first.samples == config.batch * at
    path = checkpoint.save(folder, checkpoint.snapshot(first, {"wall_seconds": 0}), keep=1)
    again = TrainState(config)
    with torch.no_grad():
        for parameter in again.model.parameters():  # nothing may survive but the checkpoint
            parameter.fill_(0.1)
    checkpoint.load(path, again)
    return finish(config, again)


def write_checkpoint(folder: Path, samples: int, keep: int = 3, **facts: Any) -> Path:
    """A checkpoint of an untrained tiny model."""
    state = TrainState(small("fc_gan:ring"))
    state.samples = samples
    return checkpoint.save(folder, checkpoint.snapshot(state, facts), keep)


class Inline:
    """An evaluator's process that is this one: what is requested is measured at once."""

    pid, ended = 0, ""

    def __init__(self, run: Path) -> None:
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._requests: list[int] = []
        self._messages = measurements(run, iter(self._requests.pop, None))

    @property
    def last_sign(self) -> float:
        return time.monotonic()

    @last_sign.setter
    def last_sign(self, now: float) -> None:
        pass

    def send(self, samples: int) -> None:
        self._requests.append(samples)
        self.answers.put(next(self._messages))

    def kill(self) -> None:
        pass


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure quality in this process, where a test may replace Quality.measure."""
    monkeypatch.setattr("aigc.training.evaluator.start", Inline)


class Half:
    """The gradients of one of two workers, weighted by its share, kept to be added by hand."""

    overlaps = False

    def __init__(self, rank: int) -> None:
        self.rank, self.world_size, self.device = rank, 2, torch.device("cpu")
        self.seen: list[Tensor] = []

    def all_reduce(self, flat: Tensor) -> None:
        self.seen.append(flat.clone())

    def broadcast(self, tensors: Any) -> None:
        pass


class Lazy:
    """A data set that is read row by row; some rows cannot be."""

    def __init__(self, dataset: Dataset, corrupt: frozenset[int] = frozenset()) -> None:
        self.name, self.classes = dataset.name, dataset.classes
        self._dataset, self._corrupt = dataset, corrupt

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, row: int) -> tuple[NDArray[Any], int]:
        if row in self._corrupt:
            raise CorruptRow(f"row {row} is broken")
        return self._dataset.read(row)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return self._dataset.order(seed, epoch)

    def fingerprint(self) -> dict[str, Any]:
        return self._dataset.fingerprint()
