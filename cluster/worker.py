"""What one Ray Train worker does: its share of the run, from the newest checkpoint on."""

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import get_context
from ray.train.torch import get_device
from ray.train.v2._internal.execution.context import get_train_context

from aigc import checkpoint, data
from aigc.data import Sharded
from aigc.feed import Stream
from aigc.lease import Claim
from aigc.run import Run, work
from aigc.storage import Mirror
from aigc.train import Outcome
from cluster.board import Wish
from cluster.data import stream
from cluster.failure import Yielded
from cluster.sync import ProcessGroup

BEAT_S = 0.4
"""Between two messages to the board: what a killed worker has seen is known to within this."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Argument of `train_worker`."""

    folder: str
    directory: str
    """Of the driver: what a relative path in the config is relative to."""
    board: Any
    """Handle of a cluster.board.Board."""
    threads: int
    mirror: str
    """URI of the run on an object store; "" if its folder is shared by all nodes."""
    claim: Claim
    """What the driver holds of the run; without it nothing more may be written."""


def train_worker(arguments: dict[str, Any]) -> Outcome:
    """Train until done or stopped; cluster.failure says which exceptions are worth a restart.

    Raises Yielded, on every worker at once and after a checkpoint, to make way for another group.
    """
    task: Task = arguments["task"]
    # Ray Train works in a folder of its own. A node without the driver's directory cannot have
    # data there either, and the data source says so.
    with suppress(OSError):
        os.chdir(task.directory)
    torch.set_num_threads(task.threads)
    sync = ProcessGroup()
    run = Run(task.folder)
    mirror = Mirror(task.mirror, run.folder) if task.mirror else None
    if mirror:
        if get_context().get_local_rank() == 0:
            mirror.pull()
        sync.sum(torch.zeros(1, device=get_device()))  # the others of the node read what is there
    config = run.config()
    samples = _common_start(run, sync)
    source = data.load(config.data, config.model)
    shards: Stream | None = None
    if isinstance(source, Sharded):
        shards = partial(stream, source, config, rank=sync.rank, world=sync.world)
    if sync.rank != 0:
        outcome = work(run, config, source, sync, device=get_device(), stream=shards)
        return _leave(sync, outcome, "")

    def written(path: Path) -> None:
        task.claim.check()
        if mirror:
            mirror.publish(path, task.claim.check)

    with _Link(task.board, run, samples, sync.world) as link:
        outcome = work(
            run,
            config,
            source,
            sync,
            publish=task.board.report.remote,
            stop=link.stop,
            device=get_device(),
            stream=shards,
            written=written,
            lost_samples=link.lost,
        )
        if mirror:
            mirror.push_files()  # the last lines are written after the last checkpoint
        return _leave(sync, outcome, link.wish)


def _common_start(run: Run, sync: ProcessGroup) -> int:
    """Samples seen in the newest checkpoint, the same for all workers.

    Raises RuntimeError where a node's view of the shared folder differs; another start may find
    it settled.
    """
    found = checkpoint.newest(run.checkpoints)
    own = 0 if found is None else int(found.name)
    first = torch.tensor([own], device=get_device())
    sync.broadcast([first])
    if own != int(first):
        raise RuntimeError(
            f"worker {sync.rank} finds {own:,} samples in {run.checkpoints}, worker 0 finds"
            f" {int(first):,}; --storage must be one folder that all nodes see alike"
        )
    return own


def _leave(sync: ProcessGroup, outcome: Outcome, wish: Wish) -> Outcome:
    """Return rank 0's outcome, or raise Yielded everywhere if the driver did not want an end.

    The sum is a barrier: Ray Train kills a group as soon as it hears of an exception, and rank 0
    may still be writing.
    """
    yields = torch.tensor([float(wish == "yield")], device=get_device())
    sync.sum(yields)
    if outcome == "stopped" and yields.item() > 0:
        raise Yielded("the workers made way for another group")
    return outcome


class _Link(logging.Handler):
    """Rank 0's line to the board, from a thread, so that the loop never waits for an answer."""

    def __init__(self, board: Any, run: Run, samples: int, workers: int) -> None:
        super().__init__(logging.WARNING)
        self._board = board
        self._samples = samples
        self._closed = threading.Event()
        self.wish: Wish = ""
        self.lost: int = ray.get(board.started.remote(samples, workers, _reported(run)))
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def stop(self, samples: int) -> bool:
        """For the loop, after every batch: notes the samples seen, says whether to stop."""
        self._samples = samples
        return bool(self.wish)

    def emit(self, record: logging.LogRecord) -> None:
        """A warning of ours goes to the driver's stderr."""
        self._board.warn.remote(record.getMessage())

    def __enter__(self) -> "_Link":
        logging.getLogger("aigc").addHandler(self)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()
        ray.get(self._board.seen.remote(self._samples))

    def _beat(self) -> None:
        context = get_train_context().preemption_context
        while not self._closed.wait(BEAT_S):
            try:
                wish: Wish = ray.get(self._board.seen.remote(self._samples))
            except ray.exceptions.ActorDiedError:
                # The driver is gone, and the next one may start a rank 0 at any moment.
                os._exit(1)
            except ray.exceptions.RayError:
                continue
            # A node that is drained is told so in time: save, and go on without it.
            self.wish = wish or self.wish or ("yield" if context.preemption_info else "")


def _reported(run: Run) -> int:
    """Samples of the newest whole line of metrics.jsonl; 0 without one."""
    path = run.folder / "metrics.jsonl"
    for line in reversed(path.read_text().splitlines() if path.exists() else []):
        with suppress(ValueError, KeyError):
            return int(json.loads(line)["samples"])
    return 0
