"""A batch in the inference thread: its pieces are drawn, run together, and told apart again."""

import time

import numpy as np

from serve.fair import Arrays, Lane, Piece

Outcome = Arrays | Exception
"""The outputs of a piece, or why there are none."""


def run(lane: Lane, pieces: list[Piece]) -> tuple[list[Outcome], float]:
    """In the thread: draw each piece, run them together; an error is the outcome of its piece."""
    started = time.monotonic()
    drawn: list[Outcome] = []
    for piece in pieces:
        try:
            drawn.append(_draw(piece))
        except Exception as error:
            drawn.append(error)
    good = [inputs for inputs in drawn if not isinstance(inputs, Exception)]
    ran: list[Outcome] = _run_together(lane, good) if good else []
    outcomes = iter(ran)
    answer = [inputs if isinstance(inputs, Exception) else next(outcomes) for inputs in drawn]
    return answer, time.monotonic() - started


def _draw(piece: Piece) -> Arrays:
    """The inputs of a piece. Checked here, where a fault is still known to be this job's."""
    inputs = piece.job.draw(piece.start, piece.stop)
    size = piece.stop - piece.start
    found = sorted({len(array) for array in inputs.values()})
    if found != [size]:
        raise RuntimeError(f"the job was to draw {size} samples, it drew {found or 'none'}")
    return inputs


def _run_together(lane: Lane, drawn: list[Arrays]) -> list[Outcome]:
    """One run for all; when it fails, one for each, so that the fault stays with its own piece."""
    sizes = [len(next(iter(inputs.values()))) for inputs in drawn]
    try:
        outputs = lane.run(_concatenate(drawn))
        if any(len(array) != sum(sizes) for array in outputs.values()):
            raise RuntimeError("the graph changed the size of the batch")
    except Exception as error:
        if len(drawn) == 1:
            return [error]
        return [outcome for inputs in drawn for outcome in _run_together(lane, [inputs])]
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _concatenate(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
