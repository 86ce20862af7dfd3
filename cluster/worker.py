"""The function of a Ray Train worker: its share of the run, from the newest checkpoint on."""

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

from aigc import data
from aigc.data import Sharded
from aigc.own_code import code_files
from aigc.training import run_folder
from aigc.training.dataloader import Stream
from aigc.training.lease import Claim
from aigc.training.loop import Outcome
from aigc.training.object_store import open_store
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from aigc.training.step import barrier
from cluster.collectives import ProcessGroup
from cluster.coordinator import Command
from cluster.failure_policy import Preempted
from cluster.ray_data import stream

BEAT_S = 0.4
"""Interval between messages to the coordinator: the resolution of a killed worker's progress."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Argument of `train_worker`."""

    folder: str
    directory: str
    """Working directory of the driver, which paths in the config are relative to."""
    coordinator: Any
    """Handle of a cluster.coordinator.RunCoordinator."""
    threads: int
    store: str
    """URI of the run's store; its folder, shared by all nodes, if there is none."""
    claim: Claim
    """The driver's lease; nothing may be written without it."""


def train_worker(arguments: dict[str, Any]) -> Outcome:
    """Train until done or stopped; cluster.failure_policy decides which exceptions merit a restart.

    Raises Preempted, on every worker at once and after a checkpoint, to yield to another group. An
    exception whose class is a user's crosses as a ValueError or RuntimeError of the same message:
    other processes lack the class.
    """
    try:
        return _train(arguments["task"])
    except Exception as error:
        if not code_files.is_own(error):
            raise
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        message = f"{type(error).__name__}: {error} ({code_files.place(error)})"
        raise kind(message) from None


def _train(task: Task) -> Outcome:
    # Ray Train works in a folder of its own. A node without the driver's directory cannot have
    # data there either, and the data source says so.
    with suppress(OSError):
        os.chdir(task.directory)
    torch.set_num_threads(task.threads)
    group = ProcessGroup(get_device())
    run = Run(task.folder)
    store = open_store(task.store, run.folder)
    if get_context().get_local_rank() == 0:
        store.pull()
    barrier(group)  # the other workers of the node read what was pulled
    config = run.config()
    samples = _common_start(run, group)
    source = data.load(config.data, config.model)
    shards: Stream | None = None
    if isinstance(source, Sharded):
        shards = partial(stream, source, config, rank=group.rank, world_size=group.world_size)
    if group.rank != 0:
        outcome = train_run(RunContext(store=store), config, source, group, shards)
        return _leave(group, outcome, "")
    with _DriverLink(task.coordinator, run, samples, group.world_size) as link:
        context = RunContext(
            store=store,
            check_lease=task.claim.check,
            stop=link.stop,
            on_report=task.coordinator.report.remote,
            lost_samples=link.lost,
        )
        outcome = train_run(context, config, source, group, shards)
        store.push_files()  # the last lines are written after the last checkpoint
        return _leave(group, outcome, link.command)


def _common_start(run: Run, group: ProcessGroup) -> int:
    """Samples seen in the newest checkpoint, the same for all workers.

    Raises RuntimeError where a node's view of the shared folder differs, which another start may
    find settled.
    """
    newest = run_folder.newest(run.checkpoints)
    own = 0 if newest is None else int(newest.name)
    first = torch.tensor([own], device=group.device)
    group.broadcast([first])
    if own != int(first):
        raise RuntimeError(
            f"worker {group.rank} finds {own:,} samples in {run.checkpoints}, worker 0 finds"
            f" {int(first):,}; --storage must be one folder that all nodes see alike"
        )
    return own


def _leave(group: ProcessGroup, outcome: Outcome, command: Command) -> Outcome:
    """Return rank 0's outcome, or raise Preempted everywhere if it was told to yield.

    The all-reduce is a barrier as well: Ray Train kills a group as soon as it hears of an
    exception, and rank 0 may still be writing.
    """
    yields = torch.tensor([float(command == "yield")], device=group.device)
    group.all_reduce(yields)
    if outcome == "stopped" and yields.item() > 0:
        raise Preempted("the workers yielded to another group")
    return outcome


class _DriverLink(logging.Handler):
    """Rank 0's link to the coordinator, in a thread, so that the loop never waits for an answer."""

    def __init__(self, coordinator: Any, run: Run, samples: int, workers: int) -> None:
        super().__init__(logging.WARNING)
        self._coordinator = coordinator
        self._samples = samples
        self._closed = threading.Event()
        self.command: Command = ""
        self.lost: int = ray.get(
            coordinator.started.remote(samples, workers, _reported_samples(run.folder))
        )
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def stop(self, samples: int) -> bool:
        """The loop's `stop`, called after every batch: notes the samples seen."""
        self._samples = samples
        return bool(self.command)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning to the driver's stderr."""
        self._coordinator.warn.remote(record.getMessage())

    def __enter__(self) -> "_DriverLink":
        logging.getLogger("aigc").addHandler(self)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()
        ray.get(self._coordinator.seen.remote(self._samples))

    def _beat(self) -> None:
        context = get_train_context().preemption_context
        while not self._closed.wait(BEAT_S):
            try:
                command: Command = ray.get(self._coordinator.seen.remote(self._samples))
            except ray.exceptions.ActorDiedError:
                # The driver is gone, and the next one may start a rank 0 at any moment.
                os._exit(1)
            except ray.exceptions.RayError:
                continue
            # The node will be drained: save, and go on without it.
            self.command = command or self.command or ("yield" if context.preemption_info else "")


def _reported_samples(folder: Path) -> int:
    """Samples seen at the last report; 0 without one."""
    samples = run_folder.last_report(folder).get("samples")
    return samples if isinstance(samples, int) else 0
