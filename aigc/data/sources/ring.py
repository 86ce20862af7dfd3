"""Eight Gaussians on a circle, made from a fixed seed; the usual test of mode collapse."""

import numpy as np

from aigc.artifact.latents import labels, normal
from aigc.config import DataConfig
from aigc.data import Dataset, Split
from aigc.data.survey import Survey

MODES = 8
STD = 0.05
TRAIN, TEST = 2048, 512


def centres() -> np.ndarray:
    """(8, 2) float32: the modes, on the unit circle."""
    angle = 2 * np.pi * np.arange(MODES) / MODES
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """2,048 points to train, 512 others to test; the label is the mode."""
    if shape != (2,):
        raise ValueError(
            f"data 'ring' gives points of shape (2,), the model wants {shape}; take fc_gan:ring"
        )
    indices = range(TRAIN) if split == "train" else range(TRAIN, TRAIN + TEST)
    mode = labels(0, indices, MODES)
    points = centres()[mode] + STD * normal(0, indices, (2,), "ring")
    classes = tuple(str(i) for i in range(MODES))
    return Dataset(
        name="ring",
        samples=points.astype(np.float32),
        labels=mode,
        classes=classes,
        known=Survey(splits={"train": TRAIN, "test": TEST}),
    )
