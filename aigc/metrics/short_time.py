"""Short-time spectra of a recording of any length: Hann windows, centred on multiples of a hop."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics.recordings import Wave


@lru_cache(maxsize=16)
def hann(size: int) -> NDArray[np.float64]:
    """The periodic Hann window (size,), as torch.hann_window() has it."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))


def framed(wave: Wave, size: int, hop: int, *, mirrored: bool = True) -> NDArray[np.float64]:
    """(samples,) -> (1 + samples // hop, size): stretches centred on multiples of the hop.

    Beyond its ends the recording is mirrored, or silent. Raises ValueError for a size or hop below
    1.
    """
    require(size >= 1 and hop >= 1, f"window and hop must be >= 1 sample, got {size} and {hop}")
    before = size // 2
    ends = (before, size - before)
    x = np.asarray(wave, np.float64)
    padded = np.pad(x, ends, mode="reflect") if mirrored else np.pad(x, ends)
    return np.lib.stride_tricks.sliding_window_view(padded, size)[: len(wave) + 1 : hop]


def spectra(wave: Wave, window: int, hop: int) -> NDArray[np.complex128]:
    """(samples,) -> (1 + samples // hop, window // 2 + 1), as torch.stft() but for the order of
    axes."""
    return np.fft.rfft(framed(wave, window, hop) * hann(window), axis=1)


def samples_in(seconds: float, rate_hz: int) -> int:
    """Number of samples in a time, rounded."""
    return round(seconds * rate_hz)
