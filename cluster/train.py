"""`aigc train`: a run in this process, or on Ray Train with any number of workers."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from filelock import FileLock, Timeout

from aigc import checkpoint, data, models
from aigc.config import TrainConfig, require
from aigc.dryrun import describe
from aigc.lease import Claim, Lease
from aigc.progress import Progress
from aigc.run import Report, Run, work
from aigc.storage import Mirror, is_remote, local_folder
from aigc.train import Alone, Outcome
from cluster.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workers: Annotated[str, tyro.conf.arg(metavar="K|MIN..MAX")] = "0"
    """Ray Train workers: a fixed number, or as many within MIN..MAX as there are nodes for; 0
    trains in this process without Ray."""
    address: str = ""
    """HOST:PORT of a running Ray cluster, or auto; by default Ray is started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is a GPU for each worker where there are any."""
    resize_interval_s: float = 60.0
    """With MIN..MAX workers: seconds between two looks for nodes that joined."""
    storage: str = "runs"
    """Folder that holds the runs, or an object store such as s3://bucket/runs; with several nodes
    one that all of them see."""
    name: str = ""
    """Name of the run; by default MODEL-PRESET."""
    resume: bool = False
    """Continue the run of that name from its newest checkpoint."""
    metrics_port: int | None = None
    """Port of Prometheus metrics of the run; 0 takes a free one. None are served by default."""
    dry_run: bool = False
    """Print the resolved config, the networks and their memory, and train nothing."""

    def __post_init__(self) -> None:
        low, high = self.world
        require(
            0 < low <= high or low == high == 0,
            f"workers must be K >= 0 or MIN..MAX with 1 <= MIN <= MAX, got {self.workers!r}",
        )
        require(
            high <= self.config.batch,
            f"workers must be at most the batch, {self.config.batch}, got {high}",
        )
        require(high > 0 or not self.address, "--address needs --workers; give at least 1")
        require(
            "://" not in self.address,
            f"address must be the HOST:PORT of a cluster that this machine is a node of, got"
            f" {self.address!r}; start `ray start --address HOST:PORT` here",
        )
        require(
            self.resize_interval_s > 0,
            f"resize_interval_s must be > 0, got {self.resize_interval_s}",
        )

    @property
    def world(self) -> tuple[int, int]:
        """Fewest and most workers. Raises ValueError if `workers` is no number or range."""
        low, dots, high = self.workers.partition("..")
        try:
            return int(low), int(high if dots else low)
        except ValueError:
            raise ValueError(
                f"workers must be a number or MIN..MAX, got {self.workers!r}"
            ) from None


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
    mirror: Mirror | None = None
    if is_remote(options.storage):
        uri = f"{options.storage.rstrip('/')}/{options.name}"
        mirror = Mirror(uri, local_folder(uri))
    folder = mirror.local if mirror else Path(options.storage).absolute() / options.name
    run = Run(folder)
    with _one_driver(run, mirror) as lease:
        outcome = _train(run, options, mirror, lease)
    if outcome == "stopped":
        newest = checkpoint.newest(run.checkpoints)
        samples = 0 if newest is None else int(newest.name)
        print(f"stopped after {samples:,} samples; continue with --resume", file=sys.stderr)
    print(mirror.uri if mirror else os.path.relpath(run.folder))
    return 0


def _train(run: Run, options: Options, mirror: Mirror | None, lease: Lease) -> Outcome:
    config = options.config
    if mirror:
        mirror.pull()
    data.load(config.data, config.model)  # a wrong source or shape shows here, before any process
    require(
        options.resume or not run.exists,
        f"{run.folder} exists; continue it with --resume or give another --name",
    )
    if run.exists:
        run.check_resume(config)
    elif options.resume:
        print(f"there is no run {options.name} yet; a new one begins", file=sys.stderr)
    newest = checkpoint.newest(run.checkpoints)
    metrics = Metrics(options.name, options.metrics_port)
    metrics.wanted(*(max(1, workers) for workers in options.world))
    progress = Progress(config.samples, initial=int(newest.name) if newest else 0)
    if metrics.url:
        print(f"metrics at {metrics.url}", file=sys.stderr)

    def written(path: Path) -> None:
        lease.check()
        if mirror:
            mirror.publish(path, lease.check)

    def show(report: Report) -> None:
        progress.show(report)
        metrics.observe(report)

    try:
        if options.world[1]:
            return _train_on_ray(run, options, show, metrics.working, lease.claim, mirror)
        import torch

        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
        require(device == options.device or options.device != "cuda", "--device cuda: none is here")
        run.create(config)
        if mirror:
            mirror.push_files()
        with _signals() as stop:
            dataset = data.load(config.data, config.model)
            outcome = work(
                run,
                config,
                dataset,
                Alone(),
                publish=show,
                stop=lambda samples: stop.is_set(),
                device=device,
                written=written,
            )
        if mirror:
            mirror.push_files()
        return outcome
    finally:
        progress.close()
        metrics.close()


def _train_on_ray(
    run: Run,
    options: Options,
    show: Callable[[Report], None],
    working: Callable[[int], None],
    claim: Claim,
    mirror: Mirror | None,
) -> Outcome:
    from cluster.local import local_ray, running_ray

    low, high = options.world
    threads = options.config.threads
    if low == high and not options.address:
        threads = threads or max(1, (os.cpu_count() or 1) // high)
    # Elsewhere the share of a machine would depend on how many workers happen to be on it.
    threads = threads or 1
    cluster = running_ray(options.address) if options.address else local_ray(high)
    # Ray prints other nodes' troubles to stdout, which is for the path alone.
    with redirect_stdout(sys.stderr), cluster, _signals() as stop:
        from cluster.fit import Shape, fit

        shape = Shape(
            workers=(low, high),
            threads=threads,
            cpus=threads if options.address else 1,
            device=options.device,
            resize_interval_s=options.resize_interval_s,
        )
        return fit(run, options.config, shape, show, working, stop.is_set, claim, mirror)


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
def _one_driver(run: Run, mirror: Mirror | None) -> Iterator[Lease]:
    """Keep a second driver out of a run, whichever machine it is on.

    The lock is for this machine and `aigc runs`, the lease for the others.
    """
    begun = run.exists
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / ".lock", timeout=1)  # `aigc runs` looks at it for a moment
    try:
        with lock, Lease(mirror.uri if mirror else str(run.folder), _give_up) as lease:
            yield lease
    except Timeout:
        raise ValueError(f"{run.folder} is being trained by another process") from None
    if not begun and not run.exists:
        with suppress(OSError):  # a refused start leaves nothing
            for name in (".lock", "lease.json", ".lease.json.lock", ".pull.lock"):
                (run.folder / name).unlink(missing_ok=True)
            run.folder.rmdir()


def _give_up(reason: str) -> None:
    """Not a step or a checkpoint more: another driver writes this run now."""
    print(f"aigc train: {reason}; this driver ends at once", file=sys.stderr, flush=True)
    os._exit(1)


def _usage() -> str:
    lines = [
        "usage: aigc train MODEL[:PRESET] [--workers K|MIN..MAX] [options]",
        "",
        "models and presets:",
    ]
    width = max(map(len, models.names())) + 2
    for name in models.names():
        lines.append(f"  {name:<{width}}{', '.join(models.load(name).PRESETS)}")
    lines += ["", "`aigc train MODEL:PRESET --help` lists the options with their defaults."]
    return "\n".join(lines)
