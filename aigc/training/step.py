"""One batch: gradients of every phase that is due, over parts and workers, and the steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from aigc.config import TrainConfig
from aigc.data import share
from aigc.model import Batch, GenerativeModel, with_sums
from aigc.nn.layers import (
    Buffers,
    advance_power_iteration,
    frozen_power_iteration,
    restore_buffers,
    running_statistics,
    spectral_vectors,
)
from aigc.rng import BatchRNG, reseed
from aigc.training import optimizers
from aigc.training.gradient_buckets import GradientBuckets
from aigc.training.recomputation import recompute_activations
from aigc.training.state import TrainState

StepMetrics = list[tuple[list[str], Tensor]]
"""Names and values of a batch's losses and metrics, each phase's in one tensor on the device."""


class ProcessGroup(Protocol):
    """The workers of a run, as the loop uses them."""

    rank: int
    world_size: int
    device: torch.device
    """Device of this worker."""

    overlaps: bool
    """True if sums run beside the computation, so that gradients are sent in buckets."""

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over all workers, in place."""

    def begin_all_reduce(self, flat: Tensor) -> Callable[[], None]:
        """Begin what all_reduce does; `flat` may be used after the function returned waited."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0, in place."""

    def convert_sync_batch_norm(self, model: nn.Module) -> None:
        """Have BatchNorm take its statistics over all workers."""


class SingleProcess:
    """A process group of one."""

    rank = 0
    world_size = 1
    overlaps = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def all_reduce(self, flat: Tensor) -> None:
        """Do nothing."""

    def begin_all_reduce(self, flat: Tensor) -> Callable[[], None]:
        """Do nothing."""
        return lambda: None

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing."""

    def convert_sync_batch_norm(self, model: nn.Module) -> None:
        """Do nothing: the only worker has the whole batch."""


def barrier(group: ProcessGroup) -> None:
    """Wait until all workers are here."""
    group.all_reduce(torch.zeros(1, device=group.device))


def like_in_memory(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the memory layout of `like`: fused optimizers walk through both in step."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


class _Preparation(nn.Module):
    """The prepare() of a model as a forward pass."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, noise: BatchRNG, due: set[str]) -> Any:
        return self.model.prepare(batch, noise, due)


