"""What several sources of sound share: resampling, trimming, and crops of the model's length."""

import math

import numpy as np
from numpy.typing import NDArray

PEAK = 0.95
"""Largest absolute value of a clip: loudness is no clue to its class."""
SILENCE = 0.01
"""What lies below this share of the peak, before and after, is cut away."""
MARGIN_S = 0.005
"""Left standing of it on both sides."""


def clip(wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int) -> NDArray[np.float32]:
    """(n,) float32 at one rate -> (1, length) at another, in [-1, 1].

    Silence around it is cut away; it is cut off or filled up with zeros at its end; then its peak
    is brought to PEAK.
    """
    wave = resampled(wave, rate_hz, to_hz)
    level = np.abs(wave)
    peak = float(level.max(initial=0))
    out = np.zeros((1, length), np.float32)
    if peak > 0:
        loud = np.flatnonzero(level > SILENCE * peak)
        margin = int(MARGIN_S * to_hz)
        wave = wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin][:length]
        out[0, : len(wave)] = wave * np.float32(PEAK / np.abs(wave).max())
    return out


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
