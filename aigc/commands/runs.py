"""`aigc runs`: list runs, and prune them. Listing reads small files only.

aigc runs [STORAGE|s3://BUCKET/PREFIX] [--json]
aigc runs prune RUN... [--keep K] [--dry-run]
"""

import contextlib
import datetime
import fcntl
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from aigc.files import expanded, read_json
from aigc.training import run_folder
from aigc.training.lease import holder
from aigc.training.object_store import bring_small_files, is_remote
from aigc.training.quality_log import last_note
from aigc.training.run_folder import (
    CERTIFICATE,
    CHECKPOINTS,
    CONFIG,
    GRIDS,
    HISTORY,
    METRICS,
    RAY,
    TRAINER,
)

State = Literal["training", "done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class List:
    """List the runs, the one that changed last first; `aigc runs prune --help` frees storage."""

    storage: tyro.conf.Positional[str] = "runs"
    """Folder that holds the runs, or s3://BUCKET/PREFIX."""
    json: bool = False
    """Print JSON, one object per run."""


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Free storage: old checkpoints, broken ones, what killed writers left, Ray's bookkeeping."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of the runs."""
    keep: int = 1
    """Number of newest whole checkpoints to keep, beside the one of the best quality."""
    dry_run: bool = False
    """Print what would be deleted, and delete nothing."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one run, such as runs/dcgan-digits")
        if self.keep < 1:
            raise ValueError(f"keep must be > 0, got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of a run from its small files."""

    name: str
    """Name of its folder."""
    preset: str
    """MODEL:PRESET that it started from."""
    state: State
    """`training` while a driver holds it; `done` once a checkpoint has all its samples, or a rule
    ended it; `stopped` if the newest checkpoint holds all that was reported; `failed` if work was
    lost since."""
    rule: str
    """Rule that ended it, such as `until quality<=5`; empty if none did."""
    samples: int
    """Samples seen: at the last report while it trains, in the newest checkpoint otherwise."""
    total: int
    """Length of the run in samples."""
    samples_per_second: float | None
    """Speed at the last report."""
    best_quality: float | None
    """Best (lowest) quality measured of a checkpoint that still exists."""
    quality_samples: int | None
    """Samples seen in that checkpoint."""
    quality_note: str
    """Reason to doubt the quality, as last measured."""
    cost: float | None
    """Cost so far, if a price is given."""
    changed: float
    """Time of the last change, Unix time in seconds."""


def command(argv: list[str]) -> int:
    """List runs with their state, speed, quality and cost; `runs prune` frees storage."""
    if argv[:1] == ["prune"]:
        options = tyro.cli(Prune, args=argv[1:], prog="aigc runs prune")
        for run in filter(is_remote, options.runs):
            raise ValueError(
                f"{run}: prune works on folders; a run on S3 keeps its newest --keep-checkpoints"
                " and its best one, and nothing more"
            )
        folders = dict.fromkeys(map(Path, options.runs))
        with contextlib.ExitStack() as held:
            for folder in folders:  # lock all of them before anything is deleted
                held.enter_context(_lock_run(folder))
            for folder in folders:
                print("\n".join(prune(folder, options.keep, dry_run=options.dry_run)))
        return 0
    listing = tyro.cli(List, args=argv, prog="aigc runs")
    runs = summaries(listing.storage)
    if listing.json:
        print(json.dumps([asdict(summary) for summary in runs], indent=1))
    elif runs:
        print(table(runs))
    else:
        print(f"no runs in {listing.storage}", file=sys.stderr)
    return 0


def summaries(storage: Path | str) -> list[Summary]:
    """Runs in a folder or below an S3 prefix, the one that changed last first.

    Raises ValueError if there is no such place.
    """
    storage = expanded(str(storage))
    if is_remote(storage):
        with tempfile.TemporaryDirectory() as copies:
            bring_small_files(str(storage), Path(copies))
            return summaries(copies)
    folder = Path(storage)
    if not folder.is_dir():
        raise ValueError(f"{storage} is not a folder; name the folder that holds the runs")
    runs = [summary for run in folder.iterdir() if (summary := summarise(run)) is not None]
    return sorted(runs, key=lambda summary: (-summary.changed, summary.name))


def summarise(folder: Path) -> Summary | None:
    """Summary of a run's folder; None if it is not a run, or one that is just being created."""
    config = _config(folder)
    if config is None:
        return None
    report = run_folder.last_report(folder)
    checkpoints = _finished(folder)
    newest = next(iter(checkpoints.values()), {})
    saved, reported = _count(newest.get("samples")), _count(report.get("samples"))
    rated = run_folder.rated(folder / CHECKPOINTS)
    best_quality, quality_samples = next(
        ((quality, int(path.name)) for quality, path in rated if path in checkpoints), (None, None)
    )
    training = being_trained(folder)
    rule = run_folder.ended_by_rule(folder)
    if training:
        state: State = "training"
    elif saved >= config["samples"] or rule is not None:
        state = "done"
    else:
        state = "stopped" if checkpoints and saved >= reported else "failed"
    host = report.get("host")
    costs = [newest.get("cost"), host.get("cost") if isinstance(host, dict) else None]
    return Summary(
        name=folder.name,
        preset=str(config["preset"]),
        state=state,
        rule="" if training or rule is None else str(rule["rule"]),
        samples=max(saved, reported) if training else saved,
        total=int(config["samples"]),
        samples_per_second=report.get("samples_per_second"),
        best_quality=best_quality,
        quality_samples=quality_samples,
        quality_note=last_note(folder) if best_quality is not None else "",
        cost=max((cost for cost in costs if cost is not None), default=None),
        changed=max(_changed(folder)),
    )


def being_trained(folder: Path) -> bool:
    """True if a driver holds the run's lock, or a driver of another machine its lease.

    The check takes the lock shared for a moment.
    """
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or not readable for us
        pass
    try:
        return holder(folder) is not None
    except OSError:
        return False


def _quality(summary: Summary) -> str:
    """`12.3 at 1,152 (weak judge)`: best quality, its samples, and the reason to doubt it."""
    text = _number(summary.best_quality, ".4g") + _number(summary.quality_samples, ",", " at ")
    reason = summary.quality_note.partition(":")[0]
    return f"{text} ({reason})" if reason else text


def table(runs: list[Summary]) -> str:
    """The runs as aligned columns."""
    rows = [("run", "preset", "state", "samples", "samples/s", "quality", "cost", "last change")]
    rows += [
        (
            summary.name,
            summary.preset,
            f"{summary.state}: {summary.rule}" if summary.rule else summary.state,
            f"{summary.samples:,} of {summary.total:,}",
            _number(summary.samples_per_second, ",.0f"),
            _quality(summary),
            _number(summary.cost, ",.2f"),
            f"{datetime.datetime.fromtimestamp(summary.changed):%Y-%m-%d %H:%M}",
        )
        for summary in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<<>>>><"
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def prune(folder: Path, keep: int, *, dry_run: bool) -> list[str]:
    """Delete what a run does not need; returns a line for each path and one for the run.

    The caller must hold the run's lock. The newest whole checkpoint always stays.
    """
    verb = "would free" if dry_run else "freed"
    lines, total = [], 0
    for path in _prunable(folder, keep):
        size = _size_bytes(path)
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        total += size
        lines.append(f"{verb} {size:>15,} bytes  {path}")
    return [*lines, f"{verb} {total:>15,} bytes  of {folder}"]


def _prunable(folder: Path, keep: int) -> list[Path]:
    checkpoints = folder / CHECKPOINTS
    numbered = [
        path for path in run_folder.checkpoint_folders(checkpoints) if not path.is_symlink()
    ]
    whole: list[Path] = []
    for path in numbered:
        if len(whole) < keep and run_folder.invalid(path) is None:
            whole.append(path)
    kept = {*whole, run_folder.best(checkpoints)}
    # Those newer than the newest whole one are broken: the next start of the run sets them aside.
    newest = int(whole[0].name) if whole else 0
    old = [path for path in numbered if int(path.name) < newest and path not in kept]
    left = [
        path
        for path in checkpoints.glob("*")
        if run_folder.is_set_aside(path) or run_folder.is_left_over(path)
    ]
    left += [*folder.glob(".*.tmp"), *folder.glob(f"{GRIDS}/.*.tmp")]
    return [*sorted(old), *sorted(left), *(path for path in [folder / RAY] if path.is_dir())]


@contextlib.contextmanager
def _lock_run(folder: Path) -> Iterator[None]:
    """Hold a run's lock, as a driver does. Raises ValueError if it is not one, or is trained."""
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} is not a run: it has no config.json")
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being trained; stop it, then prune") from None
        yield


def _config(folder: Path) -> dict[str, Any] | None:
    """config.json of a run; None without one. Prints a message if it is damaged."""
    path = folder / CONFIG
    config = read_json(path)
    if config is None and path.exists():
        print(f"{path} is damaged, its run is not listed", file=sys.stderr)
    if config is None or not isinstance(config.get("samples"), int) or "preset" not in config:
        return None
    return config


def _finished(folder: Path) -> dict[Path, dict[str, Any]]:
    """trainer.json of every checkpoint with a certificate, newest first; states are not read."""
    paths = run_folder.checkpoint_folders(folder / CHECKPOINTS)
    certified = [path for path in paths if (path / CERTIFICATE).exists()]
    documents = {path: read_json(path / TRAINER) for path in certified}
    return {path: facts for path, facts in documents.items() if facts is not None}


def _changed(folder: Path) -> Iterator[float]:
    for name in (CONFIG, HISTORY, METRICS, CHECKPOINTS):
        with contextlib.suppress(FileNotFoundError):
            yield (folder / name).stat().st_mtime


def _size_bytes(path: Path) -> int:
    """Size of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _number(value: float | None, form: str, before: str = "") -> str:
    if value is None:
        return "" if before else "-"
    return f"{before}{value:{form}}"


def _count(value: Any) -> int:
    """`value` if it is a number of samples, else 0."""
    return value if isinstance(value, int) else 0
