"""Cost of reports, checkpoints and grids to a run, and its time to the first batch.

    python -m benchmarks.bench_overheads --rounds 5
    python -m benchmarks.bench_overheads --only start

A feature's cost is the difference between runs with it and without, in turn within each round. At
its real interval that difference drowns in the machine's noise, so the feature runs far more often
than anybody would have it, and its cost per turn is scaled to the interval that is stated.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from aigc import models
from benchmarks.measure import BATCH, alone, contestant, environment, train_command
from benchmarks.report import header, spread, write_section

PRESET = "dcgan:digits"
OFTEN = 2
"""Batches between two turns of the feature that is measured."""
CHECKPOINT_EVERY_S = 30.0
POLL_S = 0.01
LIMIT_S = 120.0
"""Seconds after which a run that shows no first batch has failed."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Overheads of training."""

    rounds: int = 5
    """Rounds; medians are taken over them."""
    batches: int = 60
    """Batches of each run, of which the last half counts."""
    only: Literal["features", "start"] | None = None
    """Cost of the features, or seconds to the first batch; by default both."""
    out: Path = Path("docs/benchmarks.md")
    """File whose sections are rewritten."""


@dataclass(frozen=True)
class Feature:
    """Something that a run does now and then."""

    title: str
    flags: tuple[str, ...]
    """Flags of a run in which it happens every OFTEN batches."""
    interval_s: Callable[[float], float]
    """Samples/s -> seconds between two turns in a real run."""
    interval: str
    """The same in words."""
    workers: int = 0


def features() -> list[Feature]:
    """Features that are measured, at the intervals of the preset."""
    config = models.preset(PRESET)
    often = str(OFTEN * BATCH)

    def every(samples: int) -> Callable[[float], float]:
        return lambda speed: samples / speed

    reports = f"{config.report_interval:,} samples"
    return [
        Feature(
            "reports: metrics.jsonl, TensorBoard, progress",
            ("--report-interval", often),
            every(config.report_interval),
            reports,
        ),
        Feature(
            "reports, and Prometheus metrics of them",
            ("--report-interval", often, "--metrics-port", "0"),
            every(config.report_interval),
            reports,
        ),
        Feature(
            "reports from a Ray worker: the same, through the driver",
            ("--report-interval", often),
            every(config.report_interval),
            reports,
            workers=1,
        ),
        Feature(
            "checkpoints",
            ("--checkpoint-interval", often),
            lambda speed: CHECKPOINT_EVERY_S,
            f"{CHECKPOINT_EVERY_S:g} s",
        ),
        Feature(
            "grids",
            ("--grid-interval", often),
            every(config.grid_interval),
            f"{config.grid_interval:,} samples",
        ),
    ]


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    parts = {"features": cost_of_features, "start": seconds_to_first_batch}
    for name, part in parts.items():
        if bench.only in (None, name):
            section = part(bench)
            print(section)
            write_section(bench.out, f"overheads-{name}", section)


def cost_of_features(bench: Bench) -> str:
    """The section about features."""
    chosen = features()
    off: dict[int, list[float]] = {workers: [] for workers in {f.workers for f in chosen}}
    on: list[list[float]] = [[] for _ in chosen]
    for number in range(bench.rounds):
        for workers, speeds in off.items():
            speeds.append(alone(contestant(PRESET, bench.batches, workers, 1)))
        for feature, speeds in zip(chosen, on, strict=True):
            speeds.append(
                alone(contestant(PRESET, bench.batches, feature.workers, 1, *feature.flags))
            )
        print(f"round {number + 1} of {bench.rounds}", file=sys.stderr)
    rows = []
    for feature, speeds in zip(chosen, on, strict=True):
        plain = off[feature.workers]
        costs = [cost(a, b) for a, b in zip(plain, speeds, strict=True)]
        shares = [100 * one / feature.interval_s(a) for one, a in zip(costs, plain, strict=True)]
        milliseconds = [1000 * one for one in costs]
        rows.append(
            f"| {feature.title} | {spread(milliseconds, 1)} | {feature.interval}"
            f" | {spread(shares)} |"
        )
    return "\n".join(
        [
            "## What a run costs beside its batches",
            "",
            header("torch", "ray", "numpy", "tensorboard"),
            "",
            f"`{PRESET}`, one thread. Each feature happens every {OFTEN} batches in runs of"
            f" {bench.batches}, whose last half is compared with that of runs without it; the cost"
            " per turn is then a share of the wall time at the interval stated. What lies within"
            " the range of the rounds is noise, below 0 too.",
            "",
            "| feature | ms per turn (min to max) | one turn per | share of wall time, %"
            " (min to max) |",
            "|---|--:|--:|--:|",
            *rows,
            "",
            f"Lower is better. Medians of {bench.rounds} interleaved rounds. Without any of them:"
            f" {statistics.median(off[0]):,.0f} samples/s.",
        ]
    )


def cost(off: float, on: float) -> float:
    """Seconds per turn of a feature, from samples/s without it and with it every OFTEN batches."""
    return OFTEN * BATCH * (1 / on - 1 / off)


def seconds_to_first_batch(bench: Bench) -> str:
    """The section about the start."""
    pairs = []
    for number in range(bench.rounds + 1):
        pairs.append((our_start(), bare_start()))
        print(f"round {number} of {bench.rounds}: start {pairs[-1]}", file=sys.stderr)
    del pairs[0]  # it filled the disk's cache and Python's, for whoever came second
    mine, theirs = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    return "\n".join(
        [
            "## From the command to the first batch",
            "",
            header("torch", "ray"),
            "",
            f"Seconds until `aigc train {PRESET} --workers 1` has reported its first batch, and"
            " until a bare script with Ray's TorchTrainer and the same networks has trained its"
            " own (`benchmarks/peers/bare_ray_train.py`); both start Ray on this machine.",
            "",
            "| ours, s | bare TorchTrainer, s | ours / bare (min to max) |",
            "|--:|--:|--:|",
            f"| {statistics.median(mine):.1f} | {statistics.median(theirs):.1f}"
            f" | {spread(ratios)} |",
            "",
            f"Lower is better. Medians of {bench.rounds} interleaved rounds after one that does not"
            " count.",
        ]
    )


def our_start() -> float:
    """Seconds from the command to the first line of metrics.jsonl."""
    with tempfile.TemporaryDirectory() as name:
        storage = Path(name)
        flags = ("--workers", "1", "--threads", "1", "--report-interval", str(BATCH))
        command = train_command(PRESET, 2 * BATCH, storage, *flags)
        return until(storage / "bench" / "metrics.jsonl", command)


def bare_start() -> float:
    """The same of the bare script, which touches a file."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.peers.bare_ray_train", PRESET, "2", name]
        return until(Path(name) / "first", command)


def until(file: Path, command: list[str]) -> float:
    """Seconds from the start of a command until a file is there; the command then ends by itself.

    Raises RuntimeError if it ends without the file or takes too long.
    """
    begun = time.perf_counter()
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment()) as process:
        while not file.exists():
            waited = time.perf_counter() - begun
            if process.poll() is not None or waited > LIMIT_S:
                process.terminate()
                raise RuntimeError(f"no {file.name} after {waited:.0f} s from {' '.join(command)}")
            time.sleep(POLL_S)
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
