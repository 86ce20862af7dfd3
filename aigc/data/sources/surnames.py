"""Surnames of the US census of 1990, as the package `names` ships them; in lower case."""

from pathlib import Path

import numpy as np

from aigc.artifact.latents import integers
from aigc.config import DataConfig
from aigc.data import Dataset, Split
from aigc.data.lines import characters, tokenized
from aigc.data.survey import Survey

TRAIN_SHARE = 5
"""One name in TRAIN_SHARE is for training. The others are targets: a model that has learned how
surnames
look generates some that it has never seen."""


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """17,760 surnames to train, 71,039 others to test; no labels.

    Raises ValueError where the package is not installed.
    """
    try:
        import names
    except ImportError:
        raise ValueError(
            "data 'surnames' is in the package names; pip install 'aigc[text]'"
        ) from None
    listed = (Path(names.__file__).parent / "dist.all.last").read_text().splitlines()
    lines = [line.split()[0].lower() for line in listed if line.strip()]
    vocabulary = characters(lines)
    order = np.argsort(integers(0, "surnames", [0], len(lines))[0], kind="stable")
    num_train = -(-len(lines) // TRAIN_SHARE)
    chosen = np.sort(order[:num_train] if split == "train" else order[num_train:])
    return Dataset(
        name="surnames",
        samples=tokenized(lines, vocabulary, shape, "surnames")[chosen],
        labels=np.zeros(len(chosen), np.int64),
        classes=(),
        vocabulary=vocabulary.pieces,
        known=Survey(splits={"train": num_train, "test": len(lines) - num_train}),
    )
