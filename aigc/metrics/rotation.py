"""Features of images without labels, from a network that predicts rotations.

Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations",
arXiv:1803.07728: the label of an image is its rotation by 0, 90, 180 or 270 degrees. The features
distinguish up from down, but say little of images that look the same from all sides; the accuracy
on held-out images, `judge/rotation64`, shows which is the case.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc.data import Dataset, scaled
from aigc.metrics.classifier import (
    BATCH,
    EPOCHS,
    Classifier,
    cached_network,
    minimise,
    network_of,
    shifted,
)
from aigc.rng import derive_seed

NAME = "rotation64"
"""Part of the name of every metric that uses these features."""
TURNS = 4
MIN_ACCURACY = 0.6
"""Smallest accuracy on held-out images of a reliable network; chance is 0.25. At 0.76 the features
still detected a missing class and a slight blur."""


class Rotations:
    """A network trained on real images without their labels.

    rotations = Rotations.trained_on(train)
    rotations.features(images)          # (N, 64)
    rotations.correct(test_images)      # (N,) bool
    """

    def __init__(self, network: nn.Sequential) -> None:
        self.classifier = Classifier(network)
        """Classifier of square images by their rotation."""

    @classmethod
    def trained_on(cls, dataset: Dataset) -> "Rotations":
        """Train from a fixed seed, or load cached weights: see cached_network()."""
        facts = f"{NAME}/{EPOCHS}/{torch.__version__}/{dataset.fingerprint()['sha256']}"
        channels, *sides = dataset.samples.shape[1:]

        def fresh() -> nn.Sequential:
            torch.manual_seed(derive_seed(facts))
            return network_of((channels, min(sides), min(sides)), TURNS)

        return cls(cached_network(NAME, facts, fresh, lambda network: _fit(network, dataset)))

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C, H, W) float32 in [-1, 1] -> (N, 64)."""
        return self.classifier.classify(square(torch.from_numpy(images)).numpy()).features

    def correct(self, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N,) True where the rotation of image i by i % 4 quarters is predicted."""
        turned, turns = _turned(square(torch.from_numpy(images)))
        correct: NDArray[np.bool_] = (
            self.classifier.classify(turned.numpy()).predicted == turns.numpy()
        )
        return correct


def _fit(network: nn.Sequential, dataset: Dataset) -> None:
    samples = square(torch.from_numpy(scaled(dataset.samples)))

    def loss() -> Tensor:
        turned, turns = _turned(samples[torch.randint(len(samples), (BATCH,))])
        return F.cross_entropy(network(shifted(turned)), turns)

    minimise(network, loss, max(EPOCHS * -(-len(dataset) // BATCH), 600))


def square(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, S, S) with S the shorter side: a rotation keeps the shape."""
    side = min(images.shape[2:])
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="area")


def _turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square image i rotated by i % 4 quarters, and these: (N, C, S, S), (N,) int64."""
    turned = torch.empty_like(images)
    for turn in range(TURNS):
        turned[turn::TURNS] = torch.rot90(images[turn::TURNS], turn, (2, 3))
    return turned, torch.arange(len(images)) % TURNS
