"""A data set opened before any model is chosen, and the shape that a model of it would have."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aigc import data
from aigc.config import DataConfig
from aigc.data import CorruptRow, Dataset, Shapes, Source, Split
from aigc.data.examined import Examined
from aigc.data.hashing import unhashed
from aigc.data.headers import PictureHeader
from aigc.data.natural import candidates, several

Shape = tuple[int, ...]

LARGEST = 64
"""Pixels of a side that a model is suggested for; larger ones want a GPU."""
MULTIPLE = 4
"""The suggested presets want height and width to be a multiple of it."""
SMALLEST = 8
SHORTEST, LONGEST = 4096, 32_768
"""Samples of a sound that a model is suggested for."""


def load(
    config: DataConfig,
    shape: Shape | Shapes,
    split: Split,
    *,
    conditional: bool = True,
    hashed: bool = True,
) -> Source:
    """A split at a shape, whatever model may want it; labels only describe it where nothing is
    `conditional` on them, and its fingerprint says nothing where it is not `hashed`. Raises
    ValueError as aigc.data.load does."""
    with nullcontext() if hashed else unhashed():
        return data.open_source(config, shape, split, conditional=conditional)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A data set before its rows are looked at."""

    sources: dict[Split, Source]
    """The training split, and what is held out if anything is."""
    conditional: bool
    """True if a model can be conditioned on its labels, or there are none."""
    notes: tuple[str, ...]


def open_splits(config: DataConfig, shape: Shape, *, hashed: bool) -> Opened:
    """Open both splits at a shape, or, where it is empty, at one that the source has by itself.

    Labels that cannot be conditioned on are no obstacle. Raises ValueError where there is nothing
    to train on.
    """
    try:
        return _open(config, shape, conditional=True, hashed=hashed)
    except ValueError as error:
        try:
            found = _open(config, shape, conditional=False, hashed=hashed)
        except ValueError:
            raise error from None
        return replace(found, notes=(f"only without classes: {error}", *found.notes))


def _open(config: DataConfig, shape: Shape, *, conditional: bool, hashed: bool) -> Opened:
    if config.source in data.PAIRED:
        own = several(config)
        shapes: list[Shape | Shapes] = [own | {"image": shape} if shape else own]
    else:
        shapes = [shape] if shape else [*candidates(config)]
    taken, train = _first_that_fits(config, shapes, conditional, hashed)
    if not len(train):
        raise ValueError(f"{config.path} has no row to train on; add some")
    sources: dict[Split, Source] = {"train": train}
    notes = []
    try:
        test = load(config, taken, "test", conditional=conditional, hashed=hashed)
        if len(test):
            sources["test"] = test
        else:
            notes = ["nothing is held out, so quality cannot be measured"]
    except ValueError as error:
        notes = [f"nothing is held out, so quality cannot be measured: {error}"]
    return Opened(sources=sources, conditional=conditional, notes=tuple(notes))


def _first_that_fits(
    config: DataConfig, shapes: list[Shape | Shapes], conditional: bool, hashed: bool
) -> tuple[Shape | Shapes, Source]:
    """Raises the first ValueError where no shape fits."""
    first: ValueError | None = None
    for shape in shapes:
        try:
            return shape, load(config, shape, "train", conditional=conditional, hashed=hashed)
        except ValueError as error:
            first = first or error
    assert first is not None
    raise first


def suited(
    config: DataConfig, source: Source, found: Examined, shape: Shape
) -> dict[str, tuple[int, ...]]:
    """The shapes of a model for a data set, by modality: `shape` where it is given.

    Raises CorruptRow where no row of the first hundred can be read.
    """
    sample = _first(source)
    vocabulary = getattr(source, "vocabulary", ())
    if config.source in data.PAIRED:
        longest = {name: sample[name].shape for name in ("image", "text", "audio")}
        return {
            "image": shape or _picture(longest["image"], found),
            "text": longest["text"],
            "audio": _sound(longest["audio"], found, config.sample_rate_hz),
        }
    if vocabulary:
        longest_text = shape or sample.shape
        if not shape and isinstance(source, Dataset):
            longest_text = (int((source.samples != 0).sum(1).max()) + 1,)
        return {"text": longest_text}
    modality = {1: "vector", 2: "audio"}.get(sample.ndim, "image")
    if modality == "image" and not shape:
        own: Counter[PictureHeader] | None = None
        if config.source == "idx":  # in memory, but of any size
            _, height, width = sample.shape
            own = Counter({PictureHeader(width, height, "L", False): 1})
        return {modality: _picture(sample.shape, found, own)}
    if modality == "audio" and config.pieces:
        return {modality: sample.shape}
    if modality == "audio" and not shape:
        return {modality: _sound(sample.shape, found, config.sample_rate_hz)}
    return {modality: shape or sample.shape}


def _first(source: Source) -> Any:
    """The first sample that can be read."""
    tried = min(len(source), 100)
    for row in range(tried):
        try:
            return source.read(row)[0]
        except CorruptRow as error:
            reason = error
    raise CorruptRow(f"none of the first {tried} rows can be read; of one: {reason}")


def _picture(
    own: Shape, found: Examined, pictures: Counter[PictureHeader] | None = None
) -> tuple[int, ...]:
    """(C, H, W): what most pictures are, of the size of most, within bounds; `own` without any."""
    pictures = pictures or found.pictures
    if not pictures:
        return own
    total = pictures.total()
    clear = sum(count for header, count in pictures.items() if header.transparent)
    grey = sum(count for header, count in pictures.items() if header.grey)
    channels = 4 if 2 * clear > total else 1 if grey == total else 3
    sizes: Counter[tuple[int, int]] = Counter()
    for header, count in pictures.items():
        sizes[header.height, header.width] += count
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    if max(height, width) > LARGEST:
        return channels, LARGEST, LARGEST
    return channels, _side(height), _side(width)


def _side(pixels: int) -> int:
    return max(SMALLEST, -(-pixels // MULTIPLE) * MULTIPLE)


def _sound(own: Shape, found: Examined, rate_hz: int) -> tuple[int, ...]:
    """(1, samples): a power of two that nine in ten fit into, within bounds; `own` without any."""
    if not found.seconds:
        return own
    wanted = float(np.quantile(found.seconds, 0.9)) * rate_hz
    length = SHORTEST
    while length < min(wanted, LONGEST):
        length *= 2
    return 1, length
