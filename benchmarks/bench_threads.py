"""Training on the CPU, idle and beside other processes that keep cores busy.

    python -m benchmarks.bench_threads --rounds 5

`before` is as many threads as cores, `now` that of `aigc train`: as many as a trial chooses. Both
take turns within each round.
"""

import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.report import header, spread, write_section

PRESETS = ("text_vae:numbers", "dcgan:digits", "conv_vae:digits", "spectrogram_gan:spoken_digits")
WAYS = ("before", "now")
CHILD = """
import os, sys, time
from dataclasses import replace
import torch
from aigc import data, models
from aigc.training.malloc import keep_freed_memory
from aigc.training.thread_count import choose_threads
from aigc.training.loop import TrainState, train

preset, seconds, way = sys.argv[1], float(sys.argv[2]), sys.argv[3]
config = replace(models.preset(preset), samples=10**12)
keep_freed_memory()
source = data.load(config.data, config.model)
threads = os.cpu_count() or 1
if way == "now":
    threads, _ = choose_threads(config, source, threads)
torch.set_num_threads(threads)
state, begun = TrainState(config), []

def stop(samples):
    if samples >= 5 * config.batch and not begun:
        begun.extend((samples, time.perf_counter()))
    return bool(begun) and time.perf_counter() - begun[1] > seconds

train(config, state, source, stop=stop)
print((state.samples - begun[0]) / (time.perf_counter() - begun[1]), threads)
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Training beside a busy process."""

    rounds: int = 5
    """Rounds; medians are taken over them."""
    seconds: float = 3.0
    """Duration for which each run is timed."""
    presets: tuple[str, ...] = PRESETS
    out: Path = Path("docs/benchmarks.md")
    """File whose section is rewritten."""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run processes that compute all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured(preset: str, seconds: float, way: str, others: int) -> tuple[float, int]:
    """Samples per second of a run of its own, and with how many threads."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    rest = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", CHILD, preset, str(seconds), way]
    with busy(others):
        done = subprocess.run(
            command, env=rest, capture_output=True, text=True, check=True, timeout=600
        )
    rate, threads = done.stdout.split()
    return float(rate), int(threads)


def section(bench: Bench) -> str:
    """Measure, and write what was found."""
    rates: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    chosen: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number in range(bench.rounds):
        for preset in bench.presets:
            for others in (0, 1):
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    rate, threads = measured(preset, bench.seconds, way, others)
                    rates[preset, way, others].append(rate)
                    if way == "now":
                        chosen[preset, others].append(threads)
        print(f"round {number + 1} of {bench.rounds}", file=sys.stderr)
    lines = [
        "## A busy machine",
        "",
        header("torch"),
        "",
        "Samples per second of training, alone and beside one process that keeps a core busy."
        f" Before: {os.cpu_count()} threads. Now: one or all, as a trial of a second chose before"
        " the first batch. Threads wait as OpenMP has it, spinning."
        f" Medians of {bench.rounds} rounds (smallest to largest).",
        "",
        "| preset | alone, before | alone, now | beside one, before | beside one, now"
        " | share of alone, before | now | threads chosen, alone; beside one |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for preset in bench.presets:
        cells = [spread(rates[preset, way, others], 0) for others in (0, 1) for way in WAYS]
        shares = [
            statistics.median(rates[preset, way, 1]) / statistics.median(rates[preset, way, 0])
            for way in WAYS
        ]
        numbers = "; ".join(", ".join(map(str, chosen[preset, others])) for others in (0, 1))
        lines.append(
            f"| {preset} | {' | '.join(cells)} | {shares[0]:.2f} | {shares[1]:.2f} | {numbers} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Rewrite the section."""
    bench = tyro.cli(Bench, description=__doc__)
    write_section(bench.out, "threads", section(bench))
    print(bench.out)


if __name__ == "__main__":
    main()
