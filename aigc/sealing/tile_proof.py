"""Proof that a graph's samples can be made of tiles: how far its outputs see, and equality.

tile = proven_tile("enlarge", signature, runner(graph, signature, None)(1))

How far an output sees is measured: one half of a random input is replaced, and what changes in the
other half sees so far. Whatever reaches everywhere (attention over all places, norms and averages
over them) cannot be tiled, nor what depends on where a place lies; both are refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Signature, TensorSpec, autoregressive
from aigc.artifact.axes import Axis, Shape, expression
from aigc.artifact.comparison import compare
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.signature import TILED
from aigc.artifact.tiling import Tile, Tiling, check_tile
from aigc.sealing.example_inputs import example
from aigc.sealing.parity import PARITY_MAX_ABS

ROWS = 3
PHASES = 8
"""Most places at which an input is divided, all multiples as the edges of tiles are: a graph that
halves its input in secret sees unevenly."""
FIRST_SIZE = 32
"""Size at which the measurement begins; it is doubled while everything is seen."""
OTHER_SIZE = 16
MAX_VALUES = 1 << 26
"""Numbers in a sample of the largest tiles; larger ones are proven with smaller tiles only."""


def proven_tile(name: str, signature: Signature, run: autoregressive.Run) -> Tile:
    """The tiles of a signature. Raises ValueError, with the reason, if there can be none."""
    along = [
        axis
        for axis in signature.axes
        if all(axis in _axes_of(spec.shape) for spec in signature.outputs)
    ]
    tile = Tile(overlap=dict.fromkeys(along, 0), max_abs=0.0, sizes=())
    try:
        if not along or not all(spec.kind in TILED or spec.is_codes for spec in signature.outputs):
            raise ValueError(
                "only images and codes whose height or width is free can be made of tiles"
            )
        _check(signature, tile)
        overlap = {axis: _overlap(signature, run, axis) for axis in along}
        tile = replace(tile, overlap=overlap)
        _check(signature, tile)
        tile = seam(signature, run, tile)
        if tile.max_abs > PARITY_MAX_ABS:
            raise ValueError(
                f"tiles differ from the whole by {tile.max_abs:.2g} though they overlap by"
                f" {tile.overlap}: what it makes of a place depends on where that is, or on the"
                " size of the whole"
            )
        return tile
    except ValueError as error:
        raise ValueError(f"signature {name!r} cannot be tiled: {error}") from None


def _axes_of(shape: Shape) -> list[str]:
    return [expression(one).axis for one in shape if isinstance(one, str)]


def _check(signature: Signature, tile: Tile) -> None:
    check_tile(tile, signature.axes, *signature.shapes)


def _overlap(signature: Signature, run: autoregressive.Run, name: str) -> int:
    """Places that tiles must share along an axis: twice as far as an output sees."""
    axis = signature.axes[name]
    reach = measured_reach(signature, run, name)
    if reach is None:
        raise ValueError(
            f"its outputs see all of {name}, as far as {axis.max} places can tell: attention,"
            f" norms or averages over all places; if they see less, raise the bound of {name}"
        )
    overlap = -(-2 * reach // axis.multiple) * axis.multiple
    if overlap > axis.max - axis.multiple:
        raise ValueError(
            f"its outputs see {reach} places of {name} on either side, so tiles must be larger than"
            f" {overlap}, and {name} is at most {axis.max}; raise that bound"
        )
    return overlap


def measured_reach(
    signature: Signature, run: autoregressive.Run, name: str, faint: float = 0.0
) -> int | None:
    """Number of places of an axis that outputs see on either side; None if they see all.

    Changes of at most `faint`, relative to 1 + the values, do not count.
    """
    axis = signature.axes[name]
    sizes = {other: _allowed(one, OTHER_SIZE) for other, one in signature.axes.items()}
    size = _allowed(axis, FIRST_SIZE)
    while True:
        reach = _reach(signature, run, name, sizes | {name: size}, faint)
        if reach is not None or size == axis.max:
            return reach
        size = _allowed(axis, 2 * size)


def _allowed(axis: Axis, size: int) -> int:
    """The smallest allowed size that is not below one; the largest if all are."""
    return max(axis.min, min(axis.max, -(-size // axis.multiple) * axis.multiple))


def _reach(
    signature: Signature,
    run: autoregressive.Run,
    name: str,
    sizes: Mapping[str, int],
    faint: float,
) -> int | None:
    """measured_reach() at one size."""
    drawn = example(signature, 2 * ROWS, sizes)
    at = _positions(signature.inputs, name)
    one = {key: array[:ROWS] for key, array in drawn.items()}
    two = {key: drawn[key][ROWS:] if key in at else one[key] for key in one}
    size, step, reach = sizes[name], signature.axes[name].multiple, 0
    phases = max(1, min(PHASES, size // step // 4))
    begin = max(1, (size // step - phases) // 2)
    for cut in range(begin * step, min(size, (begin + phases) * step), step):
        mixed = {
            key: _joined(one[key], two[key], *at[key], cut) if key in at else one[key]
            for key in one
        }
        found = run(mixed)
        before = _changed(signature, name, run(one), found, faint)
        after = _changed(signature, name, run(two), found, faint)
        first, last = before[0], after[1]
        if first <= 0 or last >= size:
            return None
        reach = max(reach, cut - first, last - cut)
    return reach


def _positions(specs: tuple[TensorSpec, ...], name: str) -> dict[str, tuple[int, int]]:
    """Position with the batch first, and factor, of an axis in each tensor that has it."""
    found = {}
    for spec in specs:
        for at, entry in enumerate(spec.shape):
            if isinstance(entry, str) and expression(entry).axis == name:
                found[spec.name] = (1 + at, expression(entry).factor)
    return found


def _joined(a: NDArray[Any], b: NDArray[Any], at: int, factor: int, cut: int) -> NDArray[Any]:
    """The places of `a` before a cut, and those of `b` from it on."""
    a, b = np.moveaxis(a, at, 0), np.moveaxis(b, at, 0)
    whole = np.concatenate([a[: factor * cut], b[factor * cut :]])
    return np.ascontiguousarray(np.moveaxis(whole, 0, at))


def _changed(
    signature: Signature, name: str, a: Arrays, b: Arrays, faint: float
) -> tuple[int, int]:
    """First place of an axis at which two runs differ, and the one behind the last.

    The first is beyond all, and the last 0, if nothing differs.
    """
    first, last = 1 << 62, 0
    for key, (at, factor) in _positions(signature.outputs, name).items():
        changed = np.abs(a[key] - b[key]) > faint * (1 + np.abs(b[key]))
        differs = np.moveaxis(changed if faint else a[key] != b[key], at, 0)
        where = np.flatnonzero(differs.reshape(len(differs), -1).any(1))
        if len(where):
            first = min(first, int(where[0]) // factor)
            last = max(last, -(-(int(where[-1]) + 1) // factor))
    return first, last


def seam(signature: Signature, run: autoregressive.Run, tile: Tile) -> Tile:
    """The tile with the largest difference between samples made of tiles and at once."""
    small = dict(signature.axes)
    for name, overlap in tile.overlap.items():
        axis = small[name]
        most = min(axis.max, max(axis.min, overlap + 3 * axis.multiple))
        small[name] = replace(axis, max=most, default=axis.min)
    worst, compared = 0.0, []
    for axes in (small, signature.axes):
        is_large = axes is not small
        sizes = _beyond(axes, tile, 1 if is_large else 2)
        if is_large and signature.at(sizes).num_values > MAX_VALUES:
            continue
        lifted = {key: replace(axis, max=max(axis.max, sizes[key])) for key, axis in axes.items()}
        inputs = example(replace(signature, axes=lifted), 1 if is_large else ROWS, sizes)
        tiled = Tiling(axes, tile, sizes).run(run, inputs, signature.shapes, batch=5)
        found = compare(signature, run(inputs), tiled)
        worst = max(worst, found.max_abs)
        compared.append(sizes)
    return replace(tile, max_abs=worst, sizes=tuple(compared))


def _beyond(axes: Mapping[str, Axis], tile: Tile, steps: int) -> dict[str, int]:
    """Sizes of several tiles each, the last of them moved back, different from axis to axis."""
    sizes = {name: axis.default for name, axis in axes.items()}
    for place, (name, overlap) in enumerate(tile.overlap.items()):
        axis = axes[name]
        sizes[name] = axis.max + max(0, steps - place) * (axis.max - overlap) + axis.multiple
    return sizes
