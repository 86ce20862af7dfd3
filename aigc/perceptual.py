"""Distance of pictures by the feature maps of a network that is not trained."""

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc import feature_network
from aigc.feature_network import FrozenNetwork


class PerceptualLoss:
    """Perceptual distance by a network of a reference, see aigc/feature_network.

    loss = PerceptualLoss("runs/classifier")
    loss(made, real)                                # ()

    The network is read at the first call, so that a model that is exported or resumed elsewhere
    does not need it; it is no part of a model's state. Raises ValueError then if it cannot be read.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.network: FrozenNetwork | None = None

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        """made, real: (N, C, H, W) in [-1, 1] -> (), with a gradient for `made`."""
        if self.network is None:
            self.network = feature_network.load_module(self.reference)
        network = self.network.to(made.device, made.dtype)
        with torch.no_grad():
            maps = network.feature_maps(real)
        return perceptual_distance(network.feature_maps(made), maps).to(made.dtype)


def perceptual_distance(made: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean over maps and places of |m/|m| - r/|r||^2, the channels of a place as a unit vector.

    Zhang et al. 2018, arXiv:1801.03924, eq. 1, with all channels weighted alike. Maps: (N, D, h, w)
    each -> ().
    """
    parts = [
        (F.normalize(m, dim=1) - F.normalize(r, dim=1)).square().sum(1).mean()
        for m, r in zip(made, real, strict=True)
    ]
    return torch.stack(parts).mean()
