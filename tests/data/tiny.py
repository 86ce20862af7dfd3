"""Tiny data sets of IDX files and of lines of text."""

import gzip
import struct
from pathlib import Path

import numpy as np

from aigc.config import DataConfig


def idx(folder: Path, split: str, n: int, zipped: bool = False) -> None:
    """A tiny IDX pair of 12 x 10 pixels."""
    generator = np.random.default_rng(n)
    images = generator.integers(0, 256, (n, 12, 10), np.uint8)
    labels = (np.arange(n) % 3).astype(np.uint8)
    files = {
        f"{split}-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        + images.tobytes(),
        f"{split}-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes(),
    }
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def lines(folder: Path) -> DataConfig:
    """Texts of one to three letters; those of three different ones are a class of their own."""
    for number, letters in enumerate(("abc", "cba")):
        (folder / str(number)).mkdir()
        texts = {f"{a}{b}{c}" for a in letters for b in letters for c in letters}
        texts |= {a * length for a in letters for length in (1, 2)}
        kept = sorted(text for text in texts if (len(set(text)) == 3) == bool(number))
        (folder / str(number) / "lines.txt").write_text("\n".join(kept) + "\n")
    return DataConfig(source="text", path=str(folder))
