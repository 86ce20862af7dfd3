"""The shape that a source has by itself, for opening it before any model is chosen."""

import gzip
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import fsspec
import numpy as np

from aigc.config import DataConfig
from aigc.data import Shapes
from aigc.data.content import fetch
from aigc.data.files import listing
from aigc.data_report import suggestion

PICTURE = (3, 64, 64)
"""Any size can be asked of sources of pictures."""
SOUND = (1, 4096)
"""Any length can be asked of sources of sounds."""
_HEADER = 4096
"""Bytes that the header of an array lies in."""


def candidates(config: DataConfig) -> list[tuple[int, ...]]:
    """Shapes of a row to open a source at, the likeliest first.

    Raises ValueError for data that cannot be read at all.
    """
    if config.source == "idx":
        return [_idx(Path(config.path))]
    if config.source == "text":
        return [(longest_line(config) + 1,)]
    if config.source == "audio":
        return [SOUND]
    if config.source == "npz":
        return [*_arrays(config), PICTURE]
    run = suggestion.preset_of(config)
    return [run.model.shape] if run is not None else [PICTURE]


def several(config: DataConfig) -> Shapes:
    """Shapes to open a source of several modalities at."""
    if config.source == "paired":
        return {"image": PICTURE, "text": (longest_line(config) + 1,), "audio": SOUND}
    run = suggestion.preset_of(replace(config, path=""))
    assert run is not None  # of every such source
    return run.model.shapes


def longest_line(config: DataConfig) -> int:
    """Characters in the longest text: a line of source text, a file of source paired."""
    longest = 0
    try:
        listed = listing(config.path, (".txt",), config.source)
    except ValueError:
        if config.source == "paired":  # which can do without
            return 1
        raise
    for file in listed.files:
        text = fetch(file).decode("utf-8", "replace").strip()
        lines = text.splitlines() if config.source == "text" else [text]
        longest = max([longest, *map(len, lines)])
    return longest


def _idx(folder: Path) -> tuple[int, ...]:
    """(1, H, W), from the header of the first file of images; (1, 28, 28) where there is none,
    which the source says better."""
    for path in sorted(folder.glob("*images-idx3-ubyte*")) if folder.is_dir() else ():
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                magic, _, height, width = struct.unpack(">4I", file.read(16))
        except (OSError, EOFError, struct.error):
            continue
        if magic == 0x803 and height and width:
            return 1, height, width
    return 1, 28, 28


def _arrays(config: DataConfig) -> Iterator[tuple[int, ...]]:
    """Shapes of the rows of arrays of floats, those of the largest array first."""
    counts: dict[tuple[int, ...], int] = {}
    listed = listing(config.path, (".npz", ".npy"), "npz")
    for file in listed.files:
        with fsspec.open(file.uri, "rb") as opened:
            try:
                if not file.name.endswith(".npz"):
                    shapes = [_shape(opened.read(_HEADER))]
                else:
                    with zipfile.ZipFile(opened) as archive:
                        shapes = [
                            _shape(archive.open(name).read(_HEADER)) for name in archive.namelist()
                        ]
            except (OSError, ValueError, zipfile.BadZipFile):
                continue  # the source says it better
        for shape in shapes:
            if shape is not None:
                counts[shape[1:]] = max(prod(shape), counts.get(shape[1:], 0))
    yield from sorted(counts, key=lambda shape: -counts[shape])


def _shape(head: bytes) -> tuple[int, ...] | None:
    """Shape of an array of rows of floats, from its header; None for any other array. Raises
    ValueError for bytes that are no header."""
    import io

    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        return None
    shape, _, dtype = read(file)
    return shape if dtype.kind == "f" and len(shape) in (2, 3, 4) else None
