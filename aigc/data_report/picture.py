"""Draw rows of a data set as training will see them, a line of tiles for each class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aigc.artifact.image_files import to_uint8
from aigc.data import CorruptRow, Source, scaled
from aigc.data.examined import evenly
from aigc.data.opened import load
from aigc.data_report.report import Inspected, labels

COLUMNS = 8
CLASSES = 24
"""Largest number of classes that are drawn."""
TILE = 64
"""Least size in pixels of a tile; smaller ones are enlarged by a whole factor."""
GAP = 2
MARGIN = 6
LETTERS = 24
"""Letters of a class name that are drawn."""
_TEXT = 12
_CHECKER = (204, 255)
"""Grey levels of the chequered ground behind transparent pixels."""


def draw_rows(inspected: Inspected) -> NDArray[np.uint8]:
    """(H, W, 3) picture of a data set: a line for each of the first CLASSES classes.

    A line holds the name of the class and COLUMNS of its training rows, evenly spread; without
    classes there are as many lines as columns. Pictures have the shape of the suggested model,
    sounds are drawn as spectrograms. Raises ValueError for rows that cannot be drawn.
    """
    shapes = inspected.report.shapes
    key = next((name for name in ("image", "audio") if name in shapes), "")
    if not key:
        raise ValueError(f"there is no picture of {' and '.join(shapes)}; leave out --picture")
    config = inspected.run.data if inspected.run else None
    source = inspected.sources["train"]
    conditional = inspected.run is not None and inspected.run.model.num_classes > 0
    if config is not None:
        wanted = shapes if len(shapes) > 1 else shapes[key]
        hashed = inspected.report.fingerprint is not None
        source = load(config, wanted, "train", conditional=conditional, hashed=hashed)
    names = inspected.report.classes[:CLASSES]
    lines = []
    for label, rows in enumerate(_rows(inspected, len(names))):
        tiles = [tile for row in rows if (tile := _tile(source, int(row), key)) is not None]
        lines.append((_title(names[label]["name"], label) if names else "", tiles))
    return _layout(lines)


def _title(name: str, label: int) -> str:
    """A name cut to LETTERS; the label instead if the font lacks its letters."""
    try:
        name.encode("latin-1")
    except UnicodeEncodeError:
        return f"class {label}"
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 3]}..."


def _rows(inspected: Inspected, num_classes: int) -> list[NDArray[np.int64]]:
    """Row numbers for each line; rows that cannot be read are left out later."""
    of = labels(inspected, "train")
    if not num_classes:
        chosen = evenly(np.arange(len(of)), COLUMNS * COLUMNS)
        return [chosen[start : start + COLUMNS] for start in range(0, len(chosen), COLUMNS)]
    if (of < 0).all():  # a quick look at headers: they have no labels
        source = inspected.sources["train"]
        for row in evenly(np.arange(len(of)), COLUMNS * num_classes * 4):
            try:
                of[row] = source.read(int(row))[1]
            except CorruptRow:
                continue
    return [evenly(np.flatnonzero(of == label), COLUMNS) for label in range(num_classes)]


def _tile(source: Source, row: int, key: str) -> NDArray[np.uint8] | None:
    """(H, W, 3) of one row; None if it cannot be read or has no such part."""
    try:
        sample: Any = source.read(row)[0]
    except CorruptRow:
        return None
    if sample.dtype.names:
        if not sample[f"mask/{key}"]:
            return None
        sample = sample[key]
    if key == "audio":
        from aigc.metrics.sound import spectrograms

        rate_hz = int(getattr(source, "sample_rate_hz", 0)) or 8000
        pixels = spectrograms(np.asarray(sample, np.float32), rate_hz)[0][..., None]
    else:
        pixels = to_uint8(scaled(sample)[None], -1, 1)[0]
    factor = max(1, TILE // max(pixels.shape[:2]))
    return _rgb(pixels.repeat(factor, 0).repeat(factor, 1))


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (H, W, 3): transparency on a chequered ground, the first three channels of
    more than four."""
    height, width, channels = pixels.shape
    if channels not in (2, 4):
        return pixels.repeat(3, 2) if channels == 1 else pixels[..., :3]
    y, x = np.mgrid[:height, :width] // 8
    ground = np.where((y + x) % 2, *_CHECKER)[..., None]
    alpha = pixels[..., -1:].astype(np.float32) / 255
    mixed = np.rint(pixels[..., :-1] * alpha + ground * (1 - alpha)).astype(np.uint8)
    return mixed.repeat(3, 2) if channels == 2 else mixed


def _layout(lines: list[tuple[str, list[NDArray[np.uint8]]]]) -> NDArray[np.uint8]:
    """Names to the left, tiles of equal size to the right; white where a tile is missing."""
    tiles = [tile for _, row in lines for tile in row]
    if not tiles:
        raise ValueError("no row could be drawn; leave out --picture to see why")
    height, width = tiles[0].shape[:2]
    font = ImageFont.load_default(_TEXT)
    wide = max(font.getlength(name) for name, _ in lines)
    left = round(wide) + 2 * MARGIN if wide else 0
    step = max(height, _TEXT) + GAP
    size = left + COLUMNS * (width + GAP) - GAP, len(lines) * step - GAP
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, (name, row) in enumerate(lines):
        pen.text((MARGIN, number * step + height // 2), name, "black", font, anchor="lm")
        for column, tile in enumerate(row):
            canvas.paste(Image.fromarray(tile), (left + column * (width + GAP), number * step))
    return np.asarray(canvas, np.uint8)
