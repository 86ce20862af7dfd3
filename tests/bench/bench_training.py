"""Samples/s of `aigc train` against a plain hand-written PyTorch loop of the same model.

    python -m tests.bench.bench_training --rounds 5

One process each, then two processes with one thread each: `--workers 2` against torchrun with
DistributedDataParallel. In turn within each round; both are timed over the last half of their
batches, so neither start counts. Ours also keeps the moving average, checks every loss, reports.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.bench.report import header, write_section

PRESET = "dcgan:digits"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Benchmark of training."""

    rounds: int = 5
    """Rounds; medians are taken over them."""
    batches: int = 400
    """Batches per measurement."""
    out: str = "docs/benchmarks.md"
    """File whose section is rewritten."""


@dataclass(frozen=True)
class Setting:
    """One row: how many processes and threads, for ours and for the peer."""

    title: str
    workers: int
    threads: int

    @property
    def processes(self) -> int:
        return max(1, self.workers)


SETTINGS = (
    Setting("1 process, 1 thread", 0, 1),
    Setting("1 process, 2 threads", 0, 2),
    Setting("2 processes, 1 thread each", 2, 1),
)


def ours(setting: Setting, batches: int) -> float:
    """Samples/s of `aigc train`, from its own report of the last half."""
    storage = tempfile.mkdtemp()
    samples = batches * 64
    command = [sys.executable, "-m", "aigc.cli", "train", PRESET, "--samples", str(samples)]
    command += ["--workers", str(setting.workers), "--threads", str(setting.threads)]
    command += ["--report-interval", str(samples // 2), "--grid-interval", "0"]
    command += ["--checkpoint-interval", "0", "--storage", storage, "--name", "bench"]
    subprocess.run(command, check=True, capture_output=True)
    last = (Path(storage) / "bench" / "metrics.jsonl").read_text().splitlines()[-1]
    shutil.rmtree(storage)
    return float(json.loads(last)["samples_per_second"])


def peer(setting: Setting, batches: int) -> float:
    """Samples/s of the hand-written loop."""
    arguments = ["tests.bench.peers.torch_loop", PRESET, str(batches), str(setting.threads)]
    if setting.processes == 1:
        command = [sys.executable, "-m", *arguments]
    else:
        torchrun = [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(setting.processes),
        ]
        command = [sys.executable, "-m", *torchrun, "-m", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    figures: dict[Setting, list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    for number in range(bench.rounds):
        for setting in SETTINGS:
            pair = ours(setting, bench.batches), peer(setting, bench.batches)
            figures[setting].append(pair)
            print(f"round {number + 1}: {setting.title}: {pair[0]:.0f} / {pair[1]:.0f} samples/s")
    section = report(figures, bench)
    print(section)
    write_section(Path(bench.out), "training", section)


def report(figures: dict[Setting, list[tuple[float, float]]], bench: Bench) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Training",
        "",
        header("torch", "ray", "numpy"),
        "",
        f"`{PRESET}`, global batch 64, medians of {bench.rounds} rounds of {bench.batches} batches."
        " Peer: a hand-written PyTorch loop of the same networks"
        " (`tests/bench/peers/torch_loop.py`), with two processes under torchrun and"
        " DistributedDataParallel.",
        "",
        "| setting | ours, samples/s | peer, samples/s | ratio | ratio, min to max |",
        "|---|---|---|---|---|",
    ]
    for setting, pairs in figures.items():
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
        lines.append(
            f"| {setting.title} | {a:,.0f} | {b:,.0f} | {statistics.median(ratios):.2f}"
            f" | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
