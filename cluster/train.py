"""`aigc train`: a run in this process, or on Ray Train with any number of workers."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from filelock import FileLock, Timeout

from aigc import data, models, own_code
from aigc.artifact.manifest import NAME
from aigc.config import TrainConfig, require
from aigc.data_report import facts
from aigc.files import expanded
from aigc.training import run_folder
from aigc.training.dry_run import describe
from aigc.training.lease import Claim, Lease
from aigc.training.loop import Outcome, SingleProcess
from aigc.training.object_store import RunStore, filesystem, is_remote, open_store
from aigc.training.preflight import rehearse
from aigc.training.progress_bar import Progress
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext, RunReport
from aigc.training.thread_count import choose_threads
from cluster.prometheus import Metrics


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workers: Annotated[str, tyro.conf.arg(metavar="K|MIN..MAX")] = "0"
    """Ray Train workers: a fixed number, or as many within MIN..MAX as the nodes have room for; 0
    trains in this process without Ray."""
    address: str = ""
    """HOST:PORT of a running Ray cluster, or auto; by default Ray is started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU for each worker if there are GPUs."""
    resize_interval_s: float = 60.0
    """With MIN..MAX workers: seconds between two checks for nodes that joined."""
    storage: str = "runs"
    """Folder that holds the runs, or an object store such as s3://bucket/runs; with several nodes
    it must be shared by all of them."""
    name: str = ""
    """Name of the run, 1 to 64 of a-z 0-9 . _ - that start with a letter or digit; by default
    MODEL-PRESET."""
    resume: bool = False
    """Continue the run of that name from its newest checkpoint."""
    code: Literal["same", "new"] = "same"
    """On --resume, the file or module of your own that changed since the run was begun: refused, or
    taken and noted in the run's history."""
    metrics_port: int | None = None
    """Port for Prometheus metrics of the run; 0 takes a free one. Not served by default."""
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
            self.metrics_port is None or 0 <= self.metrics_port < 1 << 16,
            f"metrics_port must be in [0, 65535], got {self.metrics_port}",
        )
        require(
            self.resize_interval_s > 0,
            f"resize_interval_s must be > 0, got {self.resize_interval_s}",
        )

    @property
    def world(self) -> tuple[int, int]:
        """Least and largest number of workers. Raises ValueError for anything but K or MIN..MAX."""
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
        default=Options(config=preset, name=models.run_name(preset)),
        args=argv[1:],
        prog=f"aigc train {argv[0]}",
        description=f"Train {preset.preset}.",
    )
    options = _check_options(options, preset.preset)
    if options.dry_run:
        print(describe(options.config))
        return 0
    remote = is_remote(options.storage)
    if remote:
        filesystem(options.storage)  # a bucket must be named
        uri = f"{options.storage.rstrip('/')}/{options.name}"
    else:
        uri = str(Path(options.storage) / options.name)
    store = open_store(uri)
    run = Run(store.folder)
    with _one_driver(run, store) as lease:
        outcome = _train(run, options, store, lease)
    if outcome == "stopped":
        newest = run_folder.newest(run.checkpoints)
        samples = 0 if newest is None else int(newest.name)
        print(f"stopped after {samples:,} samples; continue with --resume", file=sys.stderr)
    print(store.uri if remote else os.path.relpath(run.folder))
    return 0


def _check_options(options: Options, preset: str) -> Options:
    """Options with expanded paths. Raises ValueError if options conflict or have no effect."""
    config = options.config
    require(
        config.preset == preset,
        f"--preset {config.preset} contradicts {preset}; run `aigc train"
        f" {config.preset}` for the other preset",
    )
    source, path = config.data.source, expanded(config.data.path)
    readers = [name for name in data.names() if name not in data.PATHLESS]
    require(
        not path or source not in data.PATHLESS,
        f"--data.path {path} has no effect: data source {source} reads no files; say what reads it,"
        f" such as --data.source folder (there are: {', '.join(readers)}), or leave the path out",
    )
    name = options.name
    require(
        name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name) and len(name) <= 255,
        f"--name must be the name of a folder in --storage, 1 to 64 of a-z 0-9 . _ -, got"
        f" {name[:80]!r}; a run elsewhere wants another --storage",
    )
    require(
        options.storage != "",
        "--storage is empty; give the folder of the runs, such as runs, or . for this one",
    )
    return replace(
        options,
        storage=expanded(options.storage),
        config=own_code.settled(
            replace(
                config,
                data=replace(config.data, path=path),
                init_from=expanded(config.init_from),
            )
        ),
    )


def _check_begin(run: Run, options: Options) -> None:
    """Raise ValueError unless a run may begin or go on in this folder."""
    require(
        options.resume or not run.exists,
        f"{run.folder} exists; continue it with --resume or give another --name",
    )
    if run.exists:  # its name is as it was when it was begun
        run.check_resume(options.config, new_code=options.code == "new")
        return
    require(
        NAME.fullmatch(options.name) is not None,
        f"--name must be 1 to 64 of a-z 0-9 . _ - and start with a letter or digit, got"
        f" {options.name!r}",
    )
    if options.resume:
        print(f"there is no run {options.name} yet; starting a new one", file=sys.stderr)


