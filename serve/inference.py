"""A batch in the inference thread: its pieces are drawn, run together, and told apart again."""

import time
from collections.abc import Sequence

import numpy as np

from serve.fair import Arrays, Lane, Piece

Outcome = Arrays | Exception
"""The outputs of a piece, or why there are none."""


def run(lane: Lane, pieces: list[Piece]) -> tuple[list[Outcome], float]:
    """In the thread: draw the pieces, run them together; an error is the outcome of its piece."""
    started = time.monotonic()
    whole = _draw_together(pieces)
    if whole is not None:
        answer = _run_together(lane, _split(whole, [*map(len, pieces)]), whole)
    else:
        drawn = [_draw_alone(piece) for piece in pieces]
        good = [inputs for inputs in drawn if not isinstance(inputs, Exception)]
        ran = iter(_run_together(lane, good, _concatenate(good)) if good else [])
        answer = [inputs if isinstance(inputs, Exception) else next(ran) for inputs in drawn]
    return answer, time.monotonic() - started


def _draw_together(pieces: Sequence[Piece]) -> Arrays | None:
    """The inputs of all pieces in one call; None where that is not possible, or failed."""
    draw = pieces[0].job.draw_together
    if draw is None or len(pieces) == 1 or any(p.job.draw_together != draw for p in pieces):
        return None
    try:
        return _checked(draw(pieces), sum(map(len, pieces)))
    except Exception:
        return None  # whose fault it is shows when each is drawn alone


def _draw_alone(piece: Piece) -> Outcome:
    """The inputs of a piece. Checked here, where a fault is still known to be this job's."""
    try:
        return _checked(piece.job.draw(piece.start, piece.stop), len(piece))
    except Exception as error:
        return error


def _checked(inputs: Arrays, size: int) -> Arrays:
    found = sorted({len(array) for array in inputs.values()})
    if found != [size]:
        raise RuntimeError(f"the job was to draw {size} samples, it drew {found or 'none'}")
    return inputs


def _run_together(lane: Lane, drawn: Sequence[Arrays], whole: Arrays) -> list[Outcome]:
    """One run of the whole; when it fails, one for each, so the fault stays with its own piece."""
    sizes = [len(next(iter(inputs.values()))) for inputs in drawn]
    try:
        outputs = lane.run(whole)
        if any(len(array) != sum(sizes) for array in outputs.values()):
            raise RuntimeError("the graph changed the size of the batch")
    except Exception as error:
        if len(drawn) == 1:
            return [error]
        return [outcome for inputs in drawn for outcome in _run_together(lane, [inputs], inputs)]
    return [*_split(outputs, sizes)]


def _split(arrays: Arrays, sizes: Sequence[int]) -> list[Arrays]:
    """The rows of each, in order."""
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in arrays.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _concatenate(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
