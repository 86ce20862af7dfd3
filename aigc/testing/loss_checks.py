"""Checks of loss(): finite, differentiable, pure, and a mean over the rows of a batch."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from aigc.testing.contract import Note
from aigc.testing.model_under_test import (
    TRAINED_ROWS,
    ModelUnderTest,
    PhaseLoss,
    losses,
    model_batch,
    plain_attributes,
)
from aigc.testing.place import Place, caller
from aigc.training.state import TrainState
from aigc.training.step import SingleProcess, Step

PART = 4
"""Rows of the first part of a batch: the second one is smaller, so that weights count."""
EQUAL = 1e-9
"""Largest relative difference of gradients in float64, over all parameters of a phase."""


def finite_losses(subject: ModelUnderTest) -> Iterator[str]:
    """The loss of every phase is one finite number; metrics are, too, and have no graph."""
    for due in subject.due:
        for found in losses(subject.copied(), subject.batch, due):
            yield from _figures(found)


def _figures(found: PhaseLoss) -> Iterator[str]:
    what = f"the loss of phase {found.phase!r}"
    if not isinstance(found.loss, Tensor) or found.loss.shape != ():
        shape = tuple(getattr(found.loss, "shape", ()))
        yield f"{what} is no scalar but has the shape {shape}; return its mean over the batch"
    elif not found.loss.isfinite():
        yield f"{what} is {found.loss.item()} at the start; look for a log, a root or a division"
    for name, value in found.metrics.items():
        metric = f"metric {name!r} of phase {found.phase!r}"
        if name in ("loss", "gradient_norm"):
            yield f"{metric} has a name that the loop uses itself; rename it"
        if not isinstance(value, Tensor) or value.shape != ():
            yield f"{metric} is no scalar tensor; return a mean, such as x.mean().detach()"
        elif value.requires_grad:
            yield f"{metric} is not detached and keeps its graph in memory; add .detach()"
        elif not value.isfinite():
            yield f"{metric} is {value.item()}"


def gradients(subject: ModelUnderTest) -> Iterator[str]:
    """Every parameter of a phase gets a finite gradient from its loss."""
    said = set()
    for due in subject.due:
        for found in losses(subject.copied(), subject.batch, due):
            missing = [name for name, value in found.gradients.items() if value is None]
            if missing and found.phase not in said:
                said.add(found.phase)
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                when = "" if len(due) > 1 or len(subject.phases) == 1 else " if it alone is due"
                yield (
                    f"the loss of phase {found.phase!r} gives {missing[0]}{more} no gradient{when};"
                    " look for a detach() or no_grad() on the way, or for a layer that the loss"
                    " does not use"
                )
            known = {name: g for name, g in found.gradients.items() if g is not None}
            infinite = [name for name, g in known.items() if not g.isfinite().all()]
            if infinite:
                yield f"phase {found.phase!r} gives {infinite[0]} a gradient that is not finite"
            if known and not any(g.any() for g in known.values()):
                yield f"all gradients of phase {found.phase!r} are zero; nothing is trained"


def pure_losses(subject: ModelUnderTest) -> Iterator[str]:
    """A loss is a function of model, batch and noise: twice the same, and it changes nothing."""
    for due in subject.due:
        model = subject.copied().train()
        batch = {name: value.clone() for name, value in subject.batch.items()}
        parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
        attributes, others = plain_attributes(model), _other_generators()
        with _GlobalDraws() as draws:
            once = losses(model, batch, due)
        yield from _changes(model, parameters, attributes)
        for name, value in subject.batch.items():
            if not torch.equal(value, batch[name]):
                yield f"a loss changed the batch, {name!r}; work on a copy"
        if others != _other_generators():
            yield "a loss draws from numpy's or Python's own generator; take `noise` instead"
        if draws.places:
            yield (
                f"a loss draws from torch's global generator at {draws.places[0]}; take its numbers"
                " from `noise`, such as noise.normal(purpose, *shape), so that runs can be repeated"
            )
            return
        seed = 1 if draws.dropout else 2
        again = losses(subject.copied(), subject.batch, due, seed=seed)
        yield from _differing(once, again)
        if due == subject.due[0] and draws.dropout:
            yield Note("Dropout's masks depend on the number of workers, all else does not")


def _changes(
    model: nn.Module, parameters: dict[str, Tensor], attributes: dict[str, Any]
) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, parameters[name]):
            yield f"a loss changed the parameter {name}; only the loop takes steps"
            return
        if parameter.grad is not None:
            yield f"a loss went backward itself: {name} has a gradient; return the loss instead"
            return
        if not parameter.requires_grad:
            yield f"a loss froze {name}: requires_grad is False after it; use detach() instead"
            return
    after = plain_attributes(model)
    for name in attributes:
        if after.get(name) != attributes[name]:
            yield (
                f"a loss changed the attribute {name} from {attributes[name]!r} to"
                f" {after.get(name)!r}, which no checkpoint holds; make it a buffer, or derive it"
                " from noise.samples"
            )
            return


def _differing(once: list[PhaseLoss], again: list[PhaseLoss]) -> Iterator[str]:
    for a, b in zip(once, again, strict=True):
        values, others = ({"loss": f.loss} | f.metrics for f in (a, b))
        for name, value in values.items():
            if not torch.equal(value, others[name]):
                yield (
                    f"{name} of phase {a.phase!r} is {value.item():.9g}, and {others[name]:.9g} for"
                    " the same model, batch and noise; look for state or randomness of its own"
                )
                return


def mean_over_rows(subject: ModelUnderTest) -> Iterator[str]:
    """A batch in parts has the gradients of the whole batch; BatchNorm and Dropout apart."""
    if getattr(subject.model, "batch_statistics", False):
        yield Note("not compared: the class says batch_statistics = True")
        return
    whole, parts = (_gradients(subject, micro_batch) for micro_batch in (0, PART))
    for phase in whole:
        norm = torch.linalg.vector_norm(whole[phase])
        error = torch.linalg.vector_norm(whole[phase] - parts[phase])
        if error <= EQUAL * max(float(norm), EQUAL):
            continue
        ratio = float(parts[phase] @ whole[phase] / norm.square()) if norm else 0.0
        yield (
            f"the gradients of phase {phase!r} over parts of {PART} and {TRAINED_ROWS - PART} rows"
            f" are not those of the whole batch (off by {float(error / norm):.2g},"
            f" {ratio:.3g} times as long); a loss must be a mean over rows for micro-batches and"
            " workers to add up. Statistics of a batch can be made of loss_sums(), which must be"
            " sums over rows; otherwise say batch_statistics = True in the class"
        )


def _gradients(subject: ModelUnderTest, micro_batch: int) -> dict[str, Tensor]:
    """Gradients of each phase by name, flat, in float64, as the loop's step computes them."""
    config = replace(subject.run, precision="float64", micro_batch=micro_batch)
    state = TrainState(config)
    state.model.train()
    for module in state.model.modules():
        if isinstance(module, _NormBase):
            module.eval()
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0
    found: dict[str, Tensor] = {}
    for phase, optimizer in zip(state.phases, state.optimizers, strict=True):

        def keep(optimizer: Any, args: Any, kwargs: Any, name: str = phase.name) -> None:
            owned = [p for group in optimizer.param_groups for p in group["params"]]
            found[name] = torch.cat([p.grad.flatten() for p in owned])

        optimizer.register_step_pre_hook(keep)
        for group in optimizer.param_groups:
            group["eps"] = 1.0  # steps as smooth as gradients: none but true differences grow
    rows = subject.dataset
    batch = model_batch(
        config, rows.samples[:TRAINED_ROWS], rows.labels[:TRAINED_ROWS], state.model
    )
    state.batches = math.lcm(*(phase.every for phase in state.phases)) - 1  # all are due
    with _NoDropout():
        Step(config, state, SingleProcess())(batch, {})
    return found


class _GlobalDraws(TorchFunctionMode):
    """Records which functions draw from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Place] = []
        """Draws of functions other than Dropout."""
        self.dropout = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = torch.default_generator.get_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.default_generator.get_state()):
            if _drops(func):
                self.dropout = True
            else:
                self.places.append(caller())
        return result


class _NoDropout(TorchFunctionMode):
    """Makes Dropout pass everything: its masks cannot be those of a batch in other parts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if "dropout" in name:
            return args[0] if args else kwargs["input"]
        if "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


_WITH_DROPOUT = ("rrelu", "gru", "lstm", "rnn_tanh", "rnn_relu", "attention")


def _drops(func: Any) -> bool:
    """True of Dropout, and of layers with a Dropout in them."""
    name = getattr(func, "__name__", "")
    return "dropout" in name or any(part in name for part in _WITH_DROPOUT)


def _other_generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return name, bytes(np.asarray(keys)), *rest, random.getstate()