class Step:
    """All phases that are due on one batch."""

    def __init__(self, config: TrainConfig, state: TrainState, group: ProcessGroup) -> None:
        self.config, self.state, self.group = config, state, group
        self.like = next(state.model.parameters())
        first, last = share(config.batch, group.rank, group.world_size)
        size = config.micro_batch or last - first
        self.spans = [(at, min(at + size, last)) for at in range(first, last, size)]
        self.first = first
        self.before: dict[str, Tensor] = {}
        """Weights from before the batch's steps, of the phases that have stepped."""
        self.vectors: Buffers = []
        """Vectors of spectral norms from before the batch, if its rows pass in several spans."""
        self.sums_in_loss = state.model.has_loss_sums
        self.parameters = [list(phase.module.parameters()) for phase in state.phases]
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        if config.precision == "bfloat16":
            device = self.like.device.type
            self.autocast = lambda: torch.autocast(device, torch.bfloat16)
        # 1 from the first batch on that is not finite: the optimizers then take no step, without
        # the host having to read it.
        self.bad = torch.zeros((), device=self.like.device)
        self.buckets = [
            GradientBuckets(parameters, group.begin_all_reduce)
            for parameters in self.parameters
            if group.overlaps
        ]
        if config.sync_batch_norm:
            group.convert_sync_batch_norm(state.model)
        if config.activation_checkpointing:
            for network in state.model.children():
                recompute_activations(network)
        if config.compile:
            for network in state.model.children():
                network.compile(dynamic=False)

    def __call__(self, batch: Batch, extra: dict[str, float]) -> StepMetrics:
        """Take the steps; returns losses and metrics.

        `extra` are values of this worker that are summed over all of them.
        """
        state = self.state
        seen = state.batches, state.samples
        due = [i for i, phase in enumerate(state.phases) if phase.due(*seen)]
        phases = {state.phases[i].name for i in due}
        # With one span all phases share what prepare() returned. Several mean that memory is
        # short, so each phase prepares its own, span by span, with the weights of the first time.
        if self.sums_in_loss:
            advance_power_iteration(state.model)  # once: rows may pass several times
        elif not self.single:
            self.vectors = spectral_vectors(state.model)
        whole = self._prepare(batch, 0, phases) if self.single else None
        report = []
        sums: dict[str, Tensor] = {}
        for i in due:
            phase, optimizer = state.phases[i], state.optimizers[i]
            own: dict[str, Tensor] | None = {} if i == due[0] else None
            gradients, named = self._gradients(batch, i, whole, own)
            named |= {name: self.like.new_full((), value) for name, value in extra.items()}
            extra = {}
            gradients, values, own = self._reduce(i, gradients, named, own or {})
            sums |= own
            torch.maximum(self.bad, (~values.isfinite().all()).float(), out=self.bad)
            if phase.optimizer.clip_norm:
                gradients = optimizers.clip(gradients, values[-1], phase.optimizer.clip_norm)
            for parameter, gradient in zip(self.parameters[i], gradients, strict=True):
                parameter.grad = like_in_memory(gradient, parameter)
            if not self.single and i != due[-1]:
                self._remember(i)
            optimizers.step(optimizer, self.bad)
            optimizer.zero_grad()
            names = [name if "/" in name else f"{phase.name}/{name}" for name in named]
            report.append(([*names, f"{phase.name}/gradient_norm"], values))
        self.before = {}
        if sums:
            self._update(sums)
        return report

    @property
    def single(self) -> bool:
        """True if the worker's rows go through the networks at once."""
        return len(self.spans) == 1

    def rank_key(self, purpose: str) -> str:
        """Seed key for draws that cannot be indexed by sample, such as Dropout's masks."""
        return f"{self.config.seed}/{self.state.samples}/{purpose}/{self.group.rank}"

    def _frozen(self, frozen: bool = True) -> AbstractContextManager[None]:
        """Keeps the vectors of spectral norms where a pass is not to iterate them."""
        return frozen_power_iteration(self.state.model, frozen)

    def _noise(self, number: int) -> BatchRNG:
        span = self.spans[number]
        config, state = self.config, self.state
        return BatchRNG(
            config.seed, state.samples, config.batch, *span, self.like, state.run_samples
        )

    def _part(self, batch: Batch, number: int) -> Batch:
        if self.single:
            return batch
        start, stop = (at - self.first for at in self.spans[number])
        return {key: value[start:stop] for key, value in batch.items()}

    def _prepare(self, batch: Batch, number: int, due: set[str]) -> Any:
        """Result of prepare() for a span, with the weights from before the batch's steps."""
        reseed(self.rank_key(f"prepare/{number}" if number else "prepare"), self.like.device)
        model, inputs = self.state.model, (self._part(batch, number), self._noise(number), due)
        restore_buffers(self.vectors)
        with self.autocast(), self._frozen(self.sums_in_loss):
            if not self.before:
                return model.prepare(*inputs)
            return functional_call(_Preparation(model), self.before, inputs)

    def _remember(self, i: int) -> None:
        """Keep the weights of a phase that is about to step."""
        own = {id(parameter) for parameter in self.parameters[i]}
        for name, parameter in self.state.model.named_parameters():
            if id(parameter) in own:
                # Two phases may share a parameter: what counts is its value before the first.
                self.before.setdefault(f"model.{name}", parameter.detach().clone())

    @torch.no_grad()
    def _update(self, sums: dict[str, Tensor]) -> None:
        """The model's update() of its buffers, undone after a batch that is not finite."""
        buffers = list(self.state.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        self.state.model.update(sums)
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(self.bad > 0, old, buffer))

    def _add_sums(self, sums: dict[str, Tensor], batch: Batch, number: int, shared: Any) -> None:
        with torch.no_grad(), self.autocast(), self._frozen():
            own = self.state.model.batch_sums(
                self._part(batch, number), self._noise(number), shared
            )
        for name, value in own.items():
            value = value.detach().to(self.like.dtype)
            sums[name] = sums[name] + value if name in sums else value

    def _gradients(
        self, batch: Batch, i: int, whole: Any, batch_sums: dict[str, Tensor] | None
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """This worker's share of a phase's gradients and metrics; the shares sum to the means.

        The model's sums over this worker's rows go into `batch_sums` unless it is None.
        """
        total: Sequence[Tensor] = ()
        sums: dict[str, Tensor] = {}
        loss_sums, slopes = self._loss_sums(batch, i, whole)
        # Every span iterates the vectors of spectral norms from where the whole batch would: for
        # prepare() from before the batch, for the loss of a later phase from after the earlier.
        later = self.vectors and batch_sums is None
        reached = spectral_vectors(self.state.model) if later else []
        for number, shared in self._prepared(batch, i, whole):
            restore_buffers(reached)
            with self._frozen(self.sums_in_loss):
                loss, metrics = self._loss(batch, i, number, shared, loss_sums)
                weight = self._weight(number)
                descended = loss if weight == 1 else loss * weight
                if slopes:
                    own_sums = self._own_sums(batch, i, number, shared)
                    for name, value in own_sums.items():
                        descended = descended + (slopes[name] * value).sum()
                ends = number == len(self.spans) - 1
                with self.buckets[i].sending(total) if self.buckets and ends else nullcontext():
                    # Only this phase's gradients: a generator step does not compute the others'.
                    own = torch.autograd.grad(descended, self.parameters[i])
                if batch_sums is not None:
                    self._add_sums(batch_sums, batch, number, shared)
            if number:
                torch._foreach_add_(list(total), own)
            else:
                # Two parameters may have got one tensor for both, or an expanded one.
                dense = torch.contiguous_format
                total = own if self.single else [g.clone(memory_format=dense) for g in own]
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0) + value * weight
        return total, sums

    def _prepared(self, batch: Batch, i: int, whole: Any) -> Iterator[tuple[int, Any]]:
        """Each span with what prepare() returns for a phase; `whole` if there is one span."""
        due = {self.state.phases[i].name}
        for number in range(len(self.spans)):
            yield number, whole if self.single else self._prepare(batch, number, due)

    def _weight(self, number: int) -> float:
        """Share of a span's rows in the batch."""
        start, stop = self.spans[number]
        return (stop - start) / self.config.batch

    def _loss(
        self, batch: Batch, i: int, number: int, shared: Any, sums: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a span's rows, given the loss_sums() of the batch."""
        phase = self.state.phases[i].name
        reseed(self.rank_key(f"{phase}/{number}" if number else phase), self.like.device)
        part = with_sums(self._part(batch, number), sums)
        with self.autocast():
            return self.state.model.loss(phase, part, self._noise(number), shared)

    def _own_sums(self, batch: Batch, i: int, number: int, shared: Any) -> dict[str, Tensor]:
        """The loss_sums() of a span's rows."""
        phase = self.state.phases[i].name
        reseed(self.rank_key(f"{phase}/{number}/sums"), self.like.device)
        part, noise = self._part(batch, number), self._noise(number)
        with self.autocast():
            sums = self.state.model.loss_sums(phase, part, noise, shared)
        return {name: value.to(self.like.dtype) for name, value in sums.items()}

    def _loss_sums(
        self, batch: Batch, i: int, whole: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss_sums() S of the whole batch for a phase, and the slopes dL/dS of its loss L.

        Of one span on one worker, S has a graph and there are no slopes. Otherwise S is a constant,
        and a row r descends L + dL/dS · S(r): two passes over the rows give S and dL/dS.
        """
        if not self.sums_in_loss:
            return {}, {}
        if self.single and self.group.world_size == 1:
            with self._frozen():
                return self._own_sums(batch, i, 0, whole), {}

        def own_sums(number: int, shared: Any) -> dict[str, Tensor]:
            with torch.no_grad():
                return self._own_sums(batch, i, number, shared)

        sums = self._over_batch(own_sums, batch, i, whole)
        if not sums:
            return {}, {}
        leaves = {name: value.requires_grad_() for name, value in sums.items()}

        def own_slopes(number: int, shared: Any) -> dict[str, Tensor]:
            loss, _ = self._loss(batch, i, number, shared, leaves)
            loss = loss * self._weight(number)
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            return dict(zip(leaves, found, strict=True))

        slopes = self._over_batch(own_slopes, batch, i, whole)
        return {name: value.detach() for name, value in leaves.items()}, slopes

    def _over_batch(
        self, own: Callable[[int, Any], dict[str, Tensor]], batch: Batch, i: int, whole: Any
    ) -> dict[str, Tensor]:
        """Sums by name over the batch of what `own` makes of each span."""
        total: dict[str, Tensor] = {}
        statistics = running_statistics(self.state.model)
        for number, shared in self._prepared(batch, i, whole):
            with self._frozen():
                for name, value in own(number, shared).items():
                    total[name] = total[name] + value if name in total else value
        restore_buffers(statistics)  # the pass for the gradients counts, as on one worker
        if not total:
            return {}
        flat = torch.cat([value.flatten() for value in total.values()])
        self.group.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in total.values()])
        return {n: part.view_as(t) for (n, t), part in zip(total.items(), parts, strict=True)}

    def _reduce(
        self,
        i: int,
        gradients: Sequence[Tensor],
        named: dict[str, Tensor],
        sums: dict[str, Tensor],
    ) -> tuple[Sequence[Tensor], Tensor, dict[str, Tensor]]:
        """Sums over the workers in a fixed layout, parameters in order: in buckets that were sent
        during the backward pass, or by one flat all-reduce.

        The norm of the gradients is appended to the values.
        """
        values = torch.stack([*named.values()])
        if self.group.world_size > 1:
            rest = [values, *sums.values()]
            flat = torch.cat([tensor.flatten() for tensor in rest])
            if self.buckets:
                gradients, flat = self.buckets[i].sums(flat)
            else:
                gradients, flat = self._flat_sum(gradients, flat)
            parts = torch.split(flat, [tensor.numel() for tensor in rest])
            values, *added = (part.view_as(t) for part, t in zip(parts, rest, strict=True))
            sums = dict(zip(sums, added, strict=True))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
        return gradients, torch.cat([values, norm[None]]), sums

    def _flat_sum(
        self, gradients: Sequence[Tensor], rest: Tensor
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Gradients and `rest` (V,) summed over all workers by one all-reduce."""
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), rest])
        self.group.all_reduce(flat)
        *parts, rest = torch.split(flat, [*(g.numel() for g in gradients), rest.numel()])
        return [p.view_as(g) for p, g in zip(parts, gradients, strict=True)], rest
