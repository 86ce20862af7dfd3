"""Checks of recordings of one channel, of different lengths, and of pairs that are compared."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc.config import require

Wave = NDArray[np.floating]
"""(samples,) of about [-1, 1]."""
Recordings = Sequence[Wave]


def check_rate(rate_hz: int) -> None:
    """Raise ValueError unless the rate is above 0."""
    require(rate_hz > 0, f"the sample rate must be > 0 Hz, got {rate_hz}")


def check(waves: Recordings, called: str = "recordings") -> None:
    """Raise ValueError unless all are (samples,) of finite numbers, with a sample at least."""
    for i, wave in enumerate(waves):
        shape = np.shape(wave)
        require(
            len(shape) == 1 and shape[0] > 0,
            f"{called} must be arrays (samples,) of one channel, number {i} is {shape}",
        )
        require(
            bool(np.isfinite(wave).all()),
            f"{called} must be finite, number {i} holds NaN or infinity",
        )


def check_pairs(real: Recordings, made: Recordings) -> None:
    """Raise ValueError unless each recording has one of the same length beside it."""
    require(
        len(real) == len(made),
        f"there must be a made recording for each real one, got {len(made)} for {len(real)}",
    )
    check(real, "real recordings")
    check(made, "made recordings")
    for i, (a, b) in enumerate(zip(real, made, strict=True)):
        require(
            len(a) == len(b),
            f"pairs must be equally long, number {i} has {len(a)} real samples and {len(b)} made"
            " ones: cut the made one, or take away its delay",
        )
