"""`aigc train`: a run in this process, or on Ray Train with any number of workers."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aigc import data, models
from aigc.config import TrainConfig, require
from aigc.dryrun import describe
from aigc.progress import Progress
from aigc.run import Run, work
from aigc.train import Alone, Outcome


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workers: int = 0
    """Ray Train workers; 0 trains in this process without Ray."""
    storage: str = "runs"
    """Folder that holds the runs."""
    name: str = ""
    """Name of the run; by default MODEL-PRESET."""
    resume: bool = False
    """Continue the run of that name from its newest checkpoint."""
    dry_run: bool = False
    """Print the resolved config, the networks and their memory, and train nothing."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, f"workers must be >= 0, got {self.workers}")
        require(
            self.workers <= self.config.batch,
            f"workers must be at most the batch, {self.config.batch}, got {self.workers}",
        )


def command(argv: list[str]) -> int:
    """Train a model on one process or many workers; resumable, exact."""
    if not argv or argv[0].startswith("-"):
        print(_usage(), file=sys.stdout if argv and argv[0] in ("-h", "--help") else sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    preset = models.preset(argv[0])
    options = tyro.cli(
        Options,
        default=Options(config=preset, name=preset.preset.replace(":", "-")),
        args=argv[1:],
        prog=f"aigc train {argv[0]}",
        description=f"Train {preset.preset}.",
    )
    if options.dry_run:
        print(describe(options.config))
        return 0
    run = Run(Path(options.storage).absolute() / options.name)
    with _one_driver(run):
        outcome = _train(run, options)
    newest = run.facts()["samples"]
    if outcome == "stopped":
        print(f"stopped after {newest:,} samples; continue with --resume", file=sys.stderr)
    print(os.path.relpath(run.folder))
    return 0


def _train(run: Run, options: Options) -> Outcome:
    config = options.config
    data.load(config.data, config.model)  # a wrong source or shape shows here, before any process
    require(
        options.resume or not run.exists,
        f"{run.folder} exists; continue it with --resume or give another --name",
    )
    if run.exists:
        run.check_resume(config)
    run.create(config)
    progress = Progress(config.samples)
    try:
        if options.workers:
            return _train_on_ray(run, options, progress)
        import torch

        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with _signals() as stop:
            dataset = data.whole(data.load(config.data, config.model), config.data.on_error)
            return work(run, config, dataset, Alone(), progress.show, stop.is_set, device)
    finally:
        progress.close()


def _train_on_ray(run: Run, options: Options, progress: Progress) -> Outcome:
    from cluster.local import local_ray

    with local_ray(options.workers), _signals() as stop:
        from cluster.fit import fit

        return fit(run, options.workers, progress.show, stop.is_set)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event: the run stops after its batch with a checkpoint.

    The second signal interrupts at once. Entered after ray.init(), which replaces the handlers.
    """
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        print("stopping after this batch; once more to stop at once", file=sys.stderr)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _one_driver(run: Run) -> Iterator[None]:
    """Keep a second driver out of a run."""
    from filelock import FileLock, Timeout

    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{run.folder} is being trained by another process") from None


def _usage() -> str:
    lines = ["usage: aigc train MODEL[:PRESET] [--workers K] [options]", "", "models and presets:"]
    for name in models.names():
        lines.append(f"  {name:<10}{', '.join(models.load(name).PRESETS)}")
    lines += ["", "`aigc train MODEL:PRESET --help` lists the options with their defaults."]
    return "\n".join(lines)
