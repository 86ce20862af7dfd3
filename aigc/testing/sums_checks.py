"""Check of batch_sums() and update(): sums over rows that add up, and buffers that follow them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from aigc.model import GenerativeModel
from aigc.nn.layers import frozen_power_iteration
from aigc.rng import BatchRNG
from aigc.testing.contract import Note
from aigc.testing.model_under_test import TRAINED_ROWS, ModelUnderTest, model_batch

PART = 4
"""Rows of the first part of a batch."""
EQUAL = 1e-9
"""Largest difference of sums in float64, relative to 1 + their size."""


def sums_add_up(subject: ModelUnderTest) -> Iterator[str]:
    """The batch_sums() of the parts of a batch add up; update() changes buffers by them alone."""
    if type(subject.model).batch_sums is GenerativeModel.batch_sums:
        yield Note("the model has no sums over the batch")
        return
    model = subject.copied().double().train()
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.eval()  # its statistics are those of the rows at hand
    (whole, changed), *others = (
        _sums(subject, model, start, stop)
        for start, stop in ((0, TRAINED_ROWS), (0, PART), (PART, TRAINED_ROWS))
    )
    if not whole:
        yield Note("the model has no sums over the batch")
        return
    parts = [part for part, _ in others]
    if changed:
        yield f"batch_sums() changed {changed[0]}; change buffers in update()"
    before = _state(model)
    for name, total in whole.items():
        if any(name not in part or part[name].shape != total.shape for part in parts):
            yield (
                f"the sum {name!r} of a batch of {TRAINED_ROWS} rows has the shape"
                f" {tuple(total.shape)}, and another one of fewer rows; sum over the rows"
            )
            return
        error = (total - parts[0][name] - parts[1][name]).abs() / (1 + total.abs())
        if error.max() > EQUAL:
            yield (
                f"the sum {name!r} of a batch is not that of its parts (off by"
                f" {error.max().item():.2g}); batch_sums() must add over rows, not take a mean,"
                " and update() may divide by a count that is a sum itself"
            )
    with torch.no_grad():
        model.update(whole)
    changed, parameters = _changed(model, before), dict(model.named_parameters())
    for name in changed:
        if name in parameters:
            yield f"update() changed the parameter {name}; only the loop's optimizers may"
        elif name not in model.state_dict():
            yield f"update() changed {name}, which no checkpoint holds; make it persistent"
    if not changed:
        yield "update() changed no buffer; change them in place, by copy_() or lerp_()"


def _sums(
    subject: ModelUnderTest, model: GenerativeModel, start: int, stop: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Sums over some rows of a batch, as the loop asks for them, and what that changed."""
    rows = subject.dataset
    batch = model_batch(subject.run, rows.samples[start:stop], rows.labels[start:stop], model)
    like = next(model.parameters())
    noise = BatchRNG(3, 0, TRAINED_ROWS, start, stop, like)
    with torch.no_grad():
        shared = model.prepare(batch, noise, set(subject.due[0]))
        before = _state(model)
        with frozen_power_iteration(model, True):
            found = model.batch_sums(batch, noise, shared)
    return {name: value.to(like.dtype) for name, value in found.items()}, _changed(model, before)


def _changed(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the parameters and buffers that are not as before."""
    return [name for name, value in _state(model).items() if not torch.equal(value, before[name])]


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in named}
