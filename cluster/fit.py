"""TorchTrainer round cluster.worker, watched from the driver."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray.train import Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from aigc.config import TrainConfig
from aigc.lease import Claim
from aigc.run import Report, Run
from aigc.storage import Mirror
from aigc.train import Outcome
from cluster import board, capacity
from cluster.board import News, Start
from cluster.elastic import CheckpointedElasticPolicy
from cluster.failure import ProgressPolicy, reason
from cluster.worker import Task, train_worker

PATIENCE_S = 20.0
"""After so long without a sign of life there is nobody left who could stop after a batch."""


class TrainingFailed(ArithmeticError):
    """The run ended with an error that a restart would meet again."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many workers, on what."""

    workers: tuple[int, int]
    """Fewest and most; equal for a fixed number."""
    threads: int
    """torch threads of each worker."""
    cpus: int = 1
    """CPUs that each worker reserves."""
    device: capacity.Device = "auto"
    resize_interval_s: float = 60.0
    """Between two looks for nodes that joined."""


def fit(
    run: Run,
    config: TrainConfig,
    shape: Shape,
    show: Callable[[Report], None],
    working: Callable[[int], None],
    stop: Callable[[], bool],
    claim: Claim,
    mirror: Mirror | None = None,
) -> Outcome:
    """Train a run on Ray until it is done or stopped; dead workers are restarted.

    `show` receives every report, `working` how many workers begin, or 0 when none is left; `stop`
    is asked twice a second; the workers see by `claim` whether the run is still this driver's.
    Raises ValueError if the cluster has no room, and then nothing was begun; TrainingFailed with
    the reason if the run cannot go on, and then the last good checkpoint stays.
    """
    low, high = shape.workers
    resources = capacity.per_worker(low, shape.cpus, shape.device)
    run.create(config)
    if mirror:
        mirror.push_files()
    channel = board.create()
    task = Task(
        folder=str(run.folder),
        directory=str(Path.cwd()),
        board=channel,
        threads=shape.threads,
        mirror=mirror.uri if mirror else "",
        claim=claim,
    )
    trainer = _Trainer(
        channel,
        train_worker,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=shape.resize_interval_s,
        ),
        run_config=RunConfig(
            # Ray's own bookkeeping; the truth for resume is run.checkpoints, so each attempt gets
            # a name.
            name=datetime.now().strftime("%Y%m%d-%H%M%S-%f"),
            **_bookkeeping(run, mirror),
        ),
    )
    # fit() blocks, and in the main thread it would take over SIGINT.
    attempt = _Attempt(trainer)
    attempt.start()
    watch = _Watch(show, working)
    while attempt.is_alive():
        attempt.join(0.5)
        if stop():
            channel.stop.remote()
        watch.take(channel)
        if stop() and watch.silent_s > PATIENCE_S:
            break
    watch.close()
    if attempt.error is not None:
        raise TrainingFailed(reason(attempt.error, watch.begun)) from None
    return "stopped" if attempt.result is None else attempt.result.return_value


def _bookkeeping(run: Run, mirror: Mirror | None) -> dict[str, Any]:
    """Where Ray Train keeps its own files: beside the run, on what all nodes see."""
    if mirror is None:
        return {"storage_path": str(run.folder / "ray")}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem = PyFileSystem(FSSpecHandler(mirror.filesystem))
    return {"storage_path": f"{mirror.root}/ray", "storage_filesystem": filesystem}


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer with our policies: Ray Train builds them where nothing else reaches."""

    def __init__(self, channel: Any, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._channel = channel

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["failure_policy"] = ProgressPolicy(self._channel)
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = CheckpointedElasticPolicy(self.scaling_config, self._channel)
        return super()._initialize_and_run_controller(**parts)


class _Attempt(threading.Thread):
    """fit(), until it returns or raises."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.trainer = trainer
        self.result: Result | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.trainer.fit()
        except BaseException as error:
            self.error = error


class _Watch:
    """Shows what the board says, and counts restarts and lost work."""

    def __init__(self, show: Callable[[Report], None], working: Callable[[int], None]) -> None:
        self.show, self.working = show, working
        self.starts: list[Start] = []
        self.heard = time.monotonic()
        self.told = False

    @property
    def begun(self) -> int:
        """Samples seen where the newest worker group began."""
        return self.starts[-1].samples if self.starts else 0

    @property
    def silent_s(self) -> float:
        """Since the last sign of life of rank 0."""
        return time.monotonic() - self.heard

    def take(self, channel: Any) -> None:
        """One round of news."""
        try:
            news: News = ray.get(channel.take.remote())
        except ray.exceptions.RayError as error:
            raise TrainingFailed(f"the Ray cluster is gone: {_first_line(error)}") from None
        for message in news.warnings:
            print(message, file=sys.stderr)
        for start in news.starts:
            if self.starts:
                print(_restarted(start), file=sys.stderr)
            self.starts.append(start)
            self.working(start.workers)
        for report in news.reports:
            self.show(report)
        if news.heard:
            self.heard, self.told = time.monotonic(), False
        elif self.silent_s > PATIENCE_S and not self.told:
            self.told = True
            self.working(0)
            print(f"no worker is running yet; free are {capacity.free()}", file=sys.stderr)

    def close(self) -> None:
        """Say what restarts have cost."""
        restarts = self.starts[1:]
        if restarts:
            lost = sum(start.lost for start in restarts)
            print(f"restarts {len(restarts)}, work_lost_samples {lost}", file=sys.stderr)


def _restarted(start: Start) -> str:
    workers = f"{start.workers} worker{'s' * (start.workers > 1)}"
    return (
        f"workers restarted from {start.samples:,} samples, {workers},"
        f" {start.lost:,} samples of work lost"
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