def _train(run: Run, options: Options, store: RunStore, lease: Lease) -> Outcome:
    config = options.config
    store.pull()
    _check_begin(run, options)
    newest = run_folder.newest(run.checkpoints)
    if newest is not None and int(newest.name) >= config.samples:
        print(
            f"all {config.samples:,} samples are trained on; --samples adds more", file=sys.stderr
        )
        return "done"
    # Errors of source and shape show here, before processes start. Ray's workers read on their own.
    held = replace(config.data, memory_mb=0) if options.world[1] else config.data
    source = data.load(held, config.model)
    if newest is None:
        for warning in rehearse(config, source):
            print(warning, file=sys.stderr)
    print("\n".join(facts.lines(facts.facts(config.data, source))), file=sys.stderr)
    config = replace(config, threads=_threads(run, options, source))
    options = replace(options, config=config)
    metrics = Metrics(options.name, options.metrics_port)
    metrics.wanted(*(max(1, workers) for workers in options.world))
    progress = Progress(config.samples, initial=int(newest.name) if newest else 0)
    if metrics.url:
        print(f"metrics at {metrics.url}", file=sys.stderr)

    def show(report: RunReport) -> None:
        progress.show(report)
        metrics.observe(report)

    try:
        if options.world[1]:
            context = RunContext(store=store, on_report=show, on_workers=metrics.working)
            return _train_on_ray(context, options, lease.claim)
        torch.set_num_threads(config.threads)
        device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
        require(device == options.device or options.device != "cuda", "--device cuda: none is here")
        run.create(config)
        store.push_files()
        with _signals() as stop:
            context = RunContext(
                store=store,
                check_lease=lease.check,
                stop=lambda samples: stop.is_set(),
                on_report=show,
            )
            outcome = train_run(context, config, source, SingleProcess(device))
        store.push_files()
        return outcome
    finally:
        progress.close()
        metrics.close()


def _threads(run: Run, options: Options, source: data.Source) -> int:
    """Torch threads of each worker: from the options, from the run, or chosen by a trial."""
    if options.config.threads:
        return options.config.threads
    low, high = options.world
    most = os.cpu_count() or 1
    if high:
        # On a cluster the share of a machine would depend on the number of workers on it.
        most = max(1, most // high) if low == high and not options.address else 1
    if run.exists:
        return min(run.config().threads or most, most)
    if torch.cuda.is_available() and options.device != "cpu":
        return most
    share = replace(options.config, batch=max(2, options.config.batch // max(1, high)))
    threads, factor = choose_threads(share, source, most)
    if most > 1:
        other = 1 if threads > 1 else most
        print(
            f"threads: {threads}, as a batch takes {factor:.2f} times as long with {other};"
            " --threads sets another number",
            file=sys.stderr,
        )
    return threads


def _train_on_ray(context: RunContext, options: Options, claim: Claim) -> Outcome:
    from cluster.ray_session import local_ray, running_ray

    _, high = options.world
    threads = options.config.threads
    cluster = running_ray(options.address) if options.address else local_ray(high)
    # Ray prints problems of other nodes to stdout, which is for the path alone.
    with redirect_stdout(sys.stderr), cluster as folder, _signals() as stop:
        from cluster.trainer import WorkerSpec, fit

        spec = WorkerSpec(
            workers=options.world,
            threads=threads,
            cpus=threads if options.address else 1,
            device=options.device,
            resize_interval_s=options.resize_interval_s,
            rendezvous=folder,
        )
        context = replace(context, stop=lambda samples: stop.is_set())
        return fit(context, options.config, spec, claim)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set the event on SIGINT, SIGTERM and SIGHUP: the run stops after its batch with a checkpoint.

    A second SIGINT or SIGTERM interrupts at once. An ignored SIGHUP, as under nohup, stays ignored.
    Enter this after ray.init(), which replaces the handlers.
    """
    stop = threading.Event()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGHUP:  # when a terminal closes, kernel and shell send one each
            _redirect_to_null(terminals)
        elif stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(OSError):
            print("stopping after this batch; once more to stop at once", file=sys.stderr)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _redirect_to_null(terminals: list[int]) -> None:
    """Redirect the descriptors of a closed terminal, where every write would fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(null, number)
    os.close(null)


@contextmanager
def _one_driver(run: Run, store: RunStore) -> Iterator[Lease]:
    """Keep a second driver out of a run, whichever machine it is on.

    The lock is for this machine and `aigc runs`, the lease for other machines. A refused start
    leaves neither of them, nor the folders that were created for them.
    """
    begun = run.exists
    created = [folder for folder in (run.folder, *run.folder.parents) if not folder.exists()]
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / ".lock", timeout=1)  # `aigc runs` holds it for a moment
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{run.folder} is being trained by another process") from None
    try:
        lease = Lease(store.uri, _give_up)
        try:
            with lease:
                yield lease
        finally:
            if not begun and not run.exists:
                lease.leave_nothing()
                _leave_nothing(run.folder, created)
    finally:
        lock.release()


def _leave_nothing(folder: Path, created: list[Path]) -> None:
    """Remove the locks of a run that was never begun, and the folders created for it."""
    if (folder / run_folder.LEASE).exists():  # another driver's
        return
    with suppress(OSError):
        for name in (".pull.lock", ".lock"):
            (folder / name).unlink(missing_ok=True)
        for each in created:
            each.rmdir()


def _give_up(reason: str) -> None:
    """End this process at once: another driver writes the run now."""
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
    for name, where in own_code.listed(own_code.MODELS):
        lines.append(f"  {name:<{width}}from {where}")
    lines += ["  ./FILE.py or PACKAGE.MODULE, a model of your own: docs/own-models.md"]
    lines += ["", "`aigc train MODEL:PRESET --help` lists the options with their defaults."]
    return "\n".join(lines)
