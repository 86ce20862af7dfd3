"""Ray's TorchTrainer over cluster.worker, watched from the driver."""

import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray.train import Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from aigc.config import TrainConfig
from aigc.training.lease import Claim
from aigc.training.loop import Outcome
from aigc.training.run import Run
from aigc.training.run_context import RunContext
from aigc.training.run_folder import RAY
from cluster import coordinator
from cluster.coordinator import Updates, WorkerGroupStart
from cluster.elastic_policy import CheckpointedElasticPolicy
from cluster.failure_policy import ProgressPolicy, reason
from cluster.rendezvous import FileConfig
from cluster.resources import Device, describe_free, resources_per_worker
from cluster.worker import Task, train_worker

SILENCE_S = 20.0
"""Silence after which there is no worker left to stop after its batch."""


class TrainingFailed(ArithmeticError):
    """The run ended with an error that another start would meet again."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """Number of workers and their resources."""

    workers: tuple[int, int]
    """Least and largest number; equal for a fixed number."""
    threads: int
    """torch threads of each worker."""
    cpus: int = 1
    """CPUs that each worker reserves."""
    device: Device = "auto"
    resize_interval_s: float = 60.0
    """Interval between two checks for nodes that joined."""
    rendezvous: Path | None = None
    """Private folder in which workers of one machine find each other; TCP without one."""


def fit(context: RunContext, config: TrainConfig, spec: WorkerSpec, claim: Claim) -> Outcome:
    """Train a run on Ray until it is done or stopped; dead workers are restarted.

    `context.stop` is called twice a second with the samples of the last report. The workers write
    only while `claim` holds. Raises ValueError if the cluster has no room, and then nothing was
    begun; TrainingFailed with the reason if the run cannot go on, and then the last good
    checkpoint stays.
    """
    low, high = spec.workers
    resources = resources_per_worker(low, spec.cpus, spec.device)
    store = context.store
    Run(store.folder).create(config)
    store.push_files()
    channel = coordinator.create()
    task = Task(
        folder=str(store.folder),
        directory=str(Path.cwd()),
        coordinator=channel,
        threads=spec.threads,
        store=store.uri,
        claim=claim,
    )
    storage_path, filesystem = store.arrow()
    trainer = _Trainer(
        channel,
        spec,
        train_worker,
        train_loop_config={"task": task},
        torch_config=FileConfig(folder=str(spec.rendezvous)) if spec.rendezvous else None,
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=spec.resize_interval_s,
        ),
        run_config=RunConfig(
            # Ray's own bookkeeping, beside the run, where all nodes see it. Runs are resumed from
            # their checkpoints and not from it, so each start gets a new name.
            name=datetime.now().strftime("%Y%m%d-%H%M%S-%f"),
            storage_path=f"{storage_path}/{RAY}",
            storage_filesystem=filesystem,
        ),
    )
    # fit() blocks, and in the main thread it would take over SIGINT.
    thread = _TrainerThread(trainer)
    thread.start()
    monitor = _ProgressMonitor(context)
    while thread.is_alive():
        thread.join(0.5)
        stop = context.stop(monitor.samples)
        if stop:
            channel.stop.remote()
        monitor.take(channel)
        if stop and monitor.silent_s > SILENCE_S:
            break
    monitor.close()
    if thread.error is not None:
        raise TrainingFailed(reason(thread.error, monitor.begun)) from None
    return "stopped" if thread.result is None else thread.result.return_value


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer with our policies, which only the start of the controller lets us set."""

    def __init__(self, channel: Any, spec: WorkerSpec, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._channel = channel
        self._spec = spec

    def _create_default_callbacks(self) -> list[Any]:
        """Ray Train's, without two whose actors take seconds to start and have nothing to do.

        One hands out Ray Data's datasets, of which a run has none. The other removes what a dead
        controller has reserved, which Ray itself does when the driver ends.
        """
        return [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, DatasetsCallback | PlacementGroupCleanerCallback)
        ]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["failure_policy"] = ProgressPolicy(self._channel)
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = CheckpointedElasticPolicy(self.scaling_config, self._channel)
        elif self._spec.rendezvous is not None:
            parts["scaling_policy"] = _OneMachinePolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class _OneMachinePolicy(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed number of workers, without requests to an autoscaler: one machine has none."""

    def _maybe_send_resource_request(self) -> None:
        pass

    def _send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class _TrainerThread(threading.Thread):
    """Runs fit() until it returns or raises."""

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


class _ProgressMonitor:
    """Passes the coordinator's updates on, and counts restarts and lost work."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.starts: list[WorkerGroupStart] = []
        self.samples = 0
        """Samples of the last report."""
        self.last_sign = time.monotonic()
        self.warned = False

    @property
    def begun(self) -> int:
        """Samples seen at the start of the newest worker group."""
        return self.starts[-1].samples if self.starts else 0

    @property
    def silent_s(self) -> float:
        """Time since the last sign of life of rank 0."""
        return time.monotonic() - self.last_sign

    def take(self, channel: Any) -> None:
        """Fetch and pass on the updates since the last call. Raises TrainingFailed without Ray."""
        try:
            updates: Updates = ray.get(channel.take.remote())
        except ray.exceptions.RayError as error:
            raise TrainingFailed(f"the Ray cluster is gone: {_first_line(error)}") from None
        for message in updates.warnings:
            print(message, file=sys.stderr)
        for start in updates.starts:
            if self.starts:
                print(_restart_message(start), file=sys.stderr)
            self.starts.append(start)
            self.context.on_workers(start.workers)
        for report in updates.reports:
            self.samples = report.samples
            self.context.on_report(report)
        if updates.heard:
            self.last_sign, self.warned = time.monotonic(), False
        elif self.silent_s > SILENCE_S and not self.warned:
            self.warned = True
            self.context.on_workers(0)
            print(f"no worker is running yet; free are {describe_free()}", file=sys.stderr)

    def close(self) -> None:
        """Print the cost of the restarts."""
        restarts = self.starts[1:]
        if restarts:
            lost = sum(start.lost for start in restarts)
            print(f"restarts {len(restarts)}, work_lost_samples {lost}", file=sys.stderr)


def _restart_message(start: WorkerGroupStart) -> str:
    workers = f"{start.workers} worker{'s' * (start.workers > 1)}"
    return (
        f"workers restarted from {start.samples:,} samples, {workers},"
        f" {start.lost:,} samples of work lost"
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
