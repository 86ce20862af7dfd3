"""One batch: gradients of every phase that is due, over parts and workers, and the steps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aigc.config import TrainConfig
from aigc.data import share
from aigc.layers import frozen_power_iteration
from aigc.model import Batch
from aigc.noise import Noise, reseed
from aigc.state import TrainState

Figures = list[tuple[list[str], Tensor]]
"""Names and values, each phase's in one tensor on the device."""


class Sync(Protocol):
    """What the loop needs of its fellow workers."""

    rank: int
    world: int

    def sum(self, flat: Tensor) -> None:
        """Add up `flat` over all workers, in place."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0, in place."""

    def share_batch_norm(self, model: nn.Module) -> None:
        """Have BatchNorm take its statistics over all workers."""


class Alone:
    """The only worker."""

    rank = 0
    world = 1

    def sum(self, flat: Tensor) -> None:
        """Nothing to add."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Nobody to tell."""

    def share_batch_norm(self, model: nn.Module) -> None:
        """It has the whole batch."""


def like_in_memory(value: Tensor, like: Tensor) -> Tensor:
    """`value` laid out as `like`: fused optimizers go through memory side by side."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


class Step:
    """All phases that are due on one batch."""

    def __init__(self, config: TrainConfig, state: TrainState, sync: Sync) -> None:
        self.config, self.state, self.sync = config, state, sync
        self.like = next(state.model.parameters())
        first, last = share(config.batch, sync.rank, sync.world)
        size = config.micro_batch or last - first
        self.spans = [(at, min(at + size, last)) for at in range(first, last, size)]
        self.first = first
        self.parameters = [list(phase.module.parameters()) for phase in state.phases]
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        if config.precision == "bfloat16":
            device = self.like.device.type
            self.autocast = lambda: torch.autocast(device, torch.bfloat16)
        # Of a batch that is not finite, and of all after it: the optimizers take no step then,
        # without the host having to look.
        self.bad = torch.zeros((), device=self.like.device)
        if config.sync_batch_norm:
            sync.share_batch_norm(state.model)
        if config.compile:
            for network in state.model.children():
                network.compile(dynamic=False)

    def __call__(self, batch: Batch, extra: dict[str, float]) -> Figures:
        """Take the steps; returns names and figures, each phase's in one tensor on the device.

        `extra` are figures of this worker that are added up over all of them.
        """
        state = self.state
        seen = state.batches, state.samples
        due = [i for i, phase in enumerate(state.phases) if phase.due(*seen)]
        phases = {state.phases[i].name for i in due}
        # One span: what prepare() made serves all phases. Several: memory is what lacks, so each
        # phase makes its own again, span by span.
        whole = self._prepare(batch, 0, phases, self.rank_key("prepare")) if self.single else None
        report = []
        for i in due:
            phase, optimizer = state.phases[i], state.optimizers[i]
            gradients, named = self._gradients(batch, i, whole)
            named |= {name: self.like.new_full((), value) for name, value in extra.items()}
            extra = {}
            gradients, figures = self._reduced(gradients, named)
            torch.maximum(self.bad, (~figures.isfinite().all()).float(), out=self.bad)
            optimizer.found_inf = self.bad  # type: ignore[attr-defined]
            for parameter, gradient in zip(self.parameters[i], gradients, strict=True):
                parameter.grad = like_in_memory(gradient, parameter)
            optimizer.step()
            optimizer.zero_grad()
            names = [name if "/" in name else f"{phase.name}/{name}" for name in named]
            report.append(([*names, f"{phase.name}/gradient_norm"], figures))
        return report

    @property
    def single(self) -> bool:
        """Whether the worker's rows go through the networks at once."""
        return len(self.spans) == 1

    def rank_key(self, purpose: str) -> str:
        """Key of what cannot be drawn by index: Dropout's masks depend on the rank."""
        return f"{self.config.seed}/{self.state.samples}/{purpose}/{self.sync.rank}"

    def _noise(self, number: int) -> Noise:
        span = self.spans[number]
        return Noise(self.config.seed, self.state.samples, self.config.batch, *span, self.like)

    def _part(self, batch: Batch, number: int) -> Batch:
        if self.single:
            return batch
        start, stop = (at - self.first for at in self.spans[number])
        return {key: value[start:stop] for key, value in batch.items()}

    def _prepare(self, batch: Batch, number: int, due: set[str], key: str) -> Any:
        reseed(key, self.like.device)
        with self.autocast():
            return self.state.model.prepare(self._part(batch, number), self._noise(number), due)

    def _gradients(
        self, batch: Batch, i: int, whole: Any
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """This worker's share of a phase's gradients and figures: they add up to the means."""
        phase, model = self.state.phases[i], self.state.model
        total: Sequence[Tensor] = ()
        sums: dict[str, Tensor] = {}
        for number, (start, stop) in enumerate(self.spans):
            key = self.rank_key(f"{phase.name}/{number}" if number else phase.name)
            with frozen_power_iteration(model, number > 0):
                shared = whole
                if not self.single:
                    shared = self._prepare(batch, number, {phase.name}, f"{key}/prepare")
                reseed(key, self.like.device)
                with self.autocast():
                    loss, metrics = model.loss(
                        phase.name, self._part(batch, number), self._noise(number), shared
                    )
                weight = (stop - start) / self.config.batch
                # Only this phase's gradients: a generator step does not pay for the others'.
                own = torch.autograd.grad(
                    loss if weight == 1 else loss * weight, self.parameters[i]
                )
            if number:
                torch._foreach_add_(list(total), own)
            else:
                total = [g.contiguous() for g in own] if not self.single else own
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0) + value * weight
        return total, sums

    def _reduced(
        self, gradients: Sequence[Tensor], named: dict[str, Tensor]
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Sums over the workers by one flat all-reduce of fixed layout, parameters in order.

        Behind the figures comes the norm of the gradients.
        """
        figures = torch.stack([*named.values()])
        if self.sync.world > 1:
            flat = torch.cat([*(g.flatten() for g in gradients), figures])
            self.sync.sum(flat)
            sizes = [gradient.numel() for gradient in gradients]
            *parts, figures = torch.split(flat, [*sizes, len(named)])
            gradients = [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
        return gradients, torch.cat([figures, norm[None]])
