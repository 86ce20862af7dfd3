"""A stand-in for an artifact that draws given pictures, and digits divided for it."""

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from aigc import data
from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset


@dataclass
class Drawn:
    """Sample i is picture i, of the class i modulo `num_classes` if that is not 0."""

    images: np.ndarray
    num_classes: int = 0
    id: str = "drawn@1"

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(default_signature=lambda: "sample", id=self.id)

    def signature(self, name: str) -> Signature:
        label = TensorSpec(
            name="label", kind="label", dtype="int64", shape=(), range=(0.0, self.num_classes - 1.0)
        )
        image = TensorSpec(
            name="image",
            kind="image",
            dtype="float32",
            shape=self.images.shape[1:],
            range=(-1.0, 1.0),
        )
        inputs = (label,) if self.num_classes else ()
        return Signature(graph="g.onnx", inputs=inputs, outputs=(image,))

    def sample(self, name: str, *, seed: int, n: int, first_index: int, label: Any) -> Any:
        return {"image": self.images[first_index : first_index + n].astype(np.float32)}


def artifact(images: np.ndarray, num_classes: int = 0) -> Artifact:
    """An artifact that draws pictures (N, C, H, W) float32 in [-1, 1]."""
    return cast(Artifact, Drawn(images, num_classes))


@cache
def digits(channels: int = 1) -> tuple[Dataset, Dataset, np.ndarray]:
    """Training and test split of digits of 8 x 8 pixels, and other real ones, 360 of each of the
    latter. Of three channels they are coloured by class."""
    train, test = (
        data.whole(data.load(DataConfig(), ModelConfig(shape=(1, 8, 8)), split))
        for split in ("train", "test")
    )
    if channels == 3:
        train, test = coloured(train), coloured(test)
    kept = np.arange(len(train)) % 4 != 0
    others = train.samples[~kept]
    train = replace(train, samples=train.samples[kept], labels=train.labels[kept], origin=None)
    return train, replace(test, origin=None), others


def coloured(dataset: Dataset) -> Dataset:
    """Each class in a colour of its own, on black."""
    turn = dataset.labels[:, None] * 0.6 + np.array([0, 2, 4])
    colour = (0.6 + 0.4 * np.cos(turn)).astype(np.float32)[:, :, None, None]
    return replace(dataset, samples=(dataset.samples + 1) * colour - 1, origin=None)
