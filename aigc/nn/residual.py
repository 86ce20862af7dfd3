"""Residual blocks without normalisation, for networks of pictures of any size.

Sizes are halved while both sides are even and above MIN_SIDE, and channels double with each
halving up to a most, so that widths fit the picture: 64 x 64 becomes 4 x 4, and 28 x 28 7 x 7.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc.config import require
from aigc.nn.layers import DiscriminatorHead, activation, check_image

Block = Literal["plain", "bottleneck"]
"""plain: two 3 x 3 convolutions, each after an activation (He et al. 2016, arXiv:1603.05027).
bottleneck: 1 x 1 to a wider layer, grouped 3 x 3, 1 x 1 back (Huang et al. 2024,
arXiv:2501.05441, appendix)."""
MIN_SIDE = 4
LARGEST_BASE = 7
"""Largest shorter side at which networks begin or end."""
EXPANSION = 2
"""Channels within a bottleneck, as a multiple of those outside."""
GROUP = 16
"""Channels of a group of the grouped convolution."""
GAIN = math.sqrt(2 / (1 + 0.2**2))
"""Gain that keeps the variance through a LeakyReLU of slope 0.2 (He et al. 2015, eq. 15)."""


def levels(shape: tuple[int, ...], width: int, widest: int) -> list[tuple[int, int, int]]:
    """(channels, height, width) from the picture's size down to the smallest.

    Channels are `width` at first. Raises ValueError naming the fields that do not fit.
    """
    check_image(shape)
    require(width > 0, f"width must be > 0, got {width}")
    require(widest >= width, f"widest must be >= width, here {width}, got {widest}")
    _, high, wide = shape
    found = [(width, high, wide)]
    while high % 2 == 0 and wide % 2 == 0 and min(high, wide) > MIN_SIDE:
        high, wide = high // 2, wide // 2
        found.append((min(widest, 2 * found[-1][0]), high, wide))
    require(
        min(high, wide) <= LARGEST_BASE,
        f"shape {shape} is halved to {high} x {wide} only, and networks begin at a shorter side of"
        f" at most {LARGEST_BASE}; take sides that are multiples of a power of two, such as 64",
    )
    return found


def scaled_(weight: Tensor, gain: float) -> None:
    """Normal weights of variance gain² / fan-in (He et al. 2015, arXiv:1502.01852)."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


def convolution(
    c_in: int, c_out: int, kernel: int, *, gain: float = 1.0, groups: int = 1, spectral: bool
) -> nn.Module:
    """A convolution that keeps the size, with bias 0."""
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups)
    scaled_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if spectral else layer


class ResidualBlock(nn.Module):
    """(N, width, H, W) to the same shape; x plus a branch that begins as 0 without spectral norm.

    Scales of the branch are those of Zhang et al. 2019 ("Fixup", arXiv:1901.09321, section 3) for
    a network of `depth` blocks. Spectral norm, which no zero has, replaces them.
    """

    def __init__(self, width: int, kind: Block, depth: int, spectral: bool) -> None:
        super().__init__()
        last = 1.0 if spectral else 0.0
        if kind == "plain":
            gain = GAIN * depth**-0.5
            first = convolution(width, width, 3, gain=gain, spectral=spectral)
            then = convolution(width, width, 3, gain=last, spectral=spectral)
            layers = [activation("leaky_relu"), first, activation("leaky_relu"), then]
        else:
            wide, gain = EXPANSION * width, GAIN * depth**-0.25
            groups = max(1, wide // GROUP) if wide % GROUP == 0 else 1
            layers = [
                convolution(width, wide, 1, gain=gain, spectral=spectral),
                activation("leaky_relu"),
                convolution(wide, wide, 3, gain=gain, groups=groups, spectral=spectral),
                activation("leaky_relu"),
                convolution(wide, width, 1, gain=last, spectral=spectral),
            ]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


class ResidualDownsampler(nn.Module):
    """(N, C, H, W) in [-1, 1] -> (N, features), `features` being the channels of the smallest size.

    1 x 1 convolutions change channels, means of 2 x 2 pixels halve. The smallest picture is
    weighted per channel and pixel, and summed; with spectral norm it is summed after an activation
    (Miyato et al. 2018, arXiv:1802.05957, table 4).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sizes: list[tuple[int, int, int]],
        blocks: int,
        kind: Block,
        spectral: bool,
    ) -> None:
        super().__init__()
        depth = blocks * len(sizes)
        layers = [convolution(shape[0], sizes[0][0], 3 if spectral else 1, spectral=spectral)]
        channels = sizes[0][0]
        for i, (width, _, _) in enumerate(sizes):
            layers += [nn.AvgPool2d(2)] if i else []
            if width != channels:
                layers.append(convolution(channels, width, 1, spectral=spectral))
                channels = width
            layers += [ResidualBlock(width, kind, depth, spectral) for _ in range(blocks)]
        self.features, high, wide = sizes[-1]
        self.layers = nn.Sequential(*layers)
        self.summed: nn.Module = nn.Sequential(activation("leaky_relu"), _Sum())
        if not spectral:
            self.summed = nn.Conv2d(channels, channels, (high, wide), groups=channels, bias=False)
            scaled_(self.summed.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.summed(self.layers(x)).flatten(1)  # type: ignore[no-any-return]


class ResidualDiscriminator(nn.Module):
    """(N, C, H, W) in [-1, 1], labels (N,) -> logits (N,), class logits or None."""

    def __init__(
        self, layers: ResidualDownsampler, num_classes: int, auxiliary: bool, spectral: bool
    ) -> None:
        super().__init__()
        self.layers = layers
        self.verdict = DiscriminatorHead(layers.features, num_classes, auxiliary, spectral)
        projection = self.verdict.projection
        if isinstance(projection, nn.Embedding) and not spectral:
            nn.init.normal_(projection.weight, std=layers.features**-0.5)

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.verdict(self.layers(x), label)  # type: ignore[no-any-return]


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))


def doubled(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2 H, 2 W), by bilinear interpolation."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
