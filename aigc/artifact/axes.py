"""Free axes: sizes of a signature that a caller chooses, and shapes as functions of them.

    axes = {"h": Axis(min=2, max=64, default=8), "w": Axis(min=2, max=64, default=8)}
    shape_at((3, "8*h", "8*w"), {"h": 8, "w": 6})               # (3, 64, 48)
    solved(axes, (3, "8*h", "8*w"), (3, 64, 48))                # {"h": 8, "w": 6}

An entry of a shape is a whole number or an expression of one axis: `h`, `8*h`, `256*t+15`. All
errors are ValueErrors of one sentence; numbers are bounded before anything is computed from them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

Shape = tuple[int | str, ...]
"""Sizes of a tensor without its batch axis; a str is an expression of one axis."""
Sizes = Mapping[str, int]
"""Size of each axis by name."""

MAX_AXES = 8
"""Most axes of a signature."""
MAX_PLACES = 3
"""Most free axes of a tensor that is drawn from a seed (artifact/latents.py)."""
MAX_SIZE = 1 << 31
"""Largest size, multiple, factor and offset."""
RESERVED = ("n", "seed", "first_index", "label", "stop", "size", "sizes", "settings", "batch")
"""Names of sampling parameters, which an axis may not have: protocols put both side by side."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_EXPRESSION = re.compile(r"(?:([1-9][0-9]{0,9})\*)?([a-z][a-z0-9_]{0,30})(?:([+-])([0-9]{1,10}))?")
_IMAGE = re.compile(r"([1-9][0-9]{0,9})x([1-9][0-9]{0,9})")
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,30}=[1-9][0-9]{0,9}")


class SizeError(ValueError):
    """Sizes that the axes of a signature do not allow. `tensor`: the one that has them, or ""."""

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Allowed sizes of a free axis, and the one that is taken if none is chosen."""

    min: int
    """Smallest size, a multiple of `multiple`, as are `max` and `default`."""
    max: int
    multiple: int = 1
    default: int

    def check(self, name: str, size: int) -> None:
        """Raise SizeError unless the size is allowed."""
        if not self.min <= size <= self.max or size % self.multiple:
            raise SizeError(f"{name} must be {self.describe()}, got {str(size)[:20]}")

    def describe(self) -> str:
        """The allowed sizes in words: `a multiple of 8 in [16, 64]`."""
        what = f"a multiple of {self.multiple}" if self.multiple > 1 else "a whole number"
        return f"{what} in [{self.min}, {self.max}]"


NO_AXES: Mapping[str, Axis] = {}
"""Axes of a signature whose shapes are fixed."""


@dataclass(frozen=True)
class Expression:
    """factor * axis + offset."""

    factor: int
    axis: str
    offset: int

    def at(self, size: int) -> int:
        """Its value at a size of its axis."""
        return self.factor * size + self.offset

    def solve(self, value: int) -> int | None:
        """Size of its axis at which it has a value; None if there is none."""
        size, rest = divmod(value - self.offset, self.factor)
        return None if rest else size


@lru_cache(4096)
def expression(text: str) -> Expression:
    """Parse an entry of a shape. Raises ValueError for anything but `h`, `8*h`, `8*h+3`, `h-1`."""
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text[:60]!r} is no size: an axis is written h, 8*h, h+15 or 256*h-8, with h its name"
        )
    factor, axis, sign, offset = found.groups()
    factor, offset = int(factor or 1), int(offset or 0)
    if max(factor, offset) > MAX_SIZE:
        raise ValueError(f"{text[:60]!r} has a number above {MAX_SIZE:,}")
    return Expression(factor, axis, -offset if sign == "-" else offset)


def shape_at(shape: Shape, sizes: Sizes) -> tuple[int, ...]:
    """A shape at sizes of its axes."""
    return tuple(
        expression(one).at(sizes[expression(one).axis]) if isinstance(one, str) else one
        for one in shape
    )


def free_positions(shape: Shape) -> tuple[int, ...]:
    """Positions of the entries of a shape that are expressions."""
    return tuple(i for i, one in enumerate(shape) if isinstance(one, str))


def solved(axes: Mapping[str, Axis], shape: Shape, found: tuple[int, ...]) -> dict[str, int]:
    """Sizes at which a tensor has the shape that was found. Raises SizeError if there are none."""
    sizes: dict[str, int] = {}
    if len(found) != len(shape):
        raise SizeError(f"its shape must be {describe(shape)}, got {describe(found)}")
    for wanted, size in zip(shape, found, strict=True):
        if not isinstance(wanted, str):
            if wanted != size:
                raise SizeError(f"its shape must be {describe(shape)}, got {describe(found)}")
            continue
        one = expression(wanted)
        at, axis = one.solve(size), axes[one.axis]
        if at is None or sizes.setdefault(one.axis, at) != at:
            fits = dict.fromkeys(nearest(axes, shape, found, up=up) for up in (False, True))
            raise SizeError(
                f"its shape must be {describe(shape)}, got {describe(found)}; crop, pad or resize"
                f" it to {' or '.join(map(describe, fits))}"
            )
        try:
            axis.check(one.axis, at)
        except SizeError as error:
            whole = f" ({wanted} is {size})" if wanted != one.axis else ""
            raise SizeError(f"{error}{whole}") from None
    return sizes


def nearest(
    axes: Mapping[str, Axis], shape: Shape, found: tuple[int, ...], *, up: bool
) -> tuple[int, ...]:
    """The largest allowed shape not above the one found, or with `up` the smallest not below it.

    Beyond the bounds of an axis it is its bound.
    """
    sizes: dict[str, int] = {}
    for wanted, size in zip(shape, found, strict=True):
        if not isinstance(wanted, str):
            continue
        one = expression(wanted)
        axis = axes[one.axis]
        step, value = one.factor * axis.multiple, size - one.offset
        at = (-(-value // step) if up else value // step) * axis.multiple
        at = min(axis.max, max(axis.min, at))
        sizes[one.axis] = (max if up else min)(at, sizes.get(one.axis, at))
    return shape_at(shape, sizes)


def bounds(axes: Mapping[str, Axis], shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest and the largest shape that axes allow."""
    return (
        shape_at(shape, {name: axis.min for name, axis in axes.items()}),
        shape_at(shape, {name: axis.max for name, axis in axes.items()}),
    )


