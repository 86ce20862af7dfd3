"""Layers of style-based generators (Karras et al. 2019, 2020: arXiv:1812.04948, 1912.04958)."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.nn.resize import resize_convolution

SLOPE = 0.2
GAIN = math.sqrt(2)
"""Gain that follows a LeakyReLU, as in the authors' code."""


def activated(x: Tensor) -> Tensor:
    """LeakyReLU that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


class ScaledLinear(nn.Module):
    """Dense layer with weights of variance 1, scaled at run time by the root of the fan-in
    ("equalized learning rate", Karras et al. 2018, arXiv:1710.10196, section 4.1).

    (N, size) -> (N, out). Weights and bias learn `rate` times as fast as others.
    """

    def __init__(self, size: int, out: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, size) / rate)
        self.bias = nn.Parameter(torch.full((out,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(size), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Mapping(nn.Module):
    """Latents (N, latent), labels one-hot beside them, to w (N, latent)."""

    def __init__(self, latent: int, num_classes: int, layers: int) -> None:
        super().__init__()
        self.embedding = ScaledLinear(num_classes, latent) if num_classes else None
        sizes = [latent * (1 + (num_classes > 0)), *[latent] * layers]
        self.layers = nn.ModuleList(
            ScaledLinear(size, out, rate=0.01) for size, out in itertools.pairwise(sizes)
        )

    def forward(self, z: Tensor, classes: Tensor | None) -> Tensor:
        """classes: (N, num_classes) one-hot, None without classes."""
        x = normalised(z)
        if self.embedding is not None:
            assert classes is not None
            x = torch.cat([x, normalised(self.embedding(classes))], 1)
        for layer in self.layers:
            x = activated(layer(x))
        return x


def normalised(x: Tensor) -> Tensor:
    """Rows (N, D) of root mean square 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled per row, and whose outputs have variance 1.

    (N, C, H, W), w (N, latent) -> (N, O, H, W), or twice as high and wide with `up`. Equal to
    convolving each row with weights of its own (Karras et al. 2020, arXiv:1912.04958, eq. 1 and
    3), which would need a group per row: here the activations are scaled before and after, so that
    one convolution serves any batch.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, latent: int, *, up: bool, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.scale = 1 / math.sqrt(c_in * kernel**2)
        self.style = ScaledLinear(latent, c_in, bias=1.0)
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, style = self.weight * self.scale, self.style(w)
        x = x * style[:, :, None, None]
        if self.up:
            x = resize_convolution(x, weight.transpose(0, 1).flip((2, 3)), None, 2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        if not self.demodulate:
            return x
        energy = style.square() @ weight.square().sum((2, 3)).T
        factors: Tensor = (energy + 1e-8).rsqrt()
        return x * factors[:, :, None, None]
