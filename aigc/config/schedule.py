"""Numbers that change during training: by points in samples seen, with curves between them.

    "0:0 2000:1e-3 100%:0:cosine"

is 0 at the first sample, rises linearly to 1e-3 at 2,000 samples, and falls to 0 at the end of the
run along half a cosine. A field of type Scheduled takes such a text or a plain number:

    --model.generator-optimizer.learning-rate "0:0 2000:1e-3 100%:0:cosine"

Each point is POSITION:VALUE[:CURVE]. POSITION is in samples seen, or in percent of the run's
length; k and M after it, or after VALUE, are thousands and millions. CURVE leads to the point from
the one before: linear (the default), cosine, exponential (a straight line of the logarithm), or
step (the old value until the position). Before the first point and after the last the value is
theirs.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

Scheduled = float | str
"""A number, or a text of points as above."""

CURVES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda old, new, share: old + (new - old) * share,
    "cosine": lambda old, new, share: new + (old - new) * 0.5 * (1 + math.cos(math.pi * share)),
    "exponential": lambda old, new, share: old ** (1 - share) * new**share,
    "step": lambda old, new, share: old,
}
"""Value between two others, by the share of the way that is done, in [0, 1)."""

FORM = (
    "a number, or points POSITION:VALUE[:CURVE] separated by spaces, such as"
    " '0:0 2k:1e-3 100%:0:cosine', with positions in samples or percent of the run (k and M are"
    f" thousands and millions), and curves {', '.join(CURVES)}"
)
_POSITION = re.compile(r"(\d+(?:\.\d+)?)([kM%]?)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "%": 0.01}


@dataclass(frozen=True)
class Point:
    """A value at a position, and the curve that leads there."""

    position: float
    """In samples, or as a share of the run if `relative`."""
    relative: bool
    value: float
    curve: str

    def samples(self, total: int) -> float:
        """Position in samples, in a run of `total`."""
        return self.position * total if self.relative else self.position


def value_at(number: Scheduled, samples: int, total: int) -> float:
    """Value of a number after `samples` of a run's `total` samples.

    Where a position in percent lies before an absolute one that precedes it in the text, as in a
    run that is shorter than its warm-up, the point that comes first in the text is passed first.
    """
    if not isinstance(number, str):
        return float(number)
    points = parse(number)
    before, reached = points[0], points[0].samples(total)
    if samples < reached:
        return before.value
    for point in points[1:]:
        position = max(reached, point.samples(total))
        if samples < position:
            share = (samples - reached) / (position - reached)
            return CURVES[point.curve](before.value, point.value, share)
        before, reached = point, position
    return before.value


def values(number: Scheduled) -> tuple[float, ...]:
    """Values of all points of a number: its curves stay between them. Raises ValueError."""
    if isinstance(number, str):
        return tuple(point.value for point in parse(number))
    return (float(number),)


@lru_cache(maxsize=1024)
def parse(text: str) -> tuple[Point, ...]:
    """Points of a text. Raises ValueError that says what is wrong and what a text looks like."""
    points = tuple(_point(word) for word in text.split())
    if not points:
        raise ValueError(f"{text!r} has no points; give {FORM}")
    for old, new in pairwise(points):
        if old.relative == new.relative and new.position <= old.position:
            raise ValueError(f"{text!r}: positions must grow from point to point")
        if new.curve == "exponential" and not (old.value > 0 and new.value > 0):
            raise ValueError(f"{text!r}: an exponential curve needs values > 0 at both of its ends")
    return points


def _point(word: str) -> Point:
    position, *rest = word.split(":")
    match = _POSITION.fullmatch(position)
    curve = rest[1] if len(rest) > 1 else "linear"
    digits, unit = re.fullmatch(r"(.*?)([kM]?)", rest[0] if rest else "").groups()  # type: ignore[union-attr]
    try:
        value = float(digits) * _UNITS[unit]
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value) or len(rest) > 2 or curve not in CURVES:
        raise ValueError(f"{word!r} is no point; give {FORM}")
    relative = match[2] == "%"
    at = float(match[1]) * _UNITS[match[2]]
    if relative and at > 1:
        raise ValueError(f"{word!r} lies behind the end of the run; give at most 100%")
    return Point(at, relative, value, curve)
