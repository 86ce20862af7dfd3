"""The feed: the same rows from memory, from loader processes and from a stream, for any workers."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc import data, models
from aigc.config import DataConfig, TrainConfig
from aigc.data import CorruptRow, Dataset, Read, share
from aigc.training.dataloader import BatchLoader, shard_indices
from tests.data.rows import PAIRED, SHAPES, written
from tests.training.small_runs import Lazy


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """100 rows of 4x4 grey levels."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4), np.uint8)
    labels = np.arange(100) % 10
    return Dataset(name="small", samples=pixels, labels=labels, classes=tuple("0123456789"))


CONFIG = replace(models.preset("dcgan:digits"), batch=24)
LIKE = torch.zeros(())


def take(feed: Iterator[dict[str, torch.Tensor]], n: int) -> list[dict[str, torch.Tensor]]:
    return [next(feed) for _ in range(n)]


def make(source: Any, config: TrainConfig = CONFIG, **changes: Any) -> BatchLoader:
    return BatchLoader(
        config, source, **({"rank": 0, "world_size": 1, "start": 0, "like": LIKE} | changes)
    )


def same(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return all(torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)


def test_loader_processes_and_memory_give_equal_batches(dataset: Dataset) -> None:
    config = replace(CONFIG, data=DataConfig(loaders=2))
    batches = take(make(dataset), 9)  # into the third epoch
    assert batches[0]["image"].shape == (24, 1, 4, 4)
    assert batches[0]["image"].min() >= -1
    assert batches[0]["image"].max() <= 1
    feed = make(Lazy(dataset), config)
    assert same(batches, take(feed, 9))
    assert len(multiprocessing.active_children()) == 2
    del feed  # at once, not when garbage is collected
    assert multiprocessing.active_children() == []


def test_each_epoch_shows_every_row_once_in_another_order(dataset: Dataset) -> None:
    rows = shard_indices(replace(CONFIG, batch=10), dataset, 0, 1, 0)
    epochs = [np.concatenate([next(rows) for _ in range(10)]) for _ in range(2)]
    assert all(np.array_equal(np.sort(epoch), np.arange(100)) for epoch in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_workers_split_the_global_batch(dataset: Dataset, world: int) -> None:
    whole = take(make(dataset), 6)
    parts = [take(make(dataset, rank=rank, world_size=world), 6) for rank in range(world)]
    joined = [
        {key: torch.cat([part[n][key] for part in parts]) for key in whole[0]} for n in range(6)
    ]
    assert same(whole, joined)
    assert [share(24, rank, world)[1] for rank in range(world)][-1] == 24


@pytest.mark.process
@pytest.mark.parametrize("lazy", [False, True])
def test_loader_starts_at_any_sample(dataset: Dataset, lazy: bool) -> None:
    source: Any = Lazy(dataset) if lazy else dataset
    assert same(take(make(source), 8)[5:], take(make(source, start=5 * 24), 3))


def test_stream_batches_are_scaled_and_counted_like_others(dataset: Dataset) -> None:
    def stream(start: int) -> Iterator[Read]:
        for chosen in shard_indices(CONFIG, dataset, 0, 1, start):
            yield dataset.samples[chosen], dataset.labels[chosen], []

    assert same(take(make(dataset, start=48), 3), take(make(dataset, start=48, stream=stream), 3))


def test_on_error_stop_names_the_corrupt_row(dataset: Dataset) -> None:
    source = Lazy(dataset, frozenset(range(40, 60)))
    with pytest.raises(CorruptRow, match=r"^row \d+ is broken; mend it, or set"):
        take(make(source), 5)


def test_on_error_skip_takes_the_next_row_and_counts(dataset: Dataset) -> None:
    corrupt = frozenset({7, 8, 50})
    config = replace(CONFIG, batch=100, data=DataConfig(on_error="skip", loaders=2))
    feed = make(Lazy(dataset, corrupt), config)
    (batch,) = take(feed, 1)
    (whole,) = take(make(dataset, config), 1)
    order = dataset.order(config.seed, 0)
    replaced = [int(np.flatnonzero(order == row)[0]) for row in (7, 8, 50)]
    stand_in = [int(np.flatnonzero(order == row)[0]) for row in (9, 9, 51)]
    for at, other in zip(replaced, stand_in, strict=True):
        assert torch.equal(batch["image"][at], whole["image"][other])
    others = [at for at in range(100) if at not in replaced]
    assert torch.equal(batch["image"][others], whole["image"][others])
    assert sorted(feed.skipped) == [f"row {row} is broken" for row in (50, 7, 8)]
    assert feed.metrics()["data/skipped"] == 3
    assert feed.metrics()["data/skipped"] == 0  # counted once
    assert feed.metrics()["data/wait_s"] > 0


def test_on_error_skip_refuses_data_without_a_readable_row(dataset: Dataset) -> None:
    with pytest.raises(CorruptRow, match=r"no row of data 'small' can be read; .* row 3 is broken"):
        data.read(Lazy(dataset, frozenset(range(100))), 3, "skip")


def test_records_become_tensors_by_field_name(tmp_path: Path) -> None:
    """From memory, from loader processes and by a stream, for one worker or two, and resumed."""
    config = replace(CONFIG, model=PAIRED, batch=6, data=written(tmp_path, "audio"))
    held = data.load(config.data, config.model)
    lazy = replace(config, data=replace(config.data, memory_mb=0, loaders=1))
    due = data.load(lazy.data, lazy.model)
    assert isinstance(held, Dataset)
    assert not isinstance(due, Dataset)

    def stream(start: int) -> Iterator[Read]:
        for chosen in shard_indices(config, held, 0, 1, start):
            yield held.samples[chosen], held.labels[chosen], []

    whole = take(make(held, config), 5)
    masks = {f"mask/{name}" for name in SHAPES}
    assert set(whole[0]) == {*SHAPES, *masks, "label"}
    assert {name: value.shape[1:] for name, value in whole[0].items() if name in SHAPES} == SHAPES
    assert whole[0]["text"].dtype == torch.int64
    lacking = sum(float((1 - batch["mask/audio"]).sum()) for batch in whole)
    assert 5 <= lacking <= 10  # one row in four
    assert same(whole, take(make(due, lazy), 5))
    assert same(whole[2:], take(make(due, lazy, start=12), 3))
    assert same(whole, take(make(held, config, stream=stream), 5))
    halves = [take(make(held, config, rank=rank, world_size=2), 5) for rank in range(2)]
    joined = [{k: torch.cat([half[n][k] for half in halves]) for k in whole[0]} for n in range(5)]
    assert same(whole, joined)
