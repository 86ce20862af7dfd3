"""Ray Data gives the rows that reading at home gives, in the same order, bit for bit."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc import data
from aigc.config import DataConfig, ModelConfig, TrainConfig
from aigc.data import CorruptRow, Source, read, rows
from cluster.ray_data import items, stream, tasks_per_rank
from tests import own_files
from tests.data.pictures import SHAPE, pictures, write

BATCH = 6


def config(source: DataConfig) -> TrainConfig:
    return TrainConfig(
        preset="x", model=ModelConfig(shape=SHAPE, num_classes=3), data=source, batch=BATCH, seed=5
    )


def opened(kind: str, folder: Path) -> tuple[TrainConfig, Source]:
    c = config(write(kind, folder))
    return c, data.load(c.data, c.model)


def mine(c: TrainConfig, source: Source, start: int, rank: int, world: int) -> list[int]:
    chosen = rows(c.seed, start, start + c.batch, len(source), source.order)
    return [int(row) for row in chosen[c.batch * rank // world : c.batch * (rank + 1) // world]]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_work_items_are_the_rows_in_order_each_in_one_shard(world: int, tmp_path: Path) -> None:
    c, source = opened("webdataset", tmp_path)
    assert isinstance(source, data.Sharded)
    for rank in range(world):
        wanted = [
            row for batch in range(9) for row in mine(c, source, 12 + batch * BATCH, rank, world)
        ]
        work = list(itertools.islice(items(source, c, 12, rank, world), 40))
        assert np.concatenate(work)[: len(wanted)].tolist() == wanted
        assert all(len({source.shard_of(row) for row in item.tolist()}) == 1 for item in work)
        both = itertools.pairwise(work)
        assert all(source.shard_of(int(a[-1])) != source.shard_of(int(b[0])) for a, b in both)


def test_each_rank_has_cpus_of_its_own_or_is_refused() -> None:
    assert [tasks_per_rank(cpus, 2, 0) for cpus in (4, 7, 8, 64)] == [1, 2, 3, 8]
    assert tasks_per_rank(64, 2, 3) == 3
    with pytest.raises(ValueError, match="2 workers that read by Ray Data need 4 logical CPUs"):
        tasks_per_rank(3, 2, 0)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    """A Ray of this process, whose end leaves other children of the process alone."""
    from cluster.ray_session import local_ray

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"]) as other:
        with local_ray(4):
            yield
        survived = other.poll() is None
        other.kill()
    assert survived


def worker(source: Source, c: TrainConfig, start: int, rank: int, world: int) -> Any:
    """A rank as Ray Train has it: a process of its own that holds a CPU."""
    import ray

    class Rank:
        def __init__(self) -> None:
            self.feed = stream(source, c, start, rank, world)

        def next(self) -> Any:
            return next(self.feed)

    return ray.remote(num_cpus=1)(Rank).remote()


@pytest.mark.cluster
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize(
    ("kind", "world", "start"),
    [("parquet", 1, 0), ("webdataset", 2, 0), ("parquet", 2, 18)],  # 18: mid-shard, epoch 1
)
def test_ray_data_gives_the_rows_of_the_loader(
    kind: str, world: int, start: int, tmp_path: Path
) -> None:
    import ray

    c, source = opened(kind, tmp_path)
    ranks = [worker(source, c, start, rank, world) for rank in range(world)]
    for batch in range(start, start + 7 * BATCH, BATCH):
        # All ranks step together, as workers do, with no more CPUs than the promise needs.
        for rank, part in enumerate(ray.get([r.next.remote() for r in ranks], timeout=60)):
            samples, labels, skipped = part
            wanted = [source.read(row) for row in mine(c, source, batch, rank, world)]
            assert samples.dtype == np.uint8
            assert np.array_equal(samples, np.stack([sample for sample, _ in wanted]))
            assert labels.tolist() == [label for _, label in wanted]
            assert skipped == []
    for rank in ranks:
        ray.kill(rank)


@pytest.mark.cluster
@pytest.mark.usefixtures("_ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own DataContext's fields
def test_rows_of_a_source_of_ones_own_are_read_where_its_file_is_not(tmp_path: Path) -> None:
    file = own_files.write(tmp_path, own_files.READ_WHEN_DUE, "line.py")
    c = replace(config(DataConfig(source=str(file), memory_mb=0)), model=ModelConfig(shape=(2,)))
    source = data.load(c.data, c.model)
    file.unlink()
    samples, _, _ = next(stream(source, c, 0, 0, 1))
    assert samples[:, 0].tolist() == [row / 64 for row in mine(c, source, 0, 0, 1)]


@pytest.mark.cluster
@pytest.mark.usefixtures("_ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own DataContext's fields
def test_stream_skips_or_stops_at_a_corrupt_row(tmp_path: Path) -> None:
    broken = pictures("train")
    broken[7] = (broken[7][0][:60], 1)
    source = write("parquet", tmp_path, {"train": broken, "test": pictures("test")})
    for on_error in ("skip", "stop"):
        c = config(DataConfig(source="parquet", path=source.path, memory_mb=0, on_error=on_error))
        lazy = data.load(c.data, c.model)
        feed = stream(lazy, c, 0, 0, 1)
        if on_error == "stop":
            with pytest.raises(CorruptRow, match=r"no whole picture.*--data.on-error skip"):
                [next(feed) for _ in range(3)]
            continue
        told = []
        for batch in range(3):
            samples, _, skipped = next(feed)
            told += skipped
            chosen = mine(c, lazy, batch * BATCH, 0, 1)
            wanted = [read(lazy, row, "skip")[0] for row in chosen]
            assert np.array_equal(samples, np.stack(wanted))
        assert len(told) >= 1
        feed.close()
