"""Rows for one rank, read and decoded by Ray Data: the same rows in the same order as at home.

The order of a run is cut into work items, rows of one shard that this rank needs, and Ray Data maps
`aigc.data.read` over them in tasks of one logical CPU each, keeping their order. Ray Data pauses a
task whose results nobody takes, and the paused task keeps its CPU. Workers wait for each other at
every step, so if the tasks of one could take the CPUs of another, all would wait for ever: each
rank therefore runs no more tasks at once than its equal share of what the workers leave free. A
cluster thus needs at least one logical CPU per worker beside the one that the worker holds. (With
two workers and one free CPU, all stood still after 66 batches.)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.config import TrainConfig
from aigc.data import Sharded, Source, read, rows, stopping

ROWS_PER_ITEM = 4096
"""At most; a larger shard is read by several tasks at once, each of which opens it."""
ITEMS_PER_PLAN = 512
"""Items of one Ray Data execution; the next one starts when it is drained, in about a second."""
ROWS_PER_BLOCK = 32
BLOCK_BYTES = 4 * 2**20
MAX_TASKS = 8

Batch = tuple[NDArray[Any], NDArray[np.int64], list[str]]


def stream(
    source: Source, config: TrainConfig, start: int, rank: int, world: int
) -> Iterator[Batch]:
    """This rank's slice of every global batch from sample `start` on, without end.

    Yields samples (n, *shape) as Source.read gives them, labels (n,) int64, and why rows were
    replaced under data.on_error skip; n is batch * (rank + 1) // world - batch * rank // world.
    Raises CorruptRow under stop, and ValueError if the cluster has no CPU left for reading.
    """
    import ray  # not above: it reads its settings as it is imported, and cluster.local makes them

    tasks = tasks_per_rank(ray.cluster_resources().get("CPU", 0), world, config.data.loaders)
    size = config.batch * (rank + 1) // world - config.batch * rank // world
    samples: list[NDArray[Any]] = []
    labels: list[NDArray[np.int64]] = []
    reasons: list[NDArray[Any]] = []
    ready = 0
    for block in _blocks(source, items(source, config, start, rank, world), tasks):
        samples.append(block["sample"])
        labels.append(block["label"])
        reasons.append(block["skipped"])
        ready += len(block["label"])
        while ready >= size:
            parts = [np.concatenate(column) for column in (samples, labels, reasons)]
            skipped = [str(reason) for reason in parts[2][:size] if reason]
            if skipped and config.data.on_error == "stop":
                raise stopping(skipped[0])
            yield parts[0][:size], parts[1][:size], skipped
            samples, labels, reasons = ([part[size:]] for part in parts)
            ready -= size


def items(
    source: Source, config: TrainConfig, start: int, rank: int, world: int
) -> Iterator[NDArray[np.int64]]:
    """The rows that this rank needs from sample `start` on, in order, cut where the shard changes
    and after ROWS_PER_ITEM; without end. Each is (n,) int64."""
    shard_of = source.shard_of if isinstance(source, Sharded) else lambda row: 0
    first, last = config.batch * rank // world, config.batch * (rank + 1) // world
    pending: list[int] = []
    while True:
        batch = rows(config.seed, start, start + config.batch, len(source), source.order)
        for row in batch[first:last].tolist():
            full = len(pending) == ROWS_PER_ITEM
            if pending and (full or shard_of(row) != shard_of(pending[-1])):
                yield np.array(pending, np.int64)
                pending = []
            pending.append(row)
        start += config.batch


def tasks_per_rank(cpus: float, world: int, loaders: int) -> int:
    """How many tasks a rank may run at once, with `cpus` logical CPUs in the cluster.

    Raises ValueError if the workers, which hold one each, leave less than one for each rank.
    """
    share = int(cpus - world) // world
    if share < 1:
        raise ValueError(
            f"{world} workers that read by Ray Data need {2 * world} logical CPUs, one each to"
            f" train and one to read, the cluster has {cpus:g}; give Ray more --num-cpus, or"
            " train with fewer --workers"
        )
    return min(share, loaders or MAX_TASKS)


def _blocks(
    source: Source, work: Iterator[NDArray[np.int64]], tasks: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Decoded rows in order, in blocks of any length."""
    import ray
    from ray.data import TaskPoolStrategy

    handle = ray.put(source)

    def decode(item: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        held = ray.get(handle)
        chosen = item["rows"][0]
        for begin in range(0, len(chosen), ROWS_PER_BLOCK):
            yield _decoded(held, chosen[begin : begin + ROWS_PER_BLOCK])

    while True:
        plan = [{"rows": next(work)} for _ in range(ITEMS_PER_PLAN)]
        with ray.data.DataContext.current(_context()):
            pipeline = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
                decode,
                batch_size=1,
                batch_format="numpy",
                num_cpus=1,
                compute=TaskPoolStrategy(size=tasks),
            )
            batches = pipeline.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=2
            )
            yield from batches


def _context() -> Any:
    """Settings of these executions alone: order kept, small blocks, nothing on the terminal."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _decoded(source: Source, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """A block. What a row that cannot be read does is decided where its batch is taken."""
    samples, labels, skipped = zip(
        *(read(source, row, "skip") for row in chosen.tolist()), strict=True
    )
    return {
        "sample": np.stack(samples),
        "label": np.array(labels, np.int64),
        "skipped": np.array([reason or "" for reason in skipped]),
    }
