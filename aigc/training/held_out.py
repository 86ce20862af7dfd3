"""Rows of a run's data that are not trained on, for quality and pictures while it trains."""

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aigc import data
from aigc.config import TrainConfig
from aigc.data import Source, scaled

ROWS = 128
"""Most rows that are read."""


class HeldOut:
    """Images of the test split, or of the training split if the data have no other.

    held_out = HeldOut(config, source)
    held_out.images(10)     # (10, C, H, W) float32 in [-1, 1]
    held_out.note           # "" for rows of the test split
    """

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self._config, self._source = config, source
        self.note = ""
        """Reason to doubt what is measured on these rows; empty until they are read."""

    def images(self, n: int = ROWS) -> NDArray[np.float32]:
        """n images in a fixed random order, fewer if there are fewer, ROWS at most."""
        return self._images[:n]

    @cached_property
    def _images(self) -> NDArray[np.float32]:
        config = replace(self._config.data, memory_mb=0)
        try:
            source = data.load(config, self._config.model, "test")
        except Exception:  # any error of the test data; training does not need them
            source = self._source
        if not len(source):
            source = self._source
        if source is self._source:
            self.note = "measured on training rows: the data have no test rows that can be read"
        # In the order of an epoch: folders and tables are often sorted by class.
        samples, _ = data.gather(source, source.order(0, 0)[:ROWS].tolist(), "skip")
        return np.asarray(scaled(samples if samples.dtype.names is None else samples["image"]))
