"""`aigc runs`: what runs there are, and what of them may go. Listing reads small files only.

aigc runs [STORAGE|s3://BUCKET/PREFIX] [--json]
aigc runs prune RUN... [--keep K] [--dry-run]
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from aigc.lease import holder
from aigc.storage import CERTIFICATE, bring_small_files, is_remote

State = Literal["training", "done", "stopped", "failed"]

LAST_LINE_BYTES = 65_536
"""So much of the end of metrics.jsonl is looked at for its last line."""


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
    """How many whole checkpoints stay, newest first; the one of the best quality stays too."""
    dry_run: bool = False
    """Say what would go, and delete nothing."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one run, such as runs/dcgan-digits")
        if self.keep < 1:
            raise ValueError(f"keep must be > 0, got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run, as far as its small files tell."""

    name: str
    """Name of its folder."""
    preset: str
    """MODEL:PRESET that it started from."""
    state: State
    """`training` while a process holds it; `done` once a checkpoint has all its samples; `stopped`
    if the newest checkpoint holds all that was reported; `failed` if work was lost since."""
    samples: int
    """Seen at the last report while it trains, in the newest checkpoint otherwise."""
    total: int
    """Samples that it is to see."""
    samples_per_second: float | None
    """Of the last report."""
    best_quality: float | None
    """Lowest quality (Fréchet distance) of a checkpoint that is there."""
    cost: float | None
    """So far, where a price is given."""
    changed: float
    """When something was last written, Unix time in seconds."""


def command(argv: list[str]) -> int:
    """List runs with their state, speed, quality and cost; `runs prune` frees storage."""
    if argv[:1] == ["prune"]:
        wish = tyro.cli(Prune, args=argv[1:], prog="aigc runs prune")
        for run in filter(is_remote, wish.runs):
            raise ValueError(
                f"{run}: prune works on folders; a run on S3 keeps its newest --keep-checkpoints"
                " and its best one, and nothing more"
            )
        folders = dict.fromkeys(map(Path, wish.runs))
        with contextlib.ExitStack() as held:
            for folder in folders:  # all of them, before anything goes
                held.enter_context(_kept_from_training(folder))
            for folder in folders:
                print("\n".join(prune(folder, wish.keep, dry_run=wish.dry_run)))
        return 0
    options = tyro.cli(List, args=argv, prog="aigc runs")
    found = summaries(options.storage)
    if options.json:
        print(json.dumps([asdict(summary) for summary in found], indent=1))
    elif found:
        print(table(found))
    else:
        print(f"no runs in {options.storage}", file=sys.stderr)
    return 0


def summaries(storage: Path | str) -> list[Summary]:
    """The runs in a folder or below an S3 prefix, the one that changed last first.

    Raises ValueError if there is no such place.
    """
    if is_remote(storage):
        with tempfile.TemporaryDirectory() as copies:
            bring_small_files(str(storage), Path(copies))
            return summaries(copies)
    folder = Path(storage)
    if not folder.is_dir():
        raise ValueError(f"{storage} is no folder; name the one that holds the runs")
    found = [summary for run in folder.iterdir() if (summary := summarise(run)) is not None]
    return sorted(found, key=lambda summary: (-summary.changed, summary.name))


def summarise(folder: Path) -> Summary | None:
    """What a run's folder tells; None if it is no run, or one that is just being made."""
    config = _read(folder / "config.json")
    if config is None or not {"preset", "samples"} <= config.keys():
        return None
    report = _last_line(folder / "metrics.jsonl")
    checkpoints = _checkpoints(folder)
    newest = checkpoints[0] if checkpoints else {}
    saved, reported = int(newest.get("samples", 0)), int(report.get("samples", 0))
    training = being_trained(folder)
    if training:
        state: State = "training"
    elif saved >= config["samples"]:
        state = "done"
    else:
        state = "stopped" if checkpoints and saved >= reported else "failed"
    costs = [newest.get("cost"), report.get("host", {}).get("cost")]
    return Summary(
        name=folder.name,
        preset=str(config["preset"]),
        state=state,
        samples=max(saved, reported) if training else saved,
        total=int(config["samples"]),
        samples_per_second=report.get("samples_per_second"),
        best_quality=min((c["quality"] for c in checkpoints if "quality" in c), default=None),
        cost=max((cost for cost in costs if cost is not None), default=None),
        changed=max(_changed(folder)),
    )


def being_trained(folder: Path) -> bool:
    """Whether a driver holds the run's lock, or one of another machine its lease.

    Looking takes the lock shared, for a moment.
    """
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or none that we may read
        pass
    try:
        return holder(folder) is not None
    except OSError:
        return False


def table(found: list[Summary]) -> str:
    """The runs as aligned columns."""
    rows = [("run", "preset", "state", "samples", "samples/s", "quality", "cost", "last change")]
    rows += [
        (
            summary.name,
            summary.preset,
            summary.state,
            f"{summary.samples:,} of {summary.total:,}",
            _number(summary.samples_per_second, ",.0f"),
            _number(summary.best_quality, ".4g"),
            _number(summary.cost, ",.2f"),
            f"{datetime.datetime.fromtimestamp(summary.changed):%Y-%m-%d %H:%M}",
        )
        for summary in found
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
    """Delete what a run does not need; returns a line for each thing and one for the run.

    The caller keeps others from training it. At least one whole checkpoint stays if there is one.
    """
    verb = "would free" if dry_run else "freed"
    lines, total = [], 0
    for path in _superfluous(folder, keep):
        size = _size_bytes(path)
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        total += size
        lines.append(f"{verb} {size:>15,} bytes  {path}")
    return [*lines, f"{verb} {total:>15,} bytes  of {folder}"]


def _superfluous(folder: Path, keep: int) -> list[Path]:
    # It reads states, which listing does not; and it brings torch.
    from aigc import checkpoint

    checkpoints = folder / "checkpoints"
    numbered = _numbered(checkpoints)
    whole: list[Path] = []
    for path in numbered:
        if len(whole) < keep and checkpoint.invalid(path) is None:
            whole.append(path)
    kept = {*whole, checkpoint.best(checkpoints)}
    # What is newer than the newest whole one is broken: the next start of the run sets it aside.
    old = [path for path in numbered if whole and path < whole[0] and path not in kept]
    left = [*checkpoints.glob("*.broken"), *checkpoints.glob(".*.tmp")]
    left += [*folder.glob(".*.tmp"), *folder.glob("grids/.*.tmp")]
    return [*sorted(old), *sorted(left), *(path for path in [folder / "ray"] if path.is_dir())]


@contextlib.contextmanager
def _kept_from_training(folder: Path) -> Iterator[None]:
    """Hold a run's lock, as a driver does. Raises ValueError if it is no run, or held."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} is no run: it holds no config.json")
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being trained; stop it, then prune") from None
        yield


def _numbered(checkpoints: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not checkpoints.is_dir():
        return []
    return sorted((path for path in checkpoints.iterdir() if path.name.isdigit()), reverse=True)


def _checkpoints(folder: Path) -> list[dict[str, Any]]:
    """trainer.json of every checkpoint that was finished, newest first; states are not read."""
    finished = [p for p in _numbered(folder / "checkpoints") if (p / CERTIFICATE).exists()]
    return [facts for path in finished if (facts := _read(path / "trainer.json")) is not None]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics.jsonl; {} if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINE_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}


def _changed(folder: Path) -> Iterator[float]:
    for name in ("config.json", "history.jsonl", "metrics.jsonl", "checkpoints"):
        with contextlib.suppress(FileNotFoundError):
            yield (folder / name).stat().st_mtime


def _size_bytes(path: Path) -> int:
    """Of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
