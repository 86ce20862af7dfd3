"""What several sources of sound share: resampling, trimming, and crops of the model's length."""

import math

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import sound


def clip(wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 at one rate -> (1, length) at another, in [-1, 1].

    Its silence, length and peak are those of sound.fitted().
    """
    return sound.fitted(resampled(wave, rate_hz, to_hz), to_hz, length)[None]


def resampled(wave: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """(n,) at one rate -> (m,) at another, by a polyphase filter."""
    if rate_hz == to_hz:
        return np.asarray(wave, np.float32)
    from scipy.signal import resample_poly

    shared = math.gcd(rate_hz, to_hz)
    moved = resample_poly(wave.astype(np.float64), to_hz // shared, rate_hz // shared)
    return np.asarray(moved, np.float32)


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless `shape` is that of a sound of one channel."""
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"data {name!r} gives sound of shape (1, samples), the model wants {shape};"
            " take spectrogram_gan, or set --model.shape 1 4096"
        )