def sizes_of_image(axes: Mapping[str, Axis], shape: Shape, size: str) -> dict[str, int]:
    """Sizes at which images of a shape (C, H, W) are WIDTHxHEIGHT. Raises SizeError."""
    found = _IMAGE.fullmatch(size)
    if found is None:
        raise SizeError(f"a size is WIDTHxHEIGHT, got {size[:60]!r}")
    return solved(axes, shape[1:], (int(found[2]), int(found[1])))


def describe(shape: Shape) -> str:
    """A shape in words, the batch axis first: `(N, 3, 8*h, 8*w)`."""
    return f"({', '.join(('N', *map(str, shape)))})"


def label(sizes: Sizes) -> str:
    """Sizes as a part of a file's name: `h=64,w=48`."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())


def parse_label(text: str) -> dict[str, int]:
    """The sizes of label(). Raises ValueError for another text."""
    parts = text.split(",")
    if len(parts) > MAX_AXES or not all(map(_LABEL.fullmatch, parts)):
        raise ValueError(f"{text[:60]!r} does not name sizes, as h=64,w=48 does")
    pairs = [part.split("=") for part in parts]
    sizes = {name: int(size) for name, size in pairs}
    if len(sizes) != len(pairs):
        raise ValueError(f"{text[:60]!r} names an axis twice")
    return sizes


def check_axes(
    axes: Mapping[str, Axis], inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
) -> None:
    """Raise ValueError unless the axes and the shapes of a signature's tensors fit together.

    Every axis must follow from an input, since a graph knows of nothing else, and every shape must
    be positive at the smallest sizes.
    """
    if len(axes) > MAX_AXES:
        raise ValueError(f"it has {len(axes)} axes; at most {MAX_AXES} are allowed")
    for name, axis in axes.items():
        _check_axis(name, axis)
        if name in RESERVED or name in inputs or name in outputs:
            raise ValueError(
                f"axis {name!r} has the name of a tensor or a sampling parameter; rename it"
            )
    used: set[str] = set()
    for tensors, are_inputs in ((inputs, True), (outputs, False)):
        for tensor, shape in tensors.items():
            named = _check_shape(axes, tensor, shape)
            used |= named if are_inputs else set()
    if unused := [name for name in axes if name not in used]:
        raise ValueError(f"axis {unused[0]!r} is in the shape of no input, so nothing gives it")


def _check_axis(name: str, axis: Axis) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"axis {name[:60]!r} must be named by 1 to 31 of a-z 0-9 _, beginning with a letter"
        )
    low, high, step = axis.min, axis.max, axis.multiple
    if not (1 <= step <= MAX_SIZE and 1 <= low <= axis.default <= high <= MAX_SIZE):
        raise ValueError(
            f"axis {name!r} must have 1 <= min <= default <= max <= {MAX_SIZE:,} and a multiple of"
            f" at least 1, got {low}, {axis.default}, {high} and {step}"
        )
    if odd := [size for size in (low, axis.default, high) if size % step]:
        raise ValueError(
            f"min, default and max of axis {name!r} must be multiples of {step}, got {odd[0]}"
        )


def _check_shape(axes: Mapping[str, Axis], tensor: str, shape: Shape) -> set[str]:
    """Names of the axes in a tensor's shape."""
    named = set()
    for entry in shape:
        if not isinstance(entry, str):
            continue
        one = expression(entry)
        if one.axis not in axes:
            known = ", ".join(axes) or "none"
            raise ValueError(
                f"{tensor!r} has the size {entry!r}, whose axis is unknown; axes are: {known}"
            )
        least = one.at(axes[one.axis].min)
        if least < 1:
            message = f"{tensor!r} has the size {entry!r}, which is {least} at the smallest"
            raise ValueError(f"{message} {one.axis}, {axes[one.axis].min}")
        named.add(one.axis)
    return named
