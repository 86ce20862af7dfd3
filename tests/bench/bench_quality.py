"""Time to quality: training seconds until samples are as good as wished, one thread.

    python -m tests.bench.bench_quality --path ../shared/data/mnist10k

Ours is the preset `dcgan:digits`; the peer is the tutorial recipe made conditional: Adam 2e-4 with
betas (0.5, 0.999), no moving average, no spectral norm, no auxiliary head, the same convolutions
with a projection. Both leave snapshots of their generator at the same numbers of samples; taking
and judging them is not counted.
"""

import copy
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from aigc import data, models
from aigc.artifact import latents
from aigc.config import DataConfig, TrainConfig
from aigc.metrics.classifier import Classifier
from aigc.metrics.frechet import frechet
from aigc.train import Event, TrainState, train
from tests.bench.peers.examples_loop import steps, tensors
from tests.bench.report import header, write_section

ACCURACY, FLOORS = 0.97, 4.0
EVERY = 6_400
SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Training seconds until accuracy 0.97 and Fréchet distance at most 4 floors."""

    path: str = "../shared/data/mnist10k"
    """Folder of MNIST-format files."""
    rounds: int = 3
    """Rounds, each with a seed of its own."""
    cap_s: float = 200.0
    """Training seconds after which a run is given up."""
    only: str = ""
    """ours or peer, for one run in this process."""
    seed: int = 0
    out: str = "docs/benchmarks.md"
    """File whose section is rewritten."""


@dataclass(frozen=True)
class Snapshot:
    """A generator and the training seconds that it took."""

    seconds: float
    generator: nn.Module


def preset(bench: Bench) -> TrainConfig:
    config = models.preset("dcgan:digits")
    source = DataConfig(source="idx", path=bench.path)
    return replace(config, data=source, seed=bench.seed, samples=10**7)


def ours(bench: Bench) -> list[Snapshot]:
    """The preset, in this process."""
    config = preset(bench)
    state = TrainState(config)
    taken: list[Snapshot] = []
    clock = _Clock()

    def take(state: TrainState, values: dict[str, float]) -> None:
        with clock:
            generator = copy.deepcopy(state.average).eval()
            taken.append(Snapshot(clock.seconds, generator))

    source = data.load(config.data, config.model)
    clock.start()
    train(config, state, source, [Event(EVERY, take)], stop=lambda _: clock.seconds > bench.cap_s)
    return taken


def peer(bench: Bench) -> list[Snapshot]:
    """The tutorial recipe."""
    torch.manual_seed(bench.seed)
    config = preset(bench)
    plain = replace(config.model, spectral_norm=False, auxiliary=0.0)
    model = models.build(replace(config, model=plain))
    taken: list[Snapshot] = []
    clock = _Clock()

    def after(done: int) -> bool:
        if done * config.batch % EVERY == 0:
            with clock:
                generator = copy.deepcopy(model.generator).eval()
                taken.append(Snapshot(clock.seconds, generator))
        return clock.seconds > bench.cap_s

    dataset = tensors("dcgan:digits", bench.path)
    clock.start()
    steps(
        model.generator,
        model.discriminator,
        dataset,
        latent=config.model.latent,
        batch=config.batch,
        auxiliary=0.0,
        rate=2e-4,
        betas=(0.5, 0.999),
        after=after,
    )
    return taken


class _Clock:
    """Seconds since start, less those inside its blocks."""

    def __init__(self) -> None:
        self.begun = self.paused = self._at = 0.0

    def start(self) -> None:
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun - self.paused

    def __enter__(self) -> None:
        self._at = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.paused += time.perf_counter() - self._at


def first_good(bench: Bench, taken: list[Snapshot]) -> dict[str, float]:
    """Seconds of the first snapshot that is good enough, infinite if none is, and its figures."""
    config = preset(bench)
    train_split, test_split = (
        data.whole(data.load(config.data, config.model, split)) for split in ("train", "test")
    )
    judge = Classifier.trained_on(train_split)
    real = judge.judge(data.scaled(train_split.samples)).features
    floor = frechet(real, judge.judge(data.scaled(test_split.samples)).features)
    label = np.arange(SAMPLES) % 10
    z = torch.from_numpy(latents.normal(0, range(SAMPLES), (config.model.latent,)))
    accuracy = distance = 0.0
    for snapshot in taken:
        with torch.no_grad():
            images = snapshot.generator(z, torch.from_numpy(label)).numpy()
        made = judge.judge(images)
        accuracy = float((made.predicted == label).mean())
        distance = frechet(real, made.features) / floor
        if accuracy >= ACCURACY and distance <= FLOORS:
            return {"seconds": snapshot.seconds, "accuracy": accuracy, "floors": distance}
    return {"seconds": float("inf"), "accuracy": accuracy, "floors": distance}


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    if bench.only:
        torch.set_num_threads(1)
        taken = ours(bench) if bench.only == "ours" else peer(bench)
        print(json.dumps(first_good(bench, taken)))
        return
    rows = []
    for seed in range(bench.rounds):
        row = {}
        for only in ("ours", "peer"):
            command = [sys.executable, "-m", "tests.bench.bench_quality", "--only", only]
            command += ["--seed", str(seed), "--path", bench.path, "--cap-s", str(bench.cap_s)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            row[only] = json.loads(run.stdout.splitlines()[-1])
        print(f"seed {seed}: {row}", file=sys.stderr)
        rows.append(row)
    write_section(Path(bench.out), "quality", report(rows, bench))


def report(rows: list[dict[str, dict[str, float]]], bench: Bench) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Time to quality",
        "",
        header("torch"),
        "",
        f"Training seconds, one thread, until class-conditional accuracy {ACCURACY} and Fréchet"
        f" distance at most {FLOORS:g} x its floor, judged on {SAMPLES:,} samples by a classifier"
        " trained on the real 9,000 training digits; lower is better. Peer: the tutorial recipe"
        " made conditional (`tests/bench/bench_quality.py`).",
        "",
        "| seed | ours, s | peer, s | ratio |",
        "|--:|--:|--:|--:|",
    ]
    ratios = []
    for seed, row in enumerate(rows):
        mine, other = row["ours"]["seconds"], row["peer"]["seconds"]
        reached = other != float("inf")
        ratios.append(mine / (other if reached else bench.cap_s))
        shown = (
            f"{other:.0f}"
            if reached
            else (
                f"not within {bench.cap_s:.0f} (accuracy {row['peer']['accuracy']:.3f},"
                f" {row['peer']['floors']:.1f} floors)"
            )
        )
        lines.append(
            f"| {seed} | {mine:.0f} | {shown} | {'' if reached else '< '}{ratios[-1]:.2f} |"
        )
    return "\n".join([*lines, "", f"Median ratio {statistics.median(ratios):.2f}."])


if __name__ == "__main__":
    main()
