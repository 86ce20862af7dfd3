"""Distances of pictures to those that they were made of, by the features of networks."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc.feature_network import FeatureNetwork
from aigc.metrics import Evaluation, TooFewRows
from aigc.metrics.estimate import Estimate, of_mean
from aigc.metrics.frechet import frechet
from aigc.metrics.perceptual import perceptual_distances

Images = NDArray[np.float32]


def add_likeness(
    evaluation: Evaluation,
    networks: Sequence[FeatureNetwork],
    images: Images,
    real: Images,
    *,
    before: str = "",
    after: str = "",
    better: str = "lower",
) -> None:
    """Add `perceptual/NETWORK` and `frechet/NETWORK` of images and real, (N, C, H, W) in [-1, 1].

    The first is the mean distance of each image to its own real one (metrics/perceptual.py), of
    networks with feature maps; the second that of the two sets, known as rFID where the images are
    reconstructions (Rombach et al. 2022, arXiv:2112.10752, section 4). Names are given `before` and
    `after`.
    """
    for network in networks:
        if network.run_maps is not None:
            distance = partial(_distance, network, images, real)
            name = f"{before}perceptual/{network.name}{after}"
            evaluation.add(name, distance, None, better)
        between = partial(_frechet, network, images, real)
        evaluation.add(f"{before}frechet/{network.name}{after}", between, None, better)


def _distance(network: FeatureNetwork, images: Images, real: Images) -> Estimate:
    _check(real)
    return of_mean(perceptual_distances(network, images.clip(-1, 1), real))


def _frechet(network: FeatureNetwork, images: Images, real: Images) -> float:
    _check(real)
    return frechet(network.features(real), network.features(images.clip(-1, 1)))


def _check(real: Images) -> None:
    if not len(real):
        raise TooFewRows("there are no test images")
