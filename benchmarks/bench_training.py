"""Samples/s of `aigc train` against hand-written loops and trainers on the same networks.

    python -m benchmarks.bench_training --rounds 5
    python -m benchmarks.bench_training --only vae

Ours and every peer in each round. Those on one process run together, each in turn for a tenth of a
second, so that all see the same machine; the others one after another. All are timed over the last
half of their batches, so that no start counts. Ours also keeps the moving average, checks every
loss and reports.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import venv
from benchmarks.measure import BATCH, Contestant, alone, contestant, rival, together
from benchmarks.report import header, spread, verdict, write_section

GAN, VAE = "dcgan:digits", "conv_vae:digits"
HAND, RECIPE = "hand-written loop", "PyTorch examples recipe"
LIGHTNING, PYTHAE = "Lightning, manual optimization", "pythae BaseTrainer"
BARS = {
    HAND: {1: 1.0, 2: 1.0},
    RECIPE: {1: 1.05, 2: 1.15},
    LIGHTNING: {1: 1.1, 2: 1.1},
    PYTHAE: {1: 1.1, 2: 1.1},
}
"""Wanted ratio ours / peer, by peer and number of threads."""
EFFICIENCY = 0.9
"""Wanted speed of two workers, as a share of twice one."""
SECTIONS = {"gan": "training", "vae": "training-vae", "two": "training-two"}
Name = Literal["gan", "vae", "two"]
Runners = dict[str, Callable[[], float]]
Figures = dict[str, list[float]]
"""Samples/s by name, one per round."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Benchmark of training."""

    rounds: int = 5
    """Rounds; medians are taken over them."""
    batches: int = 60
    """Batches of each measurement, of which the last half counts."""
    only: Name | None = None
    """The GAN or the VAE on one process, or the GAN on two; by default all."""
    out: Path = Path("docs/benchmarks.md")
    """File whose sections are rewritten."""


