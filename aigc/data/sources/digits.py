"""The 1,797 handwritten digits that come with scikit-learn: real, small and offline.

Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI. 8x8 pixels, 17 levels.
"""

import numpy as np

from aigc.config import DataConfig
from aigc.data import Dataset, Split, resize
from aigc.data.survey import Survey


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """A fixed stratified split: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test = train_test_split(
        np.arange(len(bunch.target)), test_size=0.2, random_state=0, stratify=bunch.target
    )
    rows = train if split == "train" else test
    return Dataset(
        name="digits",
        samples=resize(bunch.images[rows], shape, high=16, name="digits"),
        labels=bunch.target[rows].astype(np.int64),
        classes=tuple(str(name) for name in bunch.target_names),
        known=Survey(splits={"train": len(train), "test": len(test)}),
    )
