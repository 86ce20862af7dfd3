"""Runs one batch in the inference thread: draws its slices, runs them together, splits the outputs.

An error is the outcome of the slice that caused it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from aigc.artifact.sampling_inputs import Arrays
from serve.batching.jobs import (
    BatchSlice,
    Outcome,
    PartialOutput,
    Runner,
    StepRunner,
    as_exception,
    batch_error,
    is_autoregressive,
)


class RowsError(Exception):
    """A run of which some rows failed: `errors` by row; `outputs` are valid for the others."""

    def __init__(self, outputs: Arrays, errors: Mapping[int, Exception]) -> None:
        super().__init__(f"{len(errors)} rows of a batch failed")
        self.outputs = outputs
        self.errors = errors


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcomes of a batch."""

    slices: list[BatchSlice]
    """Slices as they ran: one sample each for an autoregressive runner."""
    outcomes: list[Outcome]
    """Outcomes in the order of `slices`."""
    seconds: float
    """Duration of drawing and running."""
    steps: list[int] = field(default_factory=list)
    """Steps of each sample that ended, for an autoregressive runner."""

    @property
    def continuing(self) -> list[BatchSlice]:
        """Slices that belong into the next batch too."""
        return [
            part
            for part, outcome in zip(self.slices, self.outcomes, strict=True)
            if isinstance(outcome, PartialOutput)
        ]


def run(runner: Runner, slices: list[BatchSlice], started_s: float) -> BatchResult:
    """Draw the slices and run them together. Called in the thread.

    `started_s`: the monotonic time from which the batch's duration counts. Raises nothing: an error
    becomes the outcome of all slices that have no other.
    """
    try:
        if is_autoregressive(runner):
            result = _step(runner, slices, started_s)
        else:
            result = _run(runner, slices, started_s)
        if len(result.slices) != len(result.outcomes):
            count = f"{len(result.slices)} slices have {len(result.outcomes)} outcomes"
            raise RuntimeError(count)
        return result
    except BaseException as error:
        outcomes: list[Outcome] = [batch_error(error) for _ in slices]
        seconds = time.monotonic() - started_s
        return BatchResult(slices=slices, outcomes=outcomes, seconds=seconds)


def _run(runner: Runner, slices: list[BatchSlice], started_s: float) -> BatchResult:
    whole = _draw_together(slices)
    if whole is not None:
        outcomes = _run_together(runner, [*map(len, slices)], whole)
    else:
        outcomes = _run_alike(runner, [_draw_alone(part) for part in slices])
    return BatchResult(slices=slices, outcomes=outcomes, seconds=time.monotonic() - started_s)


def _step(runner: StepRunner, slices: list[BatchSlice], started_s: float) -> BatchResult:
    """Let new samples join those that continue, and advance all of them by one step."""
    new = [part for part in slices if not part.begun]
    try:
        runner.keep([part for part in slices if part.begun])
        failed = _join(runner, new) if new else {}
        rows, row_outcomes, steps = runner.advance()
        ran, outcomes = [*rows, *failed], [*row_outcomes, *failed.values()]
    except BaseException:
        runner.keep([])  # all of its jobs fail with this error
        raise
    if len(rows) + sum(map(len, failed)) != sum(map(len, slices)):
        present = {(part.job, i) for part in ran for i in range(part.start, part.stop)}
        every = [row for part in slices for row in part.rows()]
        lost = [row for row in every if (row.job, row.start) not in present]
        ran += lost
        outcomes += [RuntimeError("a step gave nothing for this sample") for _ in lost]
    seconds = time.monotonic() - started_s
    return BatchResult(slices=ran, outcomes=outcomes, seconds=seconds, steps=steps)


