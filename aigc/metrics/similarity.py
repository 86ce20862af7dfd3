"""Similarity of images to the ones that they should be, pixel by pixel and window by window.

psnr(made, real)    # 34.4 dB
ssim(made, real)    # 0.97
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from aigc.metrics import TooFewRows

WINDOW = 11
"""Side of the window of SSIM, in pixels; no image may be smaller."""
SIGMA = 1.5
EQUAL_DB = 100.0
"""PSNR of equal images."""

Images = NDArray[np.float32]


def psnr(a: Images, b: Images, mask: Images | None = None) -> float:
    """Mean over images of 10 log10(2^2 / mean((a - b)^2)), images (N, C, H, W) in [-1, 1], clipped.

    The inner mean is over all pixels, or those where `mask` (N, 1, H, W) is 1. Equal images count
    as 100 dB. Raises TooFewRows if there are none.
    """
    _check(b)
    error = np.square(a.clip(-1, 1) - b).mean(1, keepdims=True)
    if mask is None:
        error = error.mean((1, 2, 3))
    else:
        error = (error * mask).sum((1, 2, 3)) / np.maximum(mask.sum((1, 2, 3)), 1)
    return float(np.minimum(EQUAL_DB, 10 * np.log10(4 / np.maximum(error, 1e-30))).mean())


def ssim(a: Images, b: Images) -> float:
    """Mean structural similarity of images (N, C, H, W) in [-1, 1], clipped; 1 if they are equal.

    For each window of 11x11 pixels, weighted by a Gaussian of standard deviation 1.5,

        (2 mu_a mu_b + C1) (2 sigma_ab + C2)
        / ((mu_a^2 + mu_b^2 + C1) (sigma_a^2 + sigma_b^2 + C2))

    with C1 = 0.01^2 and C2 = 0.03^2 of values in [0, 1], averaged over the windows that lie within
    the image, channels and images (Wang et al. 2004, Image Quality Assessment: From Error
    Visibility to Structural Similarity, III.B and C). Raises TooFewRows if there are no images, or
    they are smaller than the window.
    """
    _check(b)
    if min(b.shape[2:]) < WINDOW:
        height, width = b.shape[2:]
        raise TooFewRows(
            f"SSIM needs images of {WINDOW}x{WINDOW} or more, they are {height}x{width}"
        )
    return float(np.mean([_ssim(x, y) for x, y in zip(a, b, strict=True)]))


def _check(images: Images) -> None:
    if not len(images):
        raise TooFewRows("there are no test images")


def _ssim(a: Images, b: Images) -> float:
    """SSIM of one image, (C, H, W), in float64: the variances are small differences."""
    x, y = ((image.astype(np.float64).clip(-1, 1) + 1) / 2 for image in (a, b))
    mean_a, mean_b, aa, bb, ab = (_windows(image) for image in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    mean_ab, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    luminance = (2 * mean_ab + c1) / (squares + c1)
    structure = (2 * (ab - mean_ab) + c2) / (aa + bb - squares + c2)
    return float((luminance * structure).mean())


def _windows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means of the windows, (C, H, W) -> (C, H - 10, W - 10)."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    rows = sliding_window_view(x, WINDOW, 1) @ weights
    return sliding_window_view(rows, WINDOW, 2) @ weights
