"""Number of torch threads of a worker, chosen by a short trial.

OpenMP's threads spin while they wait for the slowest of them at the end of each part of a layer.
This is fastest while each has a core. Where another process takes one of the cores, a single thread
trains a small model twice as fast. Threads that sleep instead (OMP_WAIT_POLICY=PASSIVE) lose a
third of the speed on an idle machine. Measurements are in docs/benchmarks.md ("A busy machine").
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from aigc.config import TrainConfig
from aigc.data import Source
from aigc.training.dataloader import batch_of
from aigc.training.loop import TrainState
from aigc.training.step import SingleProcess, Step

TRIAL_S = 1.0
"""Approximate duration of a trial."""
LONG_S = 2.0
"""Duration of a first batch from which on it is compared with one thread's share of it alone."""
MOST_ROUNDS = 9
WORTH = 0.95
"""Largest share of the time of one thread that makes several threads worth it."""


def choose_threads(config: TrainConfig, source: Source, most: int) -> tuple[int, float]:
    """Train a few batches on the CPU with one thread and with `most`, in turns.

    Returns the faster number, and the time of the other one relative to it. One thread is chosen
    unless several are faster by 5 %, since it leaves cores to other processes. Where a batch takes
    long, one thread trains its share of the rows only: a large model scales, while a small one that
    takes long waits for cores which other processes hold. Neither the state of the run nor the
    random generator changes. Raises what reading or training a batch raises.
    """
    if most == 1:
        return 1, 1.0
    before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            train = _batch(replace(config, compile=False), source)
            whole = partial(train, config.batch)
            several = _seconds(whole, most)
            if several > LONG_S:
                rows = min(config.batch, max(2, config.batch // most))  # BatchNorm needs two
                one = _seconds(partial(train, rows), 1) * config.batch / rows
            else:
                _seconds(whole, 1)
                one, several = _in_turns(whole, most)
    finally:
        torch.set_num_threads(before)
    return (most, one / several) if several < WORTH * one else (1, several / one)


def _batch(config: TrainConfig, source: Source) -> Callable[[int], object]:
    """A step on a number of rows, the first ones, with a state that is thrown away."""
    state = TrainState(config, "cpu")
    like = next(state.model.parameters())
    rows = [row % len(source) for row in range(config.batch)]
    batch = batch_of(source, rows, config.model.modality, like, config.data.on_error)

    def train(rows: int) -> object:
        step = Step(replace(config, batch=rows), state, SingleProcess())
        return step({name: value[:rows] for name, value in batch.items()}, {})

    return train


def _seconds(batch: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    began_s = time.perf_counter()
    batch()
    return time.perf_counter() - began_s


def _in_turns(batch: Callable[[], object], most: int) -> tuple[float, float]:
    """Median seconds of a batch with one thread and with `most`."""
    taken: dict[int, list[float]] = {1: [], most: []}
    until_s = time.perf_counter() + TRIAL_S
    for _ in range(MOST_ROUNDS):
        for threads, seconds in taken.items():
            seconds.append(_seconds(batch, threads))
        if time.perf_counter() > until_s:
            break
    return statistics.median(taken[1]), statistics.median(taken[most])