def main() -> None:
    """Measure, print and write a section for each part."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    parts = {"gan": gan, "vae": vae, "two": two}
    for name, part in parts.items():
        if bench.only in (None, name):
            section = part(bench)
            print(section)
            write_section(bench.out, SECTIONS[name], section)


def measure(runners: Runners, bench: Bench) -> Figures:
    """Every runner once per round, in turn; one that fails is left out of all rounds, and said."""
    figures: Figures = {name: [] for name in runners}
    for number in range(bench.rounds):
        for name in list(figures):
            try:
                figures[name].append(runners[name]())
            except RuntimeError as error:
                if name.startswith("ours"):
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
                del figures[name]
                continue
            speed = figures[name][-1]
            print(f"round {number + 1}: {name}: {speed:,.0f} samples/s", file=sys.stderr)
    return figures


def measure_together(
    contestants: Callable[[int], dict[str, Contestant]], threads: int, bench: Bench
) -> Figures:
    """All contestants at once, in turns, in every round."""
    figures: Figures = {}
    for number in range(bench.rounds):
        some = contestants(threads)
        for name, speed in zip(some, together(list(some.values())), strict=True):
            figures.setdefault(name, []).append(speed)
            print(f"round {number + 1}: {name}: {speed:,.0f} samples/s", file=sys.stderr)
    return figures


def gan(bench: Bench) -> str:
    """One process, one and two threads: a section."""
    n = bench.batches
    found = venv.versions()

    def contestants(threads: int) -> dict[str, Contestant]:
        some = {
            "ours": contestant(GAN, n, 0, threads),
            HAND: rival("torch_loop", GAN, n, threads),
            RECIPE: rival("examples_loop", GAN, n, threads),
        }
        if "lightning" in found:
            some[LIGHTNING] = rival("lightning_loop", GAN, n, threads, python=venv.python())
        return some

    text = (
        "The hand-written loop makes two discriminator forwards and one backward; the recipe"
        " makes two of each and reads five values per batch; both, and Lightning, let the"
        " generator's loss run through the discriminator's weights, whose gradients nobody uses."
    )
    return single("Training a GAN", GAN, bench, contestants, {"lightning"}, text)


def vae(bench: Bench) -> str:
    """One process, one and two threads: a section."""
    n = 4 * bench.batches  # they are quick
    found = venv.versions()

    def contestants(threads: int) -> dict[str, Contestant]:
        some = {
            "ours": contestant(VAE, n, 0, threads),
            HAND: rival("vae_loop", VAE, n, threads),
        }
        if "pythae" in found:
            some[PYTHAE] = rival("pythae_trainer", VAE, n, threads, python=venv.python())
        return some

    text = "pythae's trainer brings its own DataLoader, which reads the data row by row."
    return single("Training a VAE", VAE, replace(bench, batches=n), contestants, {"pythae"}, text)


def single(
    title: str,
    preset: str,
    bench: Bench,
    contestants: Callable[[int], dict[str, Contestant]],
    extras: set[str],
    text: str,
) -> str:
    """The section of a preset on one process: a table row for each peer and thread count."""
    found = {name: number for name, number in venv.versions().items() if name in extras}
    missing = [
        f" {name} does not install or import beside this torch." for name in extras - {*found}
    ]
    rows = []
    for threads in (1, 2):
        print(f"{threads} threads", file=sys.stderr)
        measured = measure_together(contestants, threads, bench)
        mine = measured["ours"]
        for name, theirs in measured.items():
            if name != "ours":
                bar = BARS[name][threads]
                rows.append(f"| {threads} | {name} | {comparison(mine, theirs, bar)} |")
    return "\n".join(
        [
            f"## {title}",
            "",
            header("torch", "numpy", **found),
            "",
            f"`{preset}`, one process, batch 64, data in memory, the same networks, objective,"
            " batches and threads; torch's own layers and default Adam for the peers, who log"
            f" nothing. {text}" + "".join(missing),
            "",
            *table("threads | peer"),
            *rows,
            "",
            "All ran at once, each in turn with the machine to itself for a tenth of a second, and"
            " their samples/s are of that time. " + explained(bench),
        ]
    )


def two(bench: Bench) -> str:
    """Two processes with one thread each, and what they gain over one: a section."""
    # Ray's own processes are busy for some seconds after the workers have begun.
    n = 4 * bench.batches
    figures = measure(
        {
            "ours, 1 worker": lambda: alone(contestant(GAN, n, 1, 1)),
            "ours, 2 workers": lambda: alone(contestant(GAN, n, 2, 1)),
            "ours, 2 workers, twice the batch": lambda: alone(
                contestant(GAN, n, 2, 1, batch=2 * BATCH)
            ),
            "ours, half the batch": lambda: alone(contestant(GAN, n, 1, 1, batch=BATCH // 2)),
            "one loop": lambda: alone(rival("torch_loop", GAN, n, 1)),
            "torchrun": lambda: alone(rival("torch_loop", GAN, n, 1, processes=2)),
            "torchrun, twice the batch": lambda: alone(
                rival("torch_loop", GAN, n, 1, processes=2, batch=2 * BATCH)
            ),
        },
        bench,
    )
    doubled = figures["ours, 2 workers, twice the batch"]
    halved = shares(figures["ours, half the batch"], figures["ours, 1 worker"])
    lines = [
        "## Training on two processes",
        "",
        header("torch", "ray", "numpy"),
        "",
        f"`{GAN}`, one thread each. Ours is `aigc train --workers 2`; the peer the hand-written"
        " loop under torchrun with DistributedDataParallel (static_graph, gradient_as_bucket_view,"
        " no buffers synced, OMP_NUM_THREADS=1).",
        "",
        *table("global batch | peer"),
        f"| {BATCH} | torchrun, DDP |"
        f" {comparison(figures['ours, 2 workers'], figures.get('torchrun'), 1.0)} |",
        f"| {2 * BATCH} | torchrun, DDP |"
        f" {comparison(doubled, figures.get('torchrun, twice the batch'), 1.0)} |",
        "",
        f"Scaling efficiency is samples/s of two processes by twice those of one with batch {BATCH}"
        " and one thread.",
        "",
        "| samples of each process per batch | | efficiency (min to max) | bar |",
        "|---|---|--:|---|",
        *efficiencies(figures),
        "",
        f"A process alone, with nobody to wait for, makes {statistics.median(halved):.2f}"
        f" of its samples/s when its batch is {BATCH // 2} instead of {BATCH}: the most that two"
        f" could come to in the last rows.",
    ]
    return "\n".join([*lines, "", explained(replace(bench, batches=n))])


def shares(some: list[float], whole: list[float]) -> list[float]:
    """Ratios within each round."""
    return [a / b for a, b in zip(some, whole, strict=True)]


def efficiencies(figures: Figures) -> list[str]:
    """Rows of the table of efficiencies; those that lack a figure are left out."""
    rows = []
    for size, suffix in ((BATCH, ", twice the batch"), (BATCH // 2, "")):
        for name, two_of, one in (
            ("ours", "ours, 2 workers", "ours, 1 worker"),
            ("torchrun", "torchrun", "one loop"),
        ):
            both = figures.get(two_of + suffix)
            if both and one in figures:
                gain = [share / 2 for share in shares(both, figures[one])]
                met = verdict(gain, EFFICIENCY if name == "ours" else None)
                rows.append(f"| {size} | {name} | {spread(gain)} | {met} |")
    return rows


def table(first: str) -> list[str]:
    """Head of a table of comparisons."""
    columns = f"{first} | ours, samples/s | peer, samples/s | ours / peer (min to max) | bar"
    return [f"| {columns} |", "|---" * (first.count("|") + 1) + "|--:|--:|--:|---|"]


def comparison(mine: list[float], theirs: list[float] | None, bar: float | None) -> str:
    """Cells of a table: both medians, the ratios within each round, and the bar."""
    if theirs is None:
        return f"{statistics.median(mine):,.0f} | failed | | "
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    medians = f"{statistics.median(mine):,.0f} | {statistics.median(theirs):,.0f}"
    return f"{medians} | {spread(ratios)} | {verdict(ratios, bar)}"


def explained(bench: Bench) -> str:
    """Description of the measurement."""
    return (
        f"Higher is better. Medians of {bench.rounds} interleaved rounds of {bench.batches}"
        " batches, of which the last half counts; ratios are taken within a round."
    )


if __name__ == "__main__":
    main()
