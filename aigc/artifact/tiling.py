"""Tiles and chunks: samples beyond the bounds of their free axes, made part by part.

    tiling = Tiling(axes, tile, sizes)
    whole = tiling.run(run, inputs, (input_shapes, output_shapes), batch=4)

A place of an output sees no further than half of the overlap, so a tile is right up to that
distance from its edges, and everywhere at an edge of the whole. Neighbouring tiles overlap, and the
middle of the overlap is where one ends and the next begins: nothing is blended. All tiles have one
size, and each lies within the whole. Noise along free axes is a function of the place, so a tile is
given that of its place.

Chunks are the tiles of sounds, along their one axis: what a chunk is given on either side beyond
what is kept of it is its context.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.axes import Axis, Shape, Sizes, expression, shape_at

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, Shape]
"""Shapes of tensors by name, without the batch axis."""

MAX_SIDE = 1 << 16
"""Largest size of an axis along which a sample is made of tiles."""
MAX_VALUES = 1 << 28
"""Most numbers in all inputs and outputs of a sample that is made of tiles or chunks."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Division of larger samples into tiles, as proven when the artifact was sealed."""

    overlap: dict[str, int]
    """Places that neighbouring tiles share at least, by axis: twice as far as an output sees. A
    tile is as large as its axis may be."""
    max_abs: float
    """Largest difference between a sample made of tiles and one made at once, relative to 1 + its
    values."""
    sizes: tuple[dict[str, int], ...]
    """Sizes at which they were compared."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Division of longer sounds into chunks, as proven when the artifact was sealed."""

    axis: str
    """The only free axis. A chunk is as long as it may be."""
    context: int
    """Places of the axis that a chunk is given before and after those that are kept of it: as far
    as an output sees."""
    max_abs: float
    """Largest difference between a sound made of chunks and one made at once, relative to 1 + its
    values; 0 if they are equal."""
    sizes: tuple[dict[str, int], ...]
    """Sizes at which they were compared."""

    @property
    def tile(self) -> Tile:
        """The chunks as tiles."""
        return Tile(overlap={self.axis: 2 * self.context}, max_abs=self.max_abs, sizes=self.sizes)


@dataclass(frozen=True)
class Span:
    """Places of one axis: start .. stop - 1 are those of a tile, first .. last - 1 are kept."""

    start: int
    stop: int
    first: int
    last: int


Place = Mapping[str, Span]
"""Place of a tile by axis."""


def check_tile(tile: Tile, axes: Mapping[str, Axis], inputs: Shapes, outputs: Shapes) -> None:
    """Raise ValueError unless samples of these shapes can be made of tiles."""
    if not tile.overlap:
        raise ValueError("tiles need at least one axis along which they lie")
    if not 0 <= tile.max_abs < math.inf:
        raise ValueError(f"the seam error of tiles must be finite and >= 0, got {tile.max_abs}")
    for name, overlap in tile.overlap.items():
        if name not in axes:
            known = ", ".join(axes) or "none"
            raise ValueError(f"tiles overlap along {name[:60]!r}, which is no axis; axes: {known}")
        axis = axes[name]
        if not 0 <= overlap <= axis.max - axis.multiple or overlap % axis.multiple:
            raise ValueError(
                f"tiles of {name} must overlap by a multiple of {axis.multiple} in"
                f" [0, {axis.max - axis.multiple}], so that {axis.max} go on, got {overlap}"
            )
    _check_shapes("tiles", tile, inputs, outputs)


def check_chunk(chunk: Chunk, axes: Mapping[str, Axis], inputs: Shapes, outputs: Shapes) -> None:
    """Raise ValueError unless samples of these shapes can be made of chunks."""
    if not 0 <= chunk.max_abs < math.inf:
        raise ValueError(f"the error of chunks must be finite and >= 0, got {chunk.max_abs}")
    if [*axes] != [chunk.axis]:
        raise ValueError(
            f"chunks follow one another along one axis, the only free one; they are along"
            f" {chunk.axis[:60]!r}, and the axes are: {', '.join(axes) or 'none'}"
        )
    axis = axes[chunk.axis]
    most = max_context(axis)
    if not 0 <= chunk.context <= most or chunk.context % axis.multiple:
        raise ValueError(
            f"the context of chunks must be a multiple of {axis.multiple} in [0, {most}], so that"
            f" {axis.max} of {chunk.axis} go on, got {chunk.context}"
        )
    _check_shapes("chunks", chunk.tile, inputs, outputs)


def max_context(axis: Axis) -> int:
    """Largest context of chunks along an axis: twice of it leaves one multiple of the axis."""
    return (axis.max - axis.multiple) // 2 // axis.multiple * axis.multiple


def _check_shapes(parts: str, tile: Tile, inputs: Shapes, outputs: Shapes) -> None:
    for tensors, all_axes in ((inputs, False), (outputs, True)):
        for tensor, shape in tensors.items():
            _check_shape(parts, tensor, shape, tile, all_axes)


