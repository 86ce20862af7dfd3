"""The loop: every phase of every batch, for GANs and VAEs alike, on one worker or many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from aigc.config import TrainConfig
from aigc.data import Source
from aigc.training.dataloader import BatchLoader, Stream
from aigc.training.divergence import Diverged, DivergenceMonitor, NonFiniteLoss
from aigc.training.metric_buffer import MetricBuffer, Values
from aigc.training.state import TrainState
from aigc.training.step import ProcessGroup, SingleProcess, Step

__all__ = [
    "Diverged",
    "NonFiniteLoss",
    "Outcome",
    "PeriodicAction",
    "ProcessGroup",
    "SingleProcess",
    "TrainState",
    "train",
]

Outcome = Literal["done", "stopped"]

GPU_LAG = 8
"""Batches after which a GPU's metrics are read: by then they are computed, nothing waits."""


@dataclass(frozen=True)
class PeriodicAction:
    """An action that is due every `interval` samples, and at the end."""

    interval: int
    action: Callable[[TrainState, Values], None]
    """Called with the means of the losses and metrics since the last call, over all workers."""
    at_end: bool = True
    """Due also after the last batch, whatever the interval."""
    when_stopped: bool = True
    """Due at all in a run that is stopped before its end; false for what takes long."""


def train(
    config: TrainConfig,
    state: TrainState,
    source: Source,
    actions: Sequence[PeriodicAction] = (),
    group: ProcessGroup | None = None,
    stop: Callable[[int], bool] = lambda samples: False,
    stream: Stream | None = None,
) -> Outcome:
    """Train `state` in place until config.samples, or until `stop(samples)` is true on rank 0.

    Raises divergence.Diverged, on every worker at once, with phase and samples seen; the weights
    are still those of the last good step.
    """
    group = group or SingleProcess()
    like = next(state.model.parameters())
    loader = BatchLoader(
        config,
        source,
        rank=group.rank,
        world_size=group.world_size,
        start=state.samples,
        like=like,
        stream=stream,
    )
    step = Step(config, state, group)
    metrics = MetricBuffer(
        DivergenceMonitor(state.model.collapsed), len(actions), GPU_LAG if like.is_cuda else 0
    )
    state.model.train()
    while state.samples < config.samples and not metrics.stopped:
        batch = next(loader)
        # A request to stop goes through the metrics, so that all workers see it after one batch.
        stop_now = group.rank == 0 and stop(state.samples)
        state.set_rates()
        metrics.add(state.samples, step(batch, {"run/stop": float(stop_now), **loader.metrics()}))
        before, state.samples = state.samples, state.samples + config.batch
        state.batches += 1
        state.update_ema(config.ema_half_life, config.ema_warmup, config.batch)
        done = state.samples >= config.samples
        stopped = metrics.stopped and not done
        for number, periodic in enumerate(actions):
            interval = periodic.interval
            crossed = interval and state.samples // interval > before // interval
            if stopped and not periodic.when_stopped:
                continue
            if crossed or ((done or stopped) and periodic.at_end):
                metrics.read_all()
                group.broadcast(list(state.model.buffers()))
                periodic.action(state, metrics.take(number))
    metrics.read_all()
    return "stopped" if metrics.stopped else "done"
