"""The loop: every phase of every batch, for GANs and VAEs alike, on one worker or many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from aigc.config import TrainConfig
from aigc.data import Source
from aigc.divergence import Diverged, Guard, NonFiniteLoss
from aigc.feed import Feed, Stream
from aigc.figures import Readings, Values
from aigc.state import TrainState
from aigc.step import Alone, Step, Sync

__all__ = ["Alone", "Diverged", "Event", "NonFiniteLoss", "Outcome", "Sync", "TrainState", "train"]

Outcome = Literal["done", "stopped"]

GPU_LAG = 8
"""Batches after which a GPU's figures are read: by then they are there, and nothing waits."""


@dataclass(frozen=True)
class Event:
    """Something that happens whenever another `interval` samples were seen, and at the end."""

    interval: int
    action: Callable[[TrainState, Values], None]
    """Receives the means of the losses and metrics since its last turn, over all workers."""
    at_end: bool = True


def train(
    config: TrainConfig,
    state: TrainState,
    source: Source,
    events: Sequence[Event] = (),
    sync: Sync | None = None,
    stop: Callable[[int], bool] = lambda samples: False,
    stream: Stream | None = None,
) -> Outcome:
    """Train `state` in place until config.samples, or until `stop(samples)` is true on rank 0.

    Raises divergence.Diverged, on every worker at once, with phase and samples seen; the weights
    are then still those of the last good step.
    """
    sync = sync or Alone()
    like = next(state.model.parameters())
    feed = Feed(
        config,
        source,
        rank=sync.rank,
        world=sync.world,
        start=state.samples,
        like=like,
        stream=stream,
    )
    step = Step(config, state, sync)
    readings = Readings(Guard(state.model.collapsed), len(events), GPU_LAG if like.is_cuda else 0)
    state.model.train()
    while state.samples < config.samples and not readings.stopped:
        batch = next(feed)
        wish = sync.rank == 0 and stop(state.samples)
        state.set_rates()
        readings.add(state.samples, step(batch, {"run/stop": float(wish), **feed.figures()}))
        before, state.samples = state.samples, state.samples + config.batch
        state.batches += 1
        state.update_average(config.ema_half_life, config.ema_warmup, config.batch)
        last = readings.stopped or state.samples >= config.samples
        for number, event in enumerate(events):
            crossed = event.interval and state.samples // event.interval > before // event.interval
            if crossed or (last and event.at_end):
                readings.read_all()
                sync.broadcast(list(state.model.buffers()))
                event.action(state, readings.take(number))
    readings.read_all()
    return "stopped" if readings.stopped else "done"