def _join(runner: StepRunner, slices: Sequence[BatchSlice]) -> dict[BatchSlice, Outcome]:
    """Add the samples of new slices to the runner; returns the errors of those that fail."""
    whole = _draw_together(slices)
    if whole is not None:
        try:
            runner.join([row for part in slices for row in part.rows()], whole)
            return {}
        except BaseException:
            pass  # joining one at a time shows which slice is at fault
    failed: dict[BatchSlice, Outcome] = {}
    for part in slices:
        try:
            runner.join(part.rows(), _checked(part.job.draw(part.start, part.stop), len(part)))
        except BaseException as error:
            failed[part] = as_exception(error)
    return failed


def _draw_together(slices: Sequence[BatchSlice]) -> Arrays | None:
    """The inputs of all slices in one call; None where that is impossible or fails."""
    draw = slices[0].job.draw_together
    if draw is None or len(slices) == 1 or any(s.job.draw_together != draw for s in slices):
        return None
    try:
        return _checked(draw(slices), sum(map(len, slices)))
    except BaseException:
        return None  # drawing one at a time shows which slice is at fault


def _draw_alone(part: BatchSlice) -> Arrays | Exception:
    """The inputs of a slice. Checked here, where a fault is still known to be this job's."""
    try:
        return _checked(part.job.draw(part.start, part.stop), len(part))
    except BaseException as error:
        return as_exception(error)


def _checked(inputs: Arrays, size: int) -> Arrays:
    sizes = sorted({array.shape[0] for array in inputs.values()})
    if sizes != [size]:
        raise RuntimeError(f"the job was to draw {size} samples, it drew {sizes or 'none'}")
    return inputs


def _run_alike(runner: Runner, drawn: Sequence[Arrays | Exception]) -> list[Outcome]:
    """Run inputs in groups of equal names, types and row shapes.

    One run for all, since their jobs share a key, unless a job drew other inputs than its key says.
    """
    alike: dict[frozenset[Any], list[int]] = {}
    for i, inputs in enumerate(drawn):
        if not isinstance(inputs, Exception):
            form = frozenset((name, a.dtype, a.shape[1:]) for name, a in inputs.items())
            alike.setdefault(form, []).append(i)
    outcomes: list[Outcome] = [*drawn]
    for positions in alike.values():
        parts = [drawn[i] for i in positions]
        for i, outcome in zip(positions, _run_parts(runner, parts), strict=True):
            outcomes[i] = outcome
    return outcomes


def _run_parts(runner: Runner, parts: Sequence[Any]) -> list[Outcome]:
    """One run of inputs that are alike; each alone where memory does not hold all of them."""
    sizes = [len(next(iter(part.values()))) for part in parts]
    if len(parts) == 1:
        return _run_together(runner, sizes, parts[0])
    try:
        names = parts[0].keys()
        whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
    except BaseException:
        return [outcome for part in parts for outcome in _run_parts(runner, [part])]
    return _run_together(runner, sizes, whole)


def _run_together(runner: Runner, sizes: Sequence[int], whole: Arrays) -> list[Outcome]:
    """One run of the whole; if it fails, one per slice, so that the error stays with its cause."""
    errors: Mapping[int, Exception] = {}
    try:
        try:
            outputs = runner.run(whole)
        except RowsError as some:
            outputs, errors = some.outputs, some.errors
        if any(len(array) != sum(sizes) for array in outputs.values()):
            raise RuntimeError("the graph changed the size of the batch")
        outcomes: list[Outcome] = [*_split(outputs, sizes)]
    except BaseException as error:
        if len(sizes) == 1:
            return [as_exception(error)]
        alone = zip(sizes, _split(whole, sizes), strict=True)
        return [out for size, inputs in alone for out in _run_together(runner, [size], inputs)]
    if errors:
        ends = np.cumsum(sizes)
        for row, failed in errors.items():
            outcomes[int(np.searchsorted(ends, row, side="right"))] = failed
    return outcomes


def _split(arrays: Arrays, sizes: Sequence[int]) -> list[Arrays]:
    """Consecutive rows of the arrays, `sizes` of them at a time."""
    return [
        {name: array[end - size : end] for name, array in arrays.items()}
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]
