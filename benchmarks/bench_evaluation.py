"""Speed of training while quality is measured: not at all, in the training process, beside it.

    python -m benchmarks.bench_evaluation [rounds]

The three take turns. Seconds are those from the first training step to the last: of the clock, and
of the processor that the training thread took, which a busy machine changes less.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from aigc import data, models
from aigc.training import evaluator
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from tests.training.small_runs import Inline

SAMPLES, INTERVAL = 3072, 1024
WAYS = ("off", "in the training process", "beside")


def seconds(way: str, folder: Path) -> tuple[float, float]:
    """Seconds of the steps of one run: of the clock, and of the training thread."""
    config = replace(
        models.preset("dcgan:digits"),
        samples=SAMPLES,
        evaluate_interval=0 if way == "off" else INTERVAL,
        grid_interval=0,
        report_interval=0,
        checkpoint_interval=0,
        threads=1,
    )
    run = Run(folder)
    run.create(config)
    beside = evaluator.start
    steps: list[tuple[float, float]] = []
    if way == "in the training process":
        evaluator.start = Inline  # type: ignore[assignment]

    def note(samples: int) -> bool:
        steps.append((time.perf_counter(), time.thread_time()))
        return False

    try:
        context = RunContext(store=NullStore(folder), stop=note)
        train_run(context, config, data.load(config.data, config.model))
    finally:
        evaluator.start = beside
    first, last = steps[0], steps[SAMPLES // config.batch - 1]
    return last[0] - first[0], last[1] - first[1]


def main(rounds: int = 5) -> None:
    """Print each run, and the medians over the rounds."""
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(-1, rounds):  # the first one trains the judge, which is kept
        for way in WAYS if turn >= 0 else WAYS[1:2]:
            with tempfile.TemporaryDirectory() as folder:
                taken = seconds(way, Path(folder) / "run")
            if turn >= 0:
                found[way].append(taken)
                print(f"{way:25} {taken[0]:.2f} s, of the thread {taken[1]:.2f} s", flush=True)
    off = [statistics.median(each) for each in zip(*found["off"], strict=True)]
    for way, times in found.items():
        clock, thread = (statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"{way:25} {SAMPLES / clock:,.0f} samples/s, {clock / off[0]:.2f} of the time;"
            f" of the thread {thread:.2f} s, {thread / off[1]:.2f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
