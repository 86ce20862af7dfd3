"""Speed of training while quality is measured: not at all, in the training process, beside it.

    python -m benchmarks.bench_evaluation [rounds]

The three take turns. Seconds are those of the training steps, from the first to the last.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aigc import data, models
from aigc.training import evaluator
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from tests.training.small_runs import Inline

SAMPLES, INTERVAL = 4096, 1024
WAYS = ("off", "in the training process", "beside")


def seconds(way: str, folder: Path) -> float:
    """Wall time of the steps of one run."""
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
    beside, steps = evaluator.start, []
    if way == "in the training process":
        evaluator.start = Inline  # type: ignore[assignment]

    def note(samples: int) -> bool:
        steps.append(time.perf_counter())
        return False

    try:
        context = RunContext(store=NullStore(folder), stop=note)
        train_run(context, config, data.load(config.data, config.model))
    finally:
        evaluator.start = beside
    return steps[SAMPLES // config.batch - 1] - steps[0]


def main(rounds: int = 5) -> dict[str, Any]:
    """Medians over the rounds, printed and returned."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(-1, rounds):  # the first one trains the judge, which is kept
        for way in WAYS if turn >= 0 else WAYS[1:2]:
            with tempfile.TemporaryDirectory() as folder:
                taken = seconds(way, Path(folder) / "run")
            if turn >= 0:
                found[way].append(taken)
                print(f"{way:25} {taken:.2f} s", flush=True)
    medians = {way: statistics.median(taken) for way, taken in found.items()}
    for way, taken in medians.items():
        speed = SAMPLES / taken
        print(f"{way:25} {taken:.2f} s  {speed:,.0f} samples/s  {taken / medians['off']:.2f}")
    return medians


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
