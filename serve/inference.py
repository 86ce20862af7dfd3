"""A batch in the inference thread: its pieces are drawn, run together, and told apart again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import numpy as np

from serve.fair import Arrays, GoesOn, Lane, Outcome, Piece


class SteppedLane(Lane, Protocol):
    """A lane whose samples need several runs: it has rows, each some way through."""

    def keep(self, rows: Sequence[Piece]) -> None:
        """Only these of its rows are still wanted."""

    def join(self, rows: Sequence[Piece], inputs: Arrays) -> None:
        """Pieces of one sample each begin. Raises for bad inputs, and nothing has changed then."""

    def advance(self) -> tuple[list[Piece], list[Outcome], list[int]]:
        """A run for all rows: what came of each, and how many runs those took that left."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a batch."""

    pieces: list[Piece]
    """As they were run: those of a lane that goes by steps are of one sample each."""
    outcomes: list[Outcome]
    """In their order."""
    seconds: float
    runs: list[int] = field(default_factory=list)
    """How many runs each sample took that is there now, in a lane that goes by steps."""

    @property
    def going_on(self) -> list[Piece]:
        """What is to be in the next batch too."""
        return [
            piece
            for piece, outcome in zip(self.pieces, self.outcomes, strict=True)
            if isinstance(outcome, GoesOn)
        ]


def is_stepped(lane: Lane) -> TypeGuard[SteppedLane]:
    """Whether the samples of a lane need several runs."""
    return hasattr(lane, "advance")


def run(lane: Lane, pieces: list[Piece]) -> Ran:
    """In the thread: draw the pieces, run them together; an error is the outcome of its piece."""
    started = time.monotonic()
    if is_stepped(lane):
        return _step(lane, pieces, started)
    whole = _draw_together(pieces)
    if whole is not None:
        answer = _run_together(lane, _split(whole, [*map(len, pieces)]), whole)
    else:
        drawn = [_draw_alone(piece) for piece in pieces]
        good = [inputs for inputs in drawn if not isinstance(inputs, Exception)]
        ran = iter(_run_together(lane, good, _concatenate(good)) if good else [])
        answer = [inputs if isinstance(inputs, Exception) else next(ran) for inputs in drawn]
    return Ran(pieces=pieces, outcomes=answer, seconds=time.monotonic() - started)


def _step(lane: SteppedLane, pieces: list[Piece], started_s: float) -> Ran:
    """Those that are new join those that go on, and all go one step on."""
    new = [piece for piece in pieces if not piece.begun]
    lane.keep([piece for piece in pieces if piece.begun])
    failed = _join(lane, new) if new else {}
    rows, outcomes, runs = lane.advance()
    return Ran(
        pieces=[*rows, *failed],
        outcomes=[*outcomes, *failed.values()],
        seconds=time.monotonic() - started_s,
        runs=runs,
    )


def _join(lane: SteppedLane, pieces: Sequence[Piece]) -> dict[Piece, Outcome]:
    """Let the samples of pieces begin; those that cannot, and why."""
    whole = _draw_together(pieces)
    if whole is not None:
        try:
            lane.join([row for piece in pieces for row in piece.rows()], whole)
            return {}
        except Exception:
            pass  # whose fault it is shows when each joins alone
    failed: dict[Piece, Outcome] = {}
    for piece in pieces:
        try:
            lane.join(piece.rows(), _checked(piece.job.draw(piece.start, piece.stop), len(piece)))
        except Exception as error:
            failed[piece] = error
    return failed


def _draw_together(pieces: Sequence[Piece]) -> Arrays | None:
    """The inputs of all pieces in one call; None where that is not possible, or failed."""
    draw = pieces[0].job.draw_together
    if draw is None or len(pieces) == 1 or any(p.job.draw_together != draw for p in pieces):
        return None
    try:
        return _checked(draw(pieces), sum(map(len, pieces)))
    except Exception:
        return None  # whose fault it is shows when each is drawn alone


def _draw_alone(piece: Piece) -> Arrays | Exception:
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
