"""`aigc tune`: search fields of a config for the best quality, on Ray Tune with ASHA."""

import argparse
import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from filelock import FileLock, Timeout

from aigc import data, own_code
from aigc.artifact.manifest import NAME
from aigc.config import TrainConfig, require
from aigc.data_report.fitted import fitted
from aigc.files import expanded
from aigc.suggest import alternatives
from aigc.training.object_store import is_remote
from aigc.training.preflight import measured_metric, rehearse
from cluster.base_config import base_config
from cluster.driver import signals
from cluster.search import Plan, Search
from cluster.search_space import Dimension, changed, points, settled, without_effect


@dataclass(frozen=True, kw_only=True)
class Options:
    """Search fields of a config for the best quality."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    over: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=...")]
    """A field of the config and its values: `batch=32,64,128`, `model.latent=int:8..64`,
    `ema_warmup=0.01..0.1`, `model.generator_optimizer.learning_rate=log:1e-5..1e-2`. Given once per
    field. --samples is the budget of a trial."""
    trials: int = 16
    """Number of trials; the first is the config as it is."""
    metric: str = "quality"
    """Metric that decides, lower being better: `quality` or the name that it has for these data,
    such as frechet/cnn64. --quality takes one of your own."""
    reduction: int = 3
    """One trial in so many goes on beyond each rung."""
    rungs: int = 3
    """Number of measurements of a trial that has its whole budget: each is after --reduction times
    the samples of the one before."""
    parallel: int = 0
    """Trials at the same time; 0 takes one per GPU, or per processor."""
    search_seed: int = 0
    """Seed of the values that are tried."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU for each trial if there are GPUs."""
    storage: str = "runs"
    """Folder that holds the search."""
    name: str = ""
    """Name of the search, by default tune-MODEL-PRESET. `aigc tune --resume NAME` continues it."""

    def __post_init__(self) -> None:
        require(
            bool(self.over),
            "give at least one --over FIELD=VALUES, such as --over batch=32,64,128",
        )
        require(self.trials > 1, f"trials must be > 1, got {self.trials}")
        require(self.reduction > 1, f"reduction must be > 1, got {self.reduction}")
        require(self.rungs > 0, f"rungs must be > 0, got {self.rungs}")
        require(self.parallel >= 0, f"parallel must be >= 0, got {self.parallel}")

    @property
    def first_rung(self) -> int:
        """Samples seen at the first rung."""
        return -(-self.config.samples // int(self.reduction ** (self.rungs - 1)))


def command(argv: list[str]) -> int:
    """Search fields of a config for the best quality; resumable."""
    if "--resume" in argv or any(word.startswith("--resume=") for word in argv):
        return _resume(argv)
    base = base_config(argv)
    if base is None:
        asked = argv[:1] in (["-h"], ["--help"])
        usage = (
            "usage: aigc tune MODEL[:PRESET] --over FIELD=VALUES ... [options of aigc train]\n"
            "       aigc tune --config FILE | --like RUN --over FIELD=VALUES ...\n"
            "       aigc tune --resume NAME [--storage DIR] [--parallel K]\n\n"
            "`aigc tune MODEL:PRESET --help` lists the options with their defaults."
        )
        print(usage, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    options = tyro.cli(
        Options,
        default=Options(config=base.config, over=("",), name=f"tune-{base.name}"),
        args=base.flags,
        prog=f"aigc tune {base.words}",
        description=f"Search fields of {base.config.preset} for the best quality.",
    )
    search = _begin(
        replace(options, over=tuple(filter(None, options.over))), base.config, base.given
    )
    return _run(search, options.parallel, options.device)


def _begin(options: Options, base: TrainConfig, given: frozenset[str]) -> Search:
    """Check everything that can be, and create the search."""
    require(
        NAME.fullmatch(options.name) is not None,
        f"--name must be 1 to 64 of a-z 0-9 . _ - and start with a letter or digit, got"
        f" {options.name!r}",
    )
    storage = expanded(options.storage)
    require(not is_remote(storage), f"--storage must be a folder, got {storage}")
    require(
        options.config.preset == base.preset,
        f"--preset {options.config.preset} contradicts {base.preset}",
    )
    config = options.config
    data_config = replace(config.data, path=expanded(config.data.path))
    config = replace(config, model=config.model.settled(), data=data_config)
    config, _ = fitted(own_code.settled(config), base.data, given)
    space = [Dimension.parse(text, config) for text in options.over]
    names = [dimension.field for dimension in space]
    for name in names:
        require(names.count(name) == 1, f"--over {name} is given twice; give all values in one")
    found = points(space, options.trials, options.search_seed)
    for point in found:
        _check_point(config, point, options.first_rung)
    found = [settled(config, point) for point in found]
    source = data.load(config.data, config.model)
    rehearsed = rehearse(replace(config, evaluate_interval=config.samples), source)
    for warning in (*without_effect(config, found), *rehearsed):
        print(warning, file=sys.stderr)
    metric = measured_metric(config, source)
    require(metric != "", "nothing measures the quality of these data; give --quality FILE.py")
    require(
        options.metric in ("quality", metric),
        f"--metric {options.metric!r}: quality is measured as {metric!r} here"
        f"{alternatives(options.metric, ('quality', metric))}",
    )
    if len(found) < options.trials:
        print(f"trials: {len(found)}, as --over has no more values", file=sys.stderr)
    plan = Plan(
        preset=config.preset,
        over=options.over,
        points=found,
        samples=config.samples,
        reduction=options.reduction,
        first_rung=options.first_rung,
    )
    search = Search(Path(storage) / options.name)
    search.create(plan, config)
    return search


def _check_point(config: TrainConfig, point: dict[str, Any], first_rung: int) -> None:
    """Raise ValueError if a trial could not begin, or if its first batch is beyond the first rung.

    The ends of a range may be allowed where what is between them is not, and values alone that do
    not go together.
    """
    try:
        batch = changed(config, point).batch
    except ValueError as error:
        words = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ValueError(
            f"a trial with {words} is refused: {error}; give --over values that can all be taken"
        ) from None
    require(
        batch <= first_rung,
        f"the first rung is after {first_rung:,} samples, less than a batch of {batch}; give more"
        " --samples, fewer --rungs or smaller batches",
    )


def _resume(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="aigc tune", description="Continue a search.")
    parser.add_argument("--resume", metavar="NAME", required=True)
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--parallel", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(argv)
    require(options.parallel >= 0, f"parallel must be >= 0, got {options.parallel}")
    search = Search.find(Path(expanded(options.storage)), options.resume)
    return _run(search, options.parallel, options.device)


def _run(search: Search, parallel: int, device: str) -> int:
    cuda = torch.cuda.is_available() and device != "cpu"
    require(cuda or device != "cuda", "--device cuda: none is here")
    parallel = parallel or (torch.cuda.device_count() if cuda else os.cpu_count() or 1)
    lock = FileLock(search.folder / ".lock", timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{search.folder} is being searched by another process") from None
    try:
        stopped = _fit(search, parallel, "cuda" if cuda else "cpu")
        for trial in search.trials():
            if trial.ended == "failed":
                print(f"trial {trial.number} failed: {trial.reason}", file=sys.stderr)
        best = search.write_best()
        print(search.table())
    finally:
        lock.release()
    if stopped:
        print(f"stopped; continue with --resume {search.folder.name}", file=sys.stderr)
    require(best is not None, f"no trial of {search.folder} was measured")
    print(os.path.relpath(str(best)))
    return 0


def _fit(search: Search, parallel: int, device: str) -> bool:
    """Run what is left; True if a signal stopped it."""
    if all(trial.ended for trial in search.trials()):
        print("all trials have ended", file=sys.stderr)
        return False
    from cluster.ray_session import local_ray

    # Ray Tune's own tables and result files say nothing that the search does not.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A trial that fails before its first rung has nothing to report.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    with redirect_stdout(sys.stderr), local_ray(parallel), signals() as stop:
        from cluster.trials import Progress, fit

        progress = Progress(search, lambda line: print(line, file=sys.stderr, flush=True))
        fit(search, parallel, device, stop, progress.show)
        progress.show(force=True)
        return stop.is_set()
