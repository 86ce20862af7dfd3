"""Distances of pictures to those that they were made of, by the features of networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from aigc.feature_network import FeatureNetwork
from aigc.metrics import Evaluation, TooFewRows
from aigc.metrics.estimate import Estimate, of_mean
from aigc.metrics.frechet import frechet
from aigc.metrics.perceptual import perceptual_distances

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """Metrics of pictures by networks, beside the real ones that they were made of.

    likeness = Likeness(networks, real)             # (N, C, H, W) in [-1, 1]
    likeness.add(evaluation, images)                # the same shape
    """

    networks: Sequence[FeatureNetwork]
    real: Images

    def add(
        self,
        evaluation: Evaluation,
        images: Images,
        *,
        before: str = "",
        after: str = "",
        better: str = "lower",
    ) -> None:
        """Add `perceptual/NETWORK` and `frechet/NETWORK`, with `before` and `after` the names.

        The first is the mean distance of each image to its own real one (metrics/perceptual.py), of
        networks with feature maps; the second that of the two sets, known as rFID where the images
        are reconstructions (Rombach et al. 2022, arXiv:2112.10752, section 4). Both are left out
        without images.
        """
        images = images.clip(-1, 1)
        for network in self.networks:
            name = f"{network.name}{after}"
            if network.run_maps is not None:
                distance = partial(self._perceptual, network, images)
                evaluation.add(f"{before}perceptual/{name}", distance, None, better)
            between = partial(self._frechet, network, images)
            evaluation.add(f"{before}frechet/{name}", between, None, better)

    def _perceptual(self, network: FeatureNetwork, images: Images) -> Estimate:
        self._check()
        return of_mean(perceptual_distances(network, images, self.real))

    def _frechet(self, network: FeatureNetwork, images: Images) -> float:
        self._check()
        return frechet(self._real_features[network.name], network.features(images))

    @cached_property
    def _real_features(self) -> dict[str, Images]:
        return {network.name: network.features(self.real) for network in self.networks}

    def _check(self) -> None:
        if not len(self.real):
            raise TooFewRows("there are no test images")
