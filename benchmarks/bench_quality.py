"""Seconds of training until generated digits are good, against a plain conditional DCGAN recipe.

    python -m benchmarks.bench_quality --data ../shared/data/mnist10k
    python -m benchmarks.bench_quality --only ours --seconds 60

One thread each, ours and the peer in turn. The clock stands still while a snapshot is judged. Good:
the judge takes 0.97 of 2,000 samples for the class asked for, and their Fréchet distance to real
training data is at most four times that of real test data.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from aigc import data, models
from aigc.config import DataConfig, TrainConfig
from aigc.metrics.classifier import Classifier
from aigc.metrics.frechet import frechet
from aigc.training.loop import PeriodicAction, TrainState, train
from benchmarks.peers import examples_networks, task
from benchmarks.peers.examples_loop import Recipe
from benchmarks.report import header, spread, write_section

PRESET = "dcgan:digits"
ACCURACY, FLOORS = 0.97, 4.0
SAMPLES = 2000
LOOK_EVERY = 5
"""Batches between two looks at the clock."""
Generate = Callable[[Tensor, Tensor], Tensor]
"""latent (N, D), labels (N,) -> images (N, 1, 28, 28) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time to quality."""

    rounds: int = 1
    """Runs of each, with seeds 0, 1, ..."""
    seconds: float = 300.0
    """Most seconds that one run trains."""
    cadence: float = 3.0
    """Seconds of training between two snapshots that are judged."""
    data: Path = Path("../shared/data/mnist10k")
    """Folder of MNIST's IDX files."""
    only: Literal["ours", "peer"] | None = None
    """Run one side, print its course and write nothing."""
    out: Path = Path("docs/benchmarks.md")
    """File whose section is rewritten."""


