"""Samples/s of `aigc train` against loops that one would write or take from elsewhere.

    python -m tests.bench.bench_training --rounds 5 --only dcgan

The same networks, batch, threads and data; in turn within each round; all are timed over the last
half of their batches, so no start counts. Ours also keeps the moving average, looks at every loss
and gradient, reports, and writes a checkpoint.
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Benchmark of training."""

    rounds: int = 5
    """Rounds; medians are taken over them."""
    batches: int = 240
    """Batches per measurement."""
    only: str = ""
    """Part of the names of the rows to measure; all by default."""
    out: str = "docs/benchmarks.md"
    """File whose section is rewritten."""


@dataclass(frozen=True)
class Peer:
    """A loop of somebody else."""

    title: str
    module: str
    """Below tests.bench.peers."""


HAND = Peer("hand-written loop", "torch_loop")
VAE = Peer("hand-written loop", "vae_loop")
EXAMPLES = Peer("tutorial steps", "examples_loop")
DDP = Peer("torchrun DDP", "torch_loop")


@dataclass(frozen=True)
class Setting:
    """What is run: a preset on so many workers with so many threads each."""

    preset: str
    workers: int
    threads: int
    peers: tuple[Peer, ...]

    @property
    def title(self) -> str:
        processes = max(1, self.workers)
        return f"`{self.preset}`, {processes} x {self.threads} thread{'s' * (self.threads > 1)}"


SETTINGS = (
    Setting("dcgan:digits", 0, 1, (HAND, EXAMPLES)),
    Setting("dcgan:digits", 0, 2, (HAND, EXAMPLES)),
    Setting("conv_vae:digits", 0, 1, (VAE,)),
    Setting("conv_vae:digits", 0, 2, (VAE,)),
    Setting("dcgan:digits", 2, 1, (DDP,)),
)
ALONE, TOGETHER = SETTINGS[0], SETTINGS[-1]


def ours(setting: Setting, batches: int) -> float:
    """Samples/s of `aigc train`, from its own report of the last half."""
    storage = tempfile.mkdtemp()
    samples = batches * 64
    command = [sys.executable, "-m", "aigc.cli", "train", setting.preset]
    command += ["--samples", str(samples), "--workers", str(setting.workers)]
    command += ["--threads", str(setting.threads), "--report-interval", str(samples // 2)]
    command += ["--grid-interval", "0", "--checkpoint-interval", "0"]
    subprocess.run(
        [*command, "--storage", storage, "--name", "bench"], check=True, capture_output=True
    )
    last = (Path(storage) / "bench" / "metrics.jsonl").read_text().splitlines()[-1]
    shutil.rmtree(storage)
    return float(json.loads(last)["samples_per_second"])


def theirs(peer: Peer, setting: Setting, batches: int) -> float:
    """Samples/s of a peer."""
    arguments = [f"tests.bench.peers.{peer.module}", setting.preset, str(batches)]
    arguments += [str(setting.threads)]
    launcher = ["-m"]
    if setting.workers > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(setting.workers), "-m"]
    command = [sys.executable, *launcher, *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    chosen = [setting for setting in SETTINGS if bench.only in setting.title]
    figures: dict[tuple[Setting, str], list[float]] = {}
    for number in range(bench.rounds):
        for setting in chosen:
            row = {"ours": ours(setting, bench.batches)}
            row |= {peer.title: theirs(peer, setting, bench.batches) for peer in setting.peers}
            for name, speed in row.items():
                figures.setdefault((setting, name), []).append(speed)
            said = "  ".join(f"{name} {speed:.0f}" for name, speed in row.items())
            print(f"round {number + 1}: {setting.title}: {said}", file=sys.stderr)
    section = report(figures, chosen, bench)
    print(section)
    write_section(Path(bench.out), "training", section)


def report(
    figures: dict[tuple[Setting, str], list[float]], chosen: list[Setting], bench: Bench
) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Training",
        "",
        header("torch", "ray", "numpy"),
        "",
        f"Global batch 64, medians of {bench.rounds} interleaved rounds of {bench.batches} batches,"
        " samples/s; higher is better. Tutorial steps: two discriminator passes, the"
        " discriminator's gradients computed and thrown away in the generator's step, losses read"
        " after every batch.",
        "",
        "| setting | ours | peer | peer's | ratio | ratio, min to max |",
        "|---|--:|---|--:|--:|---|",
    ]
    for setting in chosen:
        mine = figures[setting, "ours"]
        for peer in setting.peers:
            other = figures[setting, peer.title]
            lines.append(
                f"| {setting.title} | {statistics.median(mine):,.0f} | {peer.title}"
                f" | {statistics.median(other):,.0f} | {_ratio(mine, other)} |"
            )
    if ALONE in chosen and TOGETHER in chosen:
        one, two = figures[ALONE, "ours"], figures[TOGETHER, "ours"]
        halves = [speed / 2 for speed in two]
        lines += [
            "",
            f"Scaling efficiency of two workers with one thread each: {_plain(halves, one)}.",
        ]
    return "\n".join(lines)


def _ratio(mine: list[float], other: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(mine, other, strict=True))
    return f"{statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f}"


def _plain(mine: list[float], other: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(mine, other, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
