"""The loop: every phase of every batch, for GANs and VAEs alike, on one worker or many."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from aigc import models
from aigc.config import TrainConfig
from aigc.data import Dataset, rows
from aigc.model import Batch, GenerativeModel, Phase
from aigc.noise import Noise, derive

Outcome = Literal["done", "stopped"]


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the optimizer step was not taken."""


class Sync(Protocol):
    """What the loop needs of its fellow workers."""

    rank: int
    world: int

    def sum(self, flat: Tensor) -> None:
        """Add up `flat` over all workers, in place."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0, in place."""


class Alone:
    """The only worker."""

    rank = 0
    world = 1

    def sum(self, flat: Tensor) -> None:
        """Nothing to add."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Nobody to tell."""


class TrainState:
    """Everything that training changes, and so everything that a checkpoint holds."""

    def __init__(self, config: TrainConfig, device: torch.device | str = "cpu") -> None:
        torch.manual_seed(derive(f"{config.seed}/initial"))
        dtype = getattr(torch, config.precision)
        self.model: GenerativeModel = models.build(config).to(device, dtype)
        self.phases = self.model.phases()
        self.optimizers = [_optimizer(phase) for phase in self.phases]
        self.average = copy.deepcopy(self.model.averaged()).requires_grad_(False)
        self.samples = 0
        self.batches = 0

    def served(self) -> GenerativeModel:
        """A copy of the model with the averaged weights in it, in eval mode."""
        model = copy.deepcopy(self.model)
        model.averaged().load_state_dict(self.average.state_dict())
        return model.eval()

    def update_average(self, half_life: int, warmup: float, batch: int) -> None:
        """Exponential moving average of weights and buffers (Karras et al. 2018, section 4.1).

        The half-life is at most `warmup` times the samples seen (Karras et al. 2020, StyleGAN2).
        """
        limit = min(half_life, self.samples * warmup)
        weight = 1 - 0.5 ** (batch / limit) if limit > 0 else 1.0
        source, target = self.model.averaged().state_dict(), self.average.state_dict()
        floating = [name for name, value in target.items() if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_(
                [target[n] for n in floating], [source[n] for n in floating], weight
            )
            for name in target.keys() - set(floating):
                target[name].copy_(source[name])


@dataclass(frozen=True)
class Event:
    """Something that happens whenever another `interval` samples were seen, and at the end."""

    interval: int
    action: Callable[[TrainState, dict[str, float]], None]
    """Receives the means of the losses and metrics since its last turn, over all workers."""
    at_end: bool = True


def train(
    config: TrainConfig,
    state: TrainState,
    dataset: Dataset,
    events: Sequence[Event] = (),
    sync: Sync | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train `state` in place until config.samples, or until `stop()` is true on rank 0.

    Raises NonFiniteLoss, on every worker at once, with phase and samples seen.
    """
    sync = sync or Alone()
    start = config.batch * sync.rank // sync.world
    end = config.batch * (sync.rank + 1) // sync.world
    like = next(state.model.parameters())
    samples = torch.from_numpy(dataset.samples).to(like)
    labels = torch.from_numpy(dataset.labels).to(like.device)
    totals = [_Mean() for _ in events]
    state.model.train()
    stopped = False
    while state.samples < config.samples and not stopped:
        chosen = rows(config.seed, state.samples, state.samples + config.batch, len(dataset))
        index = torch.from_numpy(chosen[start:end]).to(like.device)
        batch = {state.model.config.modality: samples[index], "label": labels[index]}
        values, stopped = _step(config, state, batch, sync, (start, end), stop)
        before, state.samples = state.samples, state.samples + config.batch
        state.batches += 1
        if config.ema_half_life:
            state.update_average(config.ema_half_life, config.ema_warmup, config.batch)
        last = stopped or state.samples >= config.samples
        for event, total in zip(events, totals, strict=True):
            total.add(values)
            crossed = event.interval and state.samples // event.interval > before // event.interval
            if crossed or (last and event.at_end):
                sync.broadcast(list(state.model.buffers()))
                event.action(state, total.take())
    return "stopped" if stopped else "done"


def _step(
    config: TrainConfig,
    state: TrainState,
    batch: Batch,
    sync: Sync,
    span: tuple[int, int],
    stop: Callable[[], bool],
) -> tuple[dict[str, float], bool]:
    """All phases that are due on one batch -> values to report, and whether to stop after it."""
    like = next(state.model.parameters())
    noise = Noise(config.seed, state.samples, config.batch, *span, like)
    due = [i for i, phase in enumerate(state.phases) if (state.batches + 1) % phase.every == 0]
    torch.manual_seed(derive(f"{config.seed}/{state.samples}/prepare/{sync.rank}"))
    shared = state.model.prepare(batch, noise, {state.phases[i].name for i in due})
    share = noise.size / config.batch
    report: dict[str, float] = {}
    wish = stop() if sync.rank == 0 else False
    for i in due:
        phase, optimizer = state.phases[i], state.optimizers[i]
        # Dropout has no sample index: its masks depend on the rank, and nothing else does.
        torch.manual_seed(derive(f"{config.seed}/{state.samples}/{phase.name}/{sync.rank}"))
        loss, metrics = state.model.loss(phase.name, batch, noise, shared)
        parameters = list(phase.module.parameters())
        # Only this phase's gradients: a generator step does not pay for the discriminator's.
        own = torch.autograd.grad(loss, parameters)
        named = {"loss": loss.detach(), **metrics, "stop": loss.new_tensor(float(wish))}
        gradients, values = _reduce(own, named, sync, share)
        wish = wish or values.pop("stop") > 0
        if not all(math.isfinite(value) for value in values.values()):
            raise NonFiniteLoss(
                f"loss of phase {phase.name!r} is not finite after {state.samples} samples:"
                f" {values}; lower the learning rate or choose another objective"
            )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        report |= {f"{phase.name}/{name}": value for name, value in values.items()}
    return report, wish


def _reduce(
    gradients: Sequence[Tensor], named: dict[str, Tensor], sync: Sync, share: float
) -> tuple[Sequence[Tensor], dict[str, float]]:
    """Means over the global batch by one flat all-reduce of fixed layout, parameters in order."""
    if sync.world > 1:
        flat = torch.cat([*(g.flatten() for g in gradients), torch.stack([*named.values()])])
        flat *= share
        sync.sum(flat)
        sizes = [gradient.numel() for gradient in gradients]
        *parts, scalars = torch.split(flat, [*sizes, len(named)])
        gradients = [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        return gradients, dict(zip(named, scalars.tolist(), strict=True))
    return gradients, dict(zip(named, torch.stack([*named.values()]).tolist(), strict=True))


def _optimizer(phase: Phase) -> torch.optim.Adam:
    options = phase.optimizer
    return torch.optim.Adam(
        phase.module.parameters(), options.learning_rate, options.betas, fused=True
    )


class _Mean:
    """Running means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means
