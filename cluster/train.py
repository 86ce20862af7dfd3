"""`aigc train`: a run in this process, or on Ray Train with any number of workers."""

import os
import sys
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from aigc import data, models, own_code, recipe
from aigc.artifact.manifest import NAME
from aigc.config import DataConfig, TrainConfig, require
from aigc.data_report import facts
from aigc.data_report.fitted import fitted, fitted_as
from aigc.files import expanded
from aigc.training import run_folder
from aigc.training.dry_run import describe
from aigc.training.lease import Claim, Lease
from aigc.training.loop import Outcome, SingleProcess
from aigc.training.object_store import RunStore, filesystem, is_remote, open_store
from aigc.training.preflight import check_rules, effect_warnings, rehearse
from aigc.training.progress_bar import Progress
from aigc.training.quality_log import read_quality
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext, RunReport
from aigc.training.stopping import decide
from aigc.training.thread_count import choose_threads
from cluster.base_config import base_config
from cluster.driver import one_driver, signals
from cluster.prometheus import Metrics


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    config_file: Annotated[str, tyro.conf.arg(name="config", metavar="FILE")] = ""
    """YAML of a whole config, in place of MODEL; flags win over it. --save writes one."""
    like: Annotated[str, tyro.conf.arg(metavar="RUN")] = ""
    """Run (folder, URI, or name in --storage) that gives a new run its config, in place of MODEL;
    flags win over it."""
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
    """Continue the run of that name from its newest checkpoint. `--resume NAME` in place of MODEL
    takes config and number of workers from the run."""
    code: Literal["same", "new"] = "same"
    """On --resume, the file or module of your own that changed since the run was begun: refused, or
    taken and noted in the run's history."""
    metrics_port: int | None = None
    """Port for Prometheus metrics of the run; 0 takes a free one. Not served by default."""
    dry_run: bool = False
    """Print the resolved config, the networks and their memory, and train nothing."""
    save: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """YAML file to write the resolved config to, for --config."""

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
    base = base_config(argv)
    if base is None:
        asked = argv[:1] in (["-h"], ["--help"])
        print(_usage(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    options = tyro.cli(
        Options,
        default=Options(config=base.config, name=base.name, workers=base.workers),
        args=base.flags,
        prog=f"aigc train {base.words}",
        description=f"Train {base.config.preset}.",
    )
    if base.workers != "0" and options.workers == base.workers:
        print(f"workers: {base.workers}, as when it was started last", file=sys.stderr)
    options = check_options(options, base.config.preset)
    if options.dry_run:
        options = _fit(options, base.config.data, base.given)
        _save(options)
        for warning in effect_warnings(options.config):
            print(warning, file=sys.stderr)
        print(describe(options.config))
        return 0
    print(run_with(options, base.config.data, base.given)[1])
    return 0


def run_with(options: Options, before: DataConfig, given: Collection[str]) -> tuple[Run, str]:
    """Train as checked options say; returns the run and its place, which the command prints.

    before, given: see fitted(). Raises ValueError, Diverged and what Ray raises.
    """
    remote = is_remote(options.storage)
    if remote:
        filesystem(options.storage)  # a bucket must be named
        uri = f"{options.storage.rstrip('/')}/{options.name}"
    else:
        uri = str(Path(options.storage) / options.name)
    store = open_store(uri)
    run = Run(store.folder)
    with one_driver(run, store) as lease:
        store.pull()
        options = _fit(options, before, given, run)
        _save(options)
        outcome = _train(run, options, store, lease)
    if outcome == "stopped":
        newest = run_folder.newest(run.checkpoints)
        samples = 0 if newest is None else int(newest.name)
        print(f"stopped after {samples:,} samples; continue with --resume", file=sys.stderr)
    return run, store.uri if remote else os.path.relpath(run.folder)


def _fit(
    options: Options, before: DataConfig, given: Collection[str], run: Run | None = None
) -> Options:
    """Options whose model fits the data, as it did when the run was begun."""
    if run is not None and run.exists:
        return replace(
            options, config=fitted_as(options.config, run.config(installed=False), before, given)
        )
    config, derived = fitted(options.config, before, given)
    if derived:
        print(f"derived from the data: {' '.join(derived)}; flags override", file=sys.stderr)
    return replace(options, config=config)


def _save(options: Options) -> None:
    if options.save:
        recipe.write(Path(expanded(options.save)), options.config)
        print(f"wrote {options.save}", file=sys.stderr)


def check_options(options: Options, preset: str) -> Options:
    """Options with expanded paths. Raises ValueError if options conflict or have no effect."""
    config = options.config
    require(
        config.preset == preset,
        f"--preset {config.preset} contradicts {preset}; run `aigc train"
        f" {config.preset}` for the other preset",
    )
    path = expanded(config.data.path)
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
                model=config.model.settled(),
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
    _check_begin(run, options)
    newest = run_folder.newest(run.checkpoints)
    trained = newest is not None and int(newest.name) >= config.samples
    if trained and not (config.evaluate_interval and run_folder.unmeasured(run.checkpoints)):
        print(
            f"all {config.samples:,} samples are trained on; --samples adds more", file=sys.stderr
        )
        return "done"
    rule = run_folder.ended_by_rule(run.folder)
    if rule is not None and decide(config, read_quality(run.folder)) is not None:
        print(
            f"{rule['rule']} has ended the run: {rule['reason']}; another --until or --patience"
            " goes on",
            file=sys.stderr,
        )
        return "done"
    # Errors of source and shape show here, before processes start. Ray's workers read on their own.
    held = replace(config.data, memory_mb=0) if options.world[1] else config.data
    source = data.load(held, config.model)
    check_rules(config, source)
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
        with signals() as stop:
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
        return min(run.config(installed=False).threads or most, most)
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
    with redirect_stdout(sys.stderr), cluster as folder, signals() as stop:
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


def _usage() -> str:
    lines = [
        "usage: aigc train MODEL[:PRESET] [--workers K|MIN..MAX] [options]",
        "       aigc train --config FILE | --like RUN | --resume NAME [options]",
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
