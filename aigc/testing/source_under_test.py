"""A data source under test: both splits for a model, and some of their rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc import data, own_code
from aigc.config import DataConfig, ModelConfig
from aigc.data import Source, Split
from aigc.testing.contract import UnderTest

SPLITS: tuple[Split, ...] = ("train", "test")
MOST = 2000
"""Largest number of rows of a split that are read, evenly spread."""


@dataclass(frozen=True, kw_only=True)
class ReadRows:
    """Rows of a split that were read."""

    numbers: NDArray[np.int64]
    """Their numbers in the split."""
    samples: list[NDArray[Any]]
    labels: list[Any]
    all: bool
    """True if there are no others."""

    def parts(self, model: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], list[Any]]]:
        """Modality, shape and values of each part of the rows."""
        for modality, shape in model.shapes.items():
            several = len(model.shapes) > 1
            yield modality, shape, [s[modality] if several else s for s in self.samples]


class SourceUnderTest(UnderTest):
    """A data source, for the shape and the classes of a model."""

    def __init__(self, config: DataConfig, model: ModelConfig) -> None:
        super().__init__()
        # Nothing is held in memory: it is the source itself that is checked.
        self.config, self.model = replace(config, memory_mb=0), model
        self.name = config.source
        code = own_code.find(own_code.DATA, config.source).file
        self.file = code.path if code else None

    @cached_property
    def splits(self) -> dict[Split, Source]:
        """Both splits."""
        return {split: self.opened(split) for split in SPLITS}

    @cached_property
    def again(self) -> dict[Split, Source]:
        """Both splits, opened anew."""
        return {split: self.opened(split) for split in SPLITS}

    def opened(self, split: Split) -> Source:
        """A split, opened now."""
        return data.load(self.config, self.model, split)

    @cached_property
    def rows(self) -> dict[Split, ReadRows]:
        """Rows of both splits."""
        return {split: _read(source) for split, source in self.splits.items()}


def _read(source: Source) -> ReadRows:
    count = len(source)
    numbers = np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(np.int64))
    samples, labels = [], []
    for number in numbers.tolist():
        sample, label = source.read(number)
        samples.append(np.asarray(sample))
        labels.append(label)
    return ReadRows(numbers=numbers, samples=samples, labels=labels, all=len(numbers) == count)
