"""Facts about a data set that its rows do not tell: what was left out, and how it was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files or rows that are not among the samples, all for one reason."""

    reason: str
    """A noun phrase, such as `files with a suffix that is not read (.mp3)`."""
    count: int
    first: tuple[str, ...]
    """Names of the first few."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Recordings of a split, and how much of them becomes rows."""

    recordings: int
    """Number of those whose length can be read."""
    seconds: float
    """Their lengths together."""
    row_s: float
    """Seconds that a row holds."""
    longer: int
    """Number of those that are longer than a row."""
    left_out_s: float
    """Seconds beyond a row's, by length; silence that is cut off before a row begins counts as if
    it were in the row."""

    @classmethod
    def of(cls, seconds: NDArray[np.float64], row_s: float, *, pieces: bool) -> "Recorded":
        """Sum up (n,) lengths; with `pieces` no part is left out."""
        beyond = np.maximum(seconds - row_s, 0)
        return cls(
            recordings=len(seconds),
            seconds=round(float(seconds.sum()), 3),
            row_s=round(row_s, 4),
            longer=int((beyond > 0).sum()),
            left_out_s=0.0 if pieces else round(float(beyond.sum()), 3),
        )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A source's `survey`: known from its listing and index, before any row is decoded."""

    splits: Mapping[str, int] = field(default_factory=dict)
    """Rows of every split, by the name it has in the data; `held out` where rows were chosen."""
    labels: NDArray[np.int64] | None = None
    """(N,) of the rows of this split; None where only reading them tells, or there are none."""
    sounds: Recorded | None = None
    """None where rows are no recordings, or their lengths were not asked for."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences about what could have been taken otherwise, such as a folder that is a class and
    has a split's name."""


def first_of(names: Sequence[str], count: int = 3) -> str:
    """`cat, dog, eel, ...`: the first few names, for messages."""
    return ", ".join((*names[:count], *(("...",) if len(names) > count else ())))
