"""Checks of a model in the training loop: resume, average, hooks, and another device."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from aigc.rng import BatchRNG
from aigc.testing.accelerator import HostRead, PretendedAccelerator
from aigc.testing.contract import Note
from aigc.testing.export_checks import samples
from aigc.testing.model_under_test import (
    ROWS,
    TRAINED_ROWS,
    ModelUnderTest,
    PhaseLoss,
    losses,
)
from aigc.testing.place import place_of
from aigc.training import checkpoint
from aigc.training.loop import PeriodicAction, train
from aigc.training.metric_buffer import Values
from aigc.training.pictures import picture
from aigc.training.reporter import distributions
from aigc.training.state import TrainState

READ_BY_LOOP = {
    "metric_buffer.py": "losses and metrics of a batch; on a GPU some batches later, when they are"
    " computed"
}
"""Files of the loop in which the host reads values of a batch, each with the reason."""


def resumes(subject: ModelUnderTest) -> Iterator[str]:
    """A run that is stopped, saved and resumed is the uninterrupted one, bit for bit."""
    config = subject.run
    half = config.samples // TRAINED_ROWS // 2 * TRAINED_ROWS
    whole = TrainState(config)
    train(config, whole, subject.dataset)
    first = TrainState(config)
    train(replace(config, samples=half), first, subject.dataset)
    again = TrainState(config)
    with tempfile.TemporaryDirectory(prefix="aigc-check-") as temporary:
        path = checkpoint.save(Path(temporary), checkpoint.snapshot(first, {}), keep=1)
        with torch.no_grad():
            for parameter in again.model.parameters():  # nothing may survive but the checkpoint
                parameter.fill_(0.1)
        checkpoint.load(path, again)
    train(config, again, subject.dataset)
    a, b = checkpoint.tensors(whole), checkpoint.tensors(again)
    differing = [name for name in a if name not in b or not torch.equal(a[name], b[name])]
    if differing:
        yield (
            f"a resumed run differs from an uninterrupted one in {differing[0]}, first of"
            f" {len(differing)} of {len(a)} tensors; state that a loss keeps must be in"
            " state_dict(): a persistent buffer"
        )


def average(subject: ModelUnderTest) -> Iterator[str]:
    """The averaged weights are part of the model, and samples are drawn with them."""
    model = subject.model
    parameters = {id(parameter) for parameter in model.parameters()}
    if not {id(parameter) for parameter in model.averaged().parameters()} <= parameters:
        yield "averaged() has parameters that are not in the model; give the model or a part of it"
        return
    config = replace(subject.run, samples=TRAINED_ROWS, ema_half_life=0)
    state = TrainState(config)
    train(config, state, subject.dataset)
    if not _equal(
        samples(state.ema_model(), range(ROWS)), samples(state.model.eval(), range(ROWS))
    ):
        yield (
            "with a half-life of 0 the averaged model gives other samples than the model itself; do"
            " not keep the same weights in two places"
        )
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter *= 1.5
    if _equal(samples(state.ema_model(), range(ROWS)), samples(state.model.eval(), range(ROWS))):
        yield (
            "samples do not change with the averaged weights: averaged() must hold what the module"
            " of sample computes with, and exports() must take it from self"
        )
    state.model.train()


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def hooks(subject: ModelUnderTest) -> Iterator[str]:
    """collapsed() and distributions() take what the loop gives them."""
    everything = losses(subject.copied(), subject.batch, subject.due[0])
    for due in _sets_due(subject):
        values = _values([found for found in everything if found.phase in due])
        try:
            reason = subject.model.collapsed(values)
        except KeyError as error:
            yield (
                f"{place_of(error, subject.file)} raised KeyError {error}: collapsed() is called"
                f" after a batch on which {' and '.join(due)} alone were due; use values.get()"
            )
            break
        if not isinstance(reason, str):
            yield f'collapsed() gives {reason!r}; give a sentence, or "" while all is well'
    model = subject.copied().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = BatchRNG(3, 0, ROWS, 0, ROWS, next(model.parameters()))
    with torch.no_grad():
        found = model.distributions(subject.batch, noise)
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.shape != (ROWS,):
            shape = tuple(getattr(value, "shape", ()))
            yield f"distributions() gives {name!r} of shape {shape}; a number per row is wanted"
    after = model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed:
        yield f"distributions() changed {changed[0]}; it must leave the model as it is"


def _sets_due(subject: ModelUnderTest) -> list[tuple[str, ...]]:
    """Names of the phases that are due on one batch, for each kind of batch of a run."""
    count = max(phase.every for phase in subject.phases)
    sets = {
        tuple(phase.name for phase in subject.phases if phase.due(batch, samples))
        for batch in range(count)
        for samples in (0, *(phase.until for phase in subject.phases))
    }
    return [due for due in sorted(sets) if due]


def _values(found: list[PhaseLoss]) -> dict[str, float]:
    """Figures of a batch as the loop reports them."""
    return {
        f"{each.phase}/{name}": value
        for each in found
        for name, value in {
            "loss": each.loss.item(),
            **{key: metric.item() for key, metric in each.metrics.items()},
            "gradient_norm": 1.0,
        }.items()
    }


def accelerator(subject: ModelUnderTest) -> Iterator[str]:
    """On a device of its own nothing is mixed with the CPU, and the host reads what is stated."""
    config = subject.run

    def between_batches(state: TrainState, values: Values) -> None:
        """Everything that a run does beside training."""
        before = len(device.reads)
        images = subject.dataset.samples
        picture(state.ema_model(), lambda n: images[:n], columns=2, per_row=2)
        samples(state.ema_model(), range(ROWS))
        distributions(config, state, subject.dataset)
        checkpoint.restore(state, checkpoint.snapshot(state, {}).tensors)
        del device.reads[before:]  # nothing is computed that they would wait for

    with PretendedAccelerator() as device:
        state = TrainState(config, device.device)
        train(config, state, subject.dataset, [PeriodicAction(0, between_batches)])
    yield from _stated(subject, device.reads)


def _stated(subject: ModelUnderTest, reads: Sequence[HostRead]) -> Iterator[str]:
    """A fault for each line that reads unless it is stated, and a note for each that is."""
    stated = getattr(subject.model, "host_reads", {})
    said = set()
    for read in reads:
        if read.place in said or read.place.file in READ_BY_LOOP:
            continue
        said.add(read.place)
        reason = stated.get(read.place.function)
        if reason is not None:
            yield Note(f"the host reads at {read.place}: {reason}")
            continue
        yield (
            f"the host reads a value of a batch ({read.kind}) at {read.place}; a GPU stops there"
            " until it has computed everything before. Compute it in tensors, such as by"
            f" torch.where(), or state it: host_reads = {{{read.place.function!r}: reason}}"
        )
