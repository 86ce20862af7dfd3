"""Encoder and decoder of pictures as maps of vectors, one for each patch of pixels.

No layer mixes distant places or normalises over them, so parts of a picture are coded as they are
in the whole. Weights begin so that the variance of what passes is kept.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from aigc.config import require
from aigc.nn.layers import check_image, check_positive

RESIDUAL = 0.3
"""Share of a residual branch in its block at the start."""


class Conv(nn.Conv2d):
    """Convolution that keeps the variance of independent inputs; the size too, for stride 1.

    He et al. 2015, arXiv:1502.01852, eq. 10, for inputs that are not rectified.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=(kernel - stride) // 2)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class Block(nn.Module):
    """Residual block of two convolutions; normalisation would tie distant places together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width), Conv(width, width)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.normal_(self.second.weight, std=RESIDUAL * (2 / (9 * width)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))  # type: ignore[no-any-return]


class Encoder(nn.Sequential):
    """(N, channels, H, W) -> (N, features, H / factor, W / factor).

    The first convolution divides by `patch`, one before each further width by 2.
    """

    def __init__(
        self, channels: int, patch: int, widths: tuple[int, ...], blocks: int, features: int
    ) -> None:
        layers: list[nn.Module] = [Conv(channels, widths[0], 2 * patch, patch)]
        for i, width in enumerate(widths):
            layers += [Conv(widths[i - 1], width, 2, 2)] if i else []
            layers += [Block(width) for _ in range(blocks)]
        super().__init__(*layers, nn.SiLU(), Conv(widths[-1], features))


class Decoder(nn.Module):
    """(N, features, h, w) -> (N, channels, h * factor, w * factor): an Encoder backwards.

    `last` is the convolution to pixels.
    """

    def __init__(
        self, channels: int, patch: int, widths: tuple[int, ...], blocks: int, features: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(features, widths[-1])]
        for i, width in reversed(list(enumerate(widths))):
            layers += [Block(width) for _ in range(blocks)]
            if i:
                layers += [Conv(width, 4 * widths[i - 1], 1), nn.PixelShuffle(2)]
        self.network = nn.Sequential(*layers, nn.SiLU())
        self.last = Conv(widths[0], channels * patch**2)
        self.to_pixels = nn.PixelShuffle(patch)

    def forward(self, z: Tensor) -> Tensor:
        return self.pixels(self.network(z))

    def pixels(self, features: Tensor) -> Tensor:
        """The picture of what comes before the last convolution."""
        return self.to_pixels(self.last(features))  # type: ignore[no-any-return]


def check_sizes(shape: tuple[int, ...], patch: int, widths: tuple[int, ...], smallest: int) -> None:
    """Raise ValueError unless pictures (C, H, W) are coded in `smallest` places a side at least."""
    check_image(shape)
    require(len(widths) > 0, "widths must have an entry per size, got none")
    check_positive("widths", widths)
    require(patch > 0 and patch % 2 == 0, f"patch must be 2, 4, ..., got {patch}")
    factor = patch << (len(widths) - 1)
    for name, size in (("height", shape[1]), ("width", shape[2])):
        require(
            size % factor == 0 and size >= smallest * factor,
            f"shape {shape}: patch {patch} and {len(widths)} widths divide by {factor}, so the"
            f" {name} must be a multiple of {factor} from {smallest * factor} on",
        )
