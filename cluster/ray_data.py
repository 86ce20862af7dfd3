"""Rows of one rank, read and decoded by Ray Data, in the same order as without it.

The order of a run is cut into work items, rows of one shard that this rank needs, and Ray Data maps
`aigc.data.read` over them in tasks of one logical CPU each, keeping their order. Ray Data pauses a
task whose results are not consumed, and the paused task keeps its CPU. Workers wait for each other
at every step, so if the tasks of one rank took the CPUs of another, all would deadlock. Each rank
therefore runs at most its equal share of the CPUs that the workers leave free, and a cluster needs
at least one logical CPU per worker beside the worker's own. (Two workers with one free CPU
deadlocked after 66 batches.)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.config import TrainConfig
from aigc.data import Read, Sharded, Source, read, rows, share, stopping
from aigc.own_code import code_files

ROWS_PER_ITEM = 4096
"""Largest item; a larger shard is read by several tasks at once, each of which opens it."""
ITEMS_PER_PLAN = 512
"""Items of one Ray Data execution; starting the next one takes about a second."""
ROWS_PER_BLOCK = 32
BLOCK_BYTES = 4 * 2**20
MAX_TASKS = 8


def stream(
    source: Source, config: TrainConfig, start: int, rank: int, world_size: int
) -> Iterator[Read]:
    """This rank's slice of every global batch from sample `start` on, without end.

    Yields samples (n, *shape) as Source.read gives them, labels (n,) int64, and the reasons why
    rows were replaced under data.on_error skip; n is aigc.data.share() of the batch. Raises
    CorruptRow under stop, and ValueError if the cluster has no CPU left for reading.
    """
    # Not above: Ray reads its environment when imported, after cluster.ray_session set it.
    import ray

    tasks = tasks_per_rank(ray.cluster_resources().get("CPU", 0), world_size, config.data.loaders)
    first, last = share(config.batch, rank, world_size)
    size = last - first
    samples: list[NDArray[Any]] = []
    labels: list[NDArray[np.int64]] = []
    reasons: list[NDArray[Any]] = []
    ready = 0
    for block in _blocks(source, items(source, config, start, rank, world_size), tasks):
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
    source: Source, config: TrainConfig, start: int, rank: int, world_size: int
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of this rank from sample `start` on, in order and without end.

    Each item is (n,) int64 of one shard, with at most ROWS_PER_ITEM rows.
    """
    shard_of = source.shard_of if isinstance(source, Sharded) else lambda row: 0
    first, last = share(config.batch, rank, world_size)
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


def tasks_per_rank(cpus: float, world_size: int, loaders: int) -> int:
    """Number of tasks that a rank may run at once, with `cpus` logical CPUs in the cluster.

    Raises ValueError if the workers, which hold one CPU each, leave less than one per rank.
    """
    share = int(cpus - world_size) // world_size
    if share < 1:
        raise ValueError(
            f"{world_size} workers that read by Ray Data need {2 * world_size} logical CPUs,"
            f" one each to train and one to read, the cluster has {cpus:g}; give Ray"
            " more --num-cpus, or train with fewer --workers"
        )
    return min(share, loaders or MAX_TASKS)


def _blocks(
    source: Source, work: Iterator[NDArray[np.int64]], tasks: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Decoded rows in order, in blocks of any length."""
    import ray
    from ray.data import TaskPoolStrategy

    handle, code = ray.put(source), code_files.carried()

    def decode(item: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        code_files.install(code)  # a source of a user's is read by code that this process lacks
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
    """Ray Data's settings for these executions: order kept, small blocks, no progress bars."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _decoded(source: Source, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Decode a block. Unreadable rows are handled where their batch is taken."""
    samples, labels, skipped = zip(
        *(read(source, row, "skip") for row in chosen.tolist()), strict=True
    )
    return {
        "sample": np.stack(samples),
        "label": np.array(labels, np.int64),
        "skipped": np.array([reason or "" for reason in skipped]),
    }
