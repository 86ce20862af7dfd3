"""What one Ray Train worker does: its share of the run, from the newest checkpoint on."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.train.torch import get_device

from aigc import checkpoint, data
from aigc.run import Report, Run, work
from aigc.train import NonFiniteLoss
from cluster.sync import ProcessGroup

MAX_FRUITLESS_STARTS = 3
"""Starts in a row at the same sample after which a run gives up."""


@dataclass(frozen=True)
class Task:
    """Argument of `train_worker`."""

    folder: str
    board: Any
    """Handle of a cluster.board.Board."""
    workers: int


def train_worker(arguments: dict[str, Any]) -> None:
    """Train until done, stopped or not finite; only a dead process is a failure to Ray.

    An exception here would be retried, and a deterministic one would meet itself again: it is
    told to the board, and the driver raises it.
    """
    task: Task = arguments["task"]
    run = Run(task.folder)
    config = run.config()
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // task.workers))
    sync = ProcessGroup()
    if sync.rank == 0:
        found = checkpoint.newest(run.checkpoints)
        samples = 0 if found is None else int(found.name)
        if ray.get(task.board.started.remote(samples)) > MAX_FRUITLESS_STARTS:
            reason = (
                f"{MAX_FRUITLESS_STARTS} starts in a row came no further than {samples} samples"
            )
            ray.get(task.board.finish.remote("failed", reason))
            raise RuntimeError(reason)
    try:
        outcome = work(
            run,
            config,
            data.whole(data.load(config.data, config.model), config.data.on_error),
            sync,
            publish=lambda report: _tell(task, report),
            stop=_stop_wish(task) if sync.rank == 0 else lambda: False,
            device=get_device(),
        )
    except (NonFiniteLoss, ValueError) as error:
        ray.get(task.board.finish.remote("failed", str(error)))
        return
    if sync.rank == 0:
        ray.get(task.board.finish.remote(outcome, ""))


def _tell(task: Task, report: Report) -> None:
    task.board.report.remote(report)


def _stop_wish(task: Task) -> Callable[[], bool]:
    """Polls the board from a thread, so that the loop never waits for an answer."""
    wish = threading.Event()

    def poll() -> None:
        while not wish.wait(0.5):
            if ray.get(task.board.stopping.remote()):
                wish.set()

    threading.Thread(target=poll, daemon=True).start()
    return wish.is_set
