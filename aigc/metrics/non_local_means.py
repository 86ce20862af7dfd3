"""Non-local means, the classic method that a learned denoiser is compared with."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Images = NDArray[np.float32]

PATCH, DISTANCE, STRENGTH = 5, 6, 0.8
"""Side of a patch, how far away patches are looked for, and the cut-off relative to the noise."""
BATCH = 64


def denoised(images: Images, sigma: float) -> Images:
    """Images (N, C, H, W) in [-1, 1] without noise of the standard deviation `sigma`.

    A pixel becomes the mean of those up to six places away, each by the likeness of the 5x5 pixels
    around: weight exp(-max(d - 2 sigma^2, 0) / (0.8 sigma)^2), d the mean of their square
    differences under a Gaussian of standard deviation 1 (Buades, Coll & Morel 2005, A non-local
    algorithm for image denoising). Patches are mirrored beyond the edges of an image, and no
    pixel is looked for there.
    """
    parts = [
        _denoised(torch.from_numpy(images[i : i + BATCH]), sigma).numpy()
        for i in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts) if parts else images


def _denoised(x: Tensor, sigma: float) -> Tensor:
    height, width = x.shape[2:]
    half = PATCH // 2
    bell = (-torch.arange(-half, half + 1.0).square() / 2).exp()
    bell /= bell.sum()
    own = F.pad(x, [half] * 4, mode="reflect")
    wide = F.pad(own, [DISTANCE] * 4)
    inside = F.pad(torch.ones_like(x[:1, :1]), [DISTANCE] * 4)
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for top in range(2 * DISTANCE + 1):
        for left in range(2 * DISTANCE + 1):
            other = wide[:, :, top : top + height + 2 * half, left : left + width + 2 * half]
            unlike = (own - other).square().mean(1, keepdim=True)
            unlike = F.conv2d(F.conv2d(unlike, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
            weight = (-(unlike - 2 * sigma**2).clamp_min(0) / (STRENGTH * sigma) ** 2).exp()
            weight = weight * inside[:, :, top : top + height, left : left + width]
            total += weight * other[:, :, half:-half, half:-half]
            weights += weight
    return total / weights
