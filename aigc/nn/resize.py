"""Upsampling followed by a convolution, against the checkerboards of transposed convolutions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResizeConv2d(nn.Module):
    """Nearest-neighbour upsampling by `scale`, then a convolution that keeps the size (Odena et al.
    2016, "Deconvolution and checkerboard artifacts"): (N, C, H, W) -> (N, O, scale·H, scale·W).

    It is computed as the transposed convolution whose kernel is this one summed over the repeated
    pixels, which equals it, at the borders too, and takes less than half of the time. The size of
    the kernel is odd.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, scale: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.scale = scale
        bound = 1 / math.sqrt(c_in * kernel**2)
        self.weight = nn.Parameter(torch.empty(c_in, c_out, kernel, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(c_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return resize_convolution(x, self.weight, self.bias, self.scale)


def resize_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, scale: int) -> Tensor:
    """ResizeConv2d with a weight (C, O, k, k), mirrored as those of transposed convolutions are."""
    kernel = F.avg_pool2d(F.pad(weight, (scale - 1,) * 4), scale, stride=1) * scale**2
    return F.conv_transpose2d(x, kernel, bias, scale, weight.shape[2] // 2)
