"""The config that the flags of `aigc train` change: of a preset, a file, or another run."""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from aigc import models, recipe
from aigc.config import TrainConfig, require
from aigc.files import expanded
from aigc.suggest import alternatives
from aigc.training import run_folder
from aigc.training.object_store import is_remote
from aigc.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Base:
    """A config to start from, and the flags that change it."""

    config: TrainConfig
    words: str
    """Words of the command line that name it, such as `dcgan:digits` or `--resume faces`."""
    name: str
    """Default name of the run."""
    flags: tuple[str, ...]
    """The other words of the command line."""
    workers: str = "0"
    """Default number of workers."""

    @property
    def given(self) -> frozenset[str]:
        """Fields of model and data that flags give, such as `model.shape`."""
        names = (re.match(r"--((?:model|data)\.[\w.-]+)", flag) for flag in self.flags)
        return frozenset(
            re.sub(r"\.no_", ".", name[1].replace("-", "_")) for name in names if name is not None
        )


def base_config(argv: list[str]) -> Base | None:
    """Base of a command line: MODEL[:PRESET], --config FILE, --like RUN or --resume NAME.

    None where it names none. Raises ValueError for a reference to nothing, or two that disagree.
    """
    model = argv[0] if argv and not argv[0].startswith("-") else ""
    flags = argv[1:] if model else argv
    named = _parse(flags)
    name = named.resume or named.name
    require(
        not named.resume or named.name in ("", named.resume),
        f"--resume {named.resume} contradicts --name {named.name}; leave one out",
    )
    require(not (named.config and named.like), "give --config or --like, not both")
    workers = "0"
    if named.config:
        words = f"--config {named.config}"
        config = recipe.read(Path(expanded(named.config)))
    elif named.like:
        words = f"--like {named.like}"
        # The number of threads was chosen for that run's machine.
        config = replace(_find(named.like, named.storage).config(), threads=0)
    elif model:
        words, config = model, models.preset(model)
    elif named.resume:
        words = f"--resume {named.resume}"
        run = _find(f"{named.storage.rstrip('/')}/{named.resume}", named.storage)
        config, workers = run.config(installed=named.code != "new"), _last_workers(run)
    else:
        return None
    if model and (named.config or named.like):
        preset = models.preset(model).preset
        require(
            preset == config.preset,
            f"{model} contradicts {words}, which is of {config.preset}; leave one out",
        )
    return Base(
        config=config,
        words=words,
        name=name or models.run_name(config),
        flags=tuple(_without_name(flags, named.resume)),
        workers=workers,
    )


def _parse(flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", "like", "name"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--code", default="same")
    parser.add_argument("--resume", nargs="?", default="", const="")
    try:
        return parser.parse_known_args(flags)[0]
    except argparse.ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _without_name(flags: list[str], name: str) -> list[str]:
    """The flags with `--resume` in place of `--resume NAME`."""
    kept = ["--resume" if flag == f"--resume={name}" else flag for flag in flags]
    if name and "--resume" in flags:
        at = flags.index("--resume")
        if flags[at + 1 : at + 2] == [name]:
            del kept[at + 1]
    return kept


def _find(reference: str, storage: str) -> Run:
    """A run by its folder or URI, or by its name in the storage. Raises ValueError."""
    reference, storage = expanded(reference), expanded(storage)
    if is_remote(reference):
        return Run.open(reference)
    for place in (reference, f"{storage.rstrip('/')}/{reference}"):
        if is_remote(place) or Run(place).exists:
            return Run.open(place)
    folder = Path(reference).parent if "/" in reference else Path(storage)
    there = sorted(path.parent.name for path in folder.glob(f"*/{run_folder.CONFIG}"))
    raise ValueError(
        f"there is no run {Path(reference).name!r} in {folder}"
        f"{alternatives(Path(reference).name, there) if there else ': it has no runs'}"
    )


def _last_workers(run: Run) -> str:
    """Number of workers of a run's last start, as --workers takes it; one is this process."""
    starts = run.starts()
    workers = starts[-1].get("workers", 1) if starts else 1
    return str(workers) if isinstance(workers, int) and workers > 1 else "0"