class Judge:
    """A classifier that never saw generated data, and what real data scores by it."""

    def __init__(self, config: TrainConfig) -> None:
        train_split, test = (
            data.whole(data.load(config.data, config.model, split)) for split in ("train", "test")
        )
        self.classifier = Classifier.trained_on(train_split)
        self.real = self.classifier.classify(data.scaled(train_split.samples)).features
        held_out = self.classifier.classify(data.scaled(test.samples))
        self.floor = frechet(self.real, held_out.features)
        self.accuracy = float((held_out.predicted == test.labels).mean())

    def __call__(self, generate: Generate, latent: int) -> tuple[float, float]:
        """Accuracy and Fréchet distance of the same 2,000 latents and labels every time."""
        z = torch.randn(SAMPLES, latent, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(SAMPLES) % 10
        with torch.no_grad():
            images = torch.cat(
                [generate(*part) for part in zip(z.split(500), labels.split(500), strict=True)]
            )
        judged = self.classifier.classify(images.numpy())
        right = float((judged.predicted == labels.numpy()).mean())
        return right, frechet(self.real, judged.features)


class Course:
    """A clock of training seconds that stands still while a snapshot is judged."""

    def __init__(self, title: str, judge: Judge, latent: int, bench: Bench) -> None:
        self.title, self.judge, self.latent, self.bench = title, judge, latent, bench
        self.seconds, self.due = 0.0, bench.cadence
        self.reached: float | None = None
        self.over = False
        self.last = (0.0, float("inf"))
        self.mark = time.perf_counter()

    def look(self, snapshot: Callable[[], Generate]) -> None:
        """Take note of the time; where a snapshot is due, judge it."""
        self.seconds += time.perf_counter() - self.mark
        if self.seconds >= self.due and not self.over:
            self.due += self.bench.cadence * ((self.seconds - self.due) // self.bench.cadence + 1)
            accuracy, distance = self.last = self.judge(snapshot(), self.latent)
            if accuracy >= ACCURACY and distance <= FLOORS * self.judge.floor:
                self.reached = self.seconds
            self.over = self.reached is not None or self.seconds >= self.bench.seconds
            line = f"{self.title}: {self.seconds:.0f} s, accuracy {accuracy:.3f}"
            print(f"{line}, {distance / self.judge.floor:.1f} floors", file=sys.stderr)
        self.mark = time.perf_counter()


def ours(config: TrainConfig, judge: Judge, bench: Bench) -> Course:
    """The preset as `aigc train` runs it; its averaged generator is judged, as it is exported."""
    state = TrainState(config)
    source = data.load(config.data, config.model)
    course = Course(f"ours, seed {config.seed}", judge, config.model.latent, bench)

    def look(state: TrainState, values: Any) -> None:
        course.look(lambda: state.ema_model().averaged())

    events = [PeriodicAction(LOOK_EVERY * config.batch, look, at_end=False)]
    train(config, state, source, events, stop=lambda samples: course.over)
    return course


def peer(config: TrainConfig, judge: Judge, bench: Bench) -> Course:
    """The recipe: Adam 2e-4 with betas (0.5, 0.999), no average, its own networks."""
    torch.manual_seed(config.seed)
    generator, discriminator = examples_networks.Generator(), examples_networks.Discriminator()
    optimizers = tuple(
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
        for network in (generator, discriminator)
    )
    recipe = Recipe(generator, discriminator, optimizers, examples_networks.LATENT)
    batches = task.endless(task.tensors(config), config.batch)
    course = Course(f"recipe, seed {config.seed}", judge, examples_networks.LATENT, bench)
    for number, (real, label) in enumerate(batches):
        recipe.step(real, label)
        if (number + 1) % LOOK_EVERY == 0:
            course.look(lambda: copy.deepcopy(generator).eval())
        if course.over:
            break
    return course


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    torch.set_num_threads(1)
    config = replace(
        models.preset(PRESET),
        data=DataConfig(source="idx", path=str(bench.data)),
        samples=10**12,
    )
    judge = Judge(config)
    courses: list[tuple[Course, Course]] = []
    sides = {"ours": ours, "peer": peer}
    for seed in range(bench.rounds):
        seeded = replace(config, seed=seed)
        done = [
            run(seeded, judge, bench) for name, run in sides.items() if bench.only in (None, name)
        ]
        if len(done) == 2:
            courses.append((done[0], done[1]))
    if courses:
        section = report(courses, judge, bench)
        print(section)
        write_section(bench.out, "quality", section)


def report(courses: list[tuple[Course, Course]], judge: Judge, bench: Bench) -> str:
    """The section of docs/benchmarks.md."""
    rows = [
        f"| {seed} | {outcome(mine)} | {outcome(theirs)} | {ratio(mine, theirs)} |"
        for seed, (mine, theirs) in enumerate(courses)
    ]
    networks = examples_networks.Generator(), examples_networks.Discriminator()
    model = models.build(models.preset(PRESET))
    return "\n".join(
        [
            "## Time to quality",
            "",
            header("torch", "numpy"),
            "",
            f"Seconds of training, one thread, until the judge's accuracy is ≥ {ACCURACY} (real"
            f" test digits: {judge.accuracy:.3f}) and the Fréchet distance of {SAMPLES:,}"
            f" samples is ≤ {FLOORS:g} × {judge.floor:.3g}, that of real test to real training"
            f" data. Data: {bench.data.name}. Ours: `{PRESET}`"
            f" ({sum(map(size, model.children())):,} parameters). Peer: the PyTorch examples"
            f" DCGAN recipe with labels ({sum(map(size, networks)):,} parameters), Adam 2e-4,"
            " betas (0.5, 0.999), no average. Start-up and judging are not counted; a snapshot is"
            f" judged every {bench.cadence:g} s, runs end after {bench.seconds:g} s.",
            "",
            "| seed | ours, s | recipe, s | ours / recipe |",
            "|--:|--:|--:|--:|",
            *rows,
            "",
            summary(courses),
        ]
    )


def outcome(course: Course) -> str:
    """Seconds, or how far it came."""
    if course.reached is not None:
        return f"{course.reached:.0f}"
    accuracy, distance = course.last
    floors = distance / course.judge.floor
    return f"not within {course.seconds:.0f} (accuracy {accuracy:.3f}, {floors:.1f} floors)"


def ratio(mine: Course, theirs: Course) -> str:
    """Ratio of the seconds; only a bound where one of the two did not get there."""
    if mine.reached is None and theirs.reached is None:
        return "unknown"
    sign = "≥ " if mine.reached is None else "≤ " if theirs.reached is None else ""
    return f"{sign}{mine.seconds / theirs.seconds:.2f}"


def summary(courses: list[tuple[Course, Course]]) -> str:
    """Median and range of the ratios that say anything, and how many of them are bounds."""
    some = [pair for pair in courses if any(course.reached is not None for course in pair)]
    if not some:
        return "Lower is better. No ratio: neither side got there in time."
    bounds = sum(any(course.reached is None for course in pair) for pair in some)
    text = spread([mine.seconds / theirs.seconds for mine, theirs in some])
    text = f"Lower is better. Ratio: {text}, seeds: {len(some)} of {len(courses)}"
    return f"{text}; bounds, since one side did not get there in time: {bounds}."


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return int(np.sum([p.numel() for p in network.parameters()]))


if __name__ == "__main__":
    main()
