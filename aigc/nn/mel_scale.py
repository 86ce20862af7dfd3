"""Triangular bands, even on the mel scale of O'Shaughnessy 1987: 2595 log10(1 + f / 700 Hz)."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=32)
def mel_triangles(size: int, rate_hz: int, bands: int) -> NDArray[np.float64]:
    """(bands, size // 2 + 1): weights of the frequencies of a window of `size` samples, from 0 to
    half the rate, 1 at the peak of a band; 0 all over for a band between two frequencies."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + rate_hz / 2 / 700), bands + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    low, middle, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    return np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)).clip(0)