def _check_shape(parts: str, tensor: str, shape: Shape, tile: Tile, all_axes: bool) -> None:
    found = [expression(one) for one in shape if isinstance(one, str)]
    along = [one.axis for one in found if one.axis in tile.overlap]
    if any(one.offset for one in found if one.axis in tile.overlap):
        raise ValueError(
            f"{tensor!r} has a size with an offset, so {parts} of it do not join; crop or pad it to"
            " a multiple of the axis"
        )
    if len(set(along)) < len(along):
        raise ValueError(f"{tensor!r} has an axis twice, so it has no {parts}")
    if all_axes and set(along) != tile.overlap.keys():
        raise ValueError(
            f"output {tensor!r} is not free along {', '.join(tile.overlap)}, so it cannot be made"
            f" of {parts}"
        )


def reachable(axes: Mapping[str, Axis], tile: Tile, most: int) -> dict[str, Axis]:
    """The axes with the sizes that tiles can make: up to `most`."""
    return {
        name: replace(axis, max=max(axis.max, most - most % axis.multiple))
        if name in tile.overlap
        else axis
        for name, axis in axes.items()
    }


def starts(total: int, tile: int, overlap: int) -> Sequence[int]:
    """First place of each tile along an axis; the last one is moved back to end with the whole."""
    if total <= tile:
        return [0]
    return [*range(0, total - tile, tile - overlap), total - tile]


def spans(total: int, tile: int, overlap: int) -> list[Span]:
    """The tiles along an axis of `total` places, each cut in the middle of its overlaps."""
    begins, tile = starts(total, tile, overlap), min(total, tile)
    cuts = [(b + a + tile) // 2 for a, b in pairwise(begins)]
    edges = [0, *cuts, total]
    return [Span(s, s + tile, a, b) for s, (a, b) in zip(begins, pairwise(edges), strict=True)]


class Tiling:
    """The tiles of samples of given sizes."""

    def __init__(self, axes: Mapping[str, Axis], tile: Tile, sizes: Sizes) -> None:
        self.sizes = dict(sizes)
        self._tile = tile
        self._most = {name: axes[name].max for name in tile.overlap}
        self.tile_sizes = {
            name: min(size, self._most.get(name, size)) for name, size in sizes.items()
        }
        """Sizes of every tile."""

    def __len__(self) -> int:
        """Number of tiles, without listing them."""
        return math.prod(
            -(-(self.sizes[name] - most) // (most - self._tile.overlap[name])) + 1
            if self.sizes[name] > most
            else 1
            for name, most in self._most.items()
        )

    def places(self) -> list[Place]:
        """The places of all tiles, along the last axis first."""
        overlap = self._tile.overlap
        along = [spans(self.sizes[name], most, overlap[name]) for name, most in self._most.items()]
        return [dict(zip(self._most, each, strict=True)) for each in product(*along)]

    def cut(self, row: Arrays, shapes: Shapes, places: Sequence[Place]) -> Arrays:
        """The inputs of tiles of one sample, batch axis first.

        `row`: its inputs without a batch axis. What has no free axis is the same for every tile.
        """
        return {
            name: np.stack([array[_slices(shapes[name], place, kept=False)] for place in places])
            for name, array in row.items()
        }

    def assemble(
        self, whole: Arrays, tiles: Arrays, shapes: Shapes, places: Sequence[Place]
    ) -> None:
        """Write what is kept of tiles, batch axis first, to the outputs of one sample.

        `whole` has no batch axis; an output that it lacks is added.
        """
        for name, array in tiles.items():
            shape = shapes[name]
            if name not in whole:
                whole[name] = np.empty(shape_at(shape, self.sizes), array.dtype)
            for tile, place in zip(array, places, strict=True):
                whole[name][_slices(shape, place, kept=True)] = tile[_within(shape, place)]

    def kept(self, tile: Arrays, shapes: Shapes, place: Place) -> Arrays:
        """The places of the outputs of one tile that are kept, batch axis first."""
        return {
            name: array[(slice(None), *_within(shapes[name], place))]
            for name, array in tile.items()
        }

    def run(
        self,
        run: Callable[[Arrays], Arrays],
        inputs: Arrays,
        shapes: tuple[Shapes, Shapes],
        batch: int,
    ) -> Arrays:
        """Outputs of samples, batch axis first, of runs of at most `batch` tiles.

        `shapes`: of the inputs, and of the outputs.
        """
        places = self.places()
        rows = []
        for i in range(len(next(iter(inputs.values())))):
            row = {name: array[i] for name, array in inputs.items()}
            whole: Arrays = {}
            for at in range(0, len(places), batch):
                some = places[at : at + batch]
                self.assemble(whole, run(self.cut(row, shapes[0], some)), shapes[1], some)
            rows.append(whole)
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _slices(shape: Shape, place: Place, *, kept: bool) -> tuple[slice, ...]:
    """Places of a tile in a tensor of the whole, or those that are kept of it."""
    found = []
    for one in shape:
        span = place.get(expression(one).axis) if isinstance(one, str) else None
        if span is None:
            found.append(slice(None))
            continue
        factor = expression(str(one)).factor
        low, high = (span.first, span.last) if kept else (span.start, span.stop)
        found.append(slice(factor * low, factor * high))
    return tuple(found)


def _within(shape: Shape, place: Place) -> tuple[slice, ...]:
    """Places of a tile's tensor that are kept."""
    moved = {
        name: Span(0, 0, span.first - span.start, span.last - span.start)
        for name, span in place.items()
    }
    return _slices(shape, moved, kept=True)
