"""Reads whole sources, in this process or in those of a loader."""

import numpy as np

from aigc.data import Source


def seen(source: Source) -> set[tuple[bytes, int]]:
    pairs = (source.read(row) for row in range(len(source)))
    return {(sample.tobytes(), label) for sample, label in pairs}


class Mapped:
    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        sample, label = self.source.read(row)
        return np.asarray(sample), label
