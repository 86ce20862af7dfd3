"""Conditional networks in the manner of the recipe, for 28 x 28: about as large as dcgan:digits.

Transposed convolutions from a 1 x 1 map, BatchNorm in both networks, no dense layer, weights drawn
from N(0, 0.02). The class enters the plain way: one-hot beside the latent, and as constant planes
beside the image (Mirza & Osindero 2014, arXiv:1411.1784).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = 100
CLASSES = 10


class Generator(nn.Module):
    """(N, LATENT), labels (N,) -> (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(LATENT + CLASSES, 64, 7, 1, 0, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        ).apply(_initialise)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        given = torch.cat([z, F.one_hot(label, CLASSES).to(z.dtype)], 1)
        return self.layers(given[:, :, None, None])


class Discriminator(nn.Module):
    """(N, 1, 28, 28) in [-1, 1], labels (N,) -> logits (N,), None."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1 + CLASSES, 32, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 1, 3, 1, 0, bias=False),
            nn.Flatten(0),
        ).apply(_initialise)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, None]:
        planes = F.one_hot(label, CLASSES).to(x.dtype)[:, :, None, None]
        return self.layers(torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)), None


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
