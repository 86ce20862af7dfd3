"""Multi-resolution STFT distance (Yamamoto et al. 2020, Parallel WaveGAN, arXiv:1910.11480)."""

import math

import numpy as np

from aigc.config import require
from aigc.metrics.recordings import Recordings, Wave, check_pairs, check_rate
from aigc.metrics.short_time import samples_in, spectra

WINDOWS_S = (0.016, 0.032, 0.064)
"""Lengths of the Hann windows; the hop of each is a quarter."""
SILENT = 1e-3
"""Peak of a recording below which it is silence: -60 dB below full scale."""
FLOOR = 1e-7
"""Power below which all is as loud."""


def stft_distance(real: Wave, made: Wave, window: int, hop: int, floor: float = FLOOR) -> float:
    """Spectral convergence + log magnitude distance of waves (samples,), at one resolution.

    ‖|S| - |Ŝ|‖ / ‖|S|‖ by Frobenius norms (eq. 4) + the mean of |log|S| - log|Ŝ|| over bins and
    frames (eq. 5), S the spectrum of the real one. 0 for equal waves.
    """
    a, b = (
        np.sqrt(np.maximum(np.square(np.abs(spectra(wave, window, hop))), floor))
        for wave in (real, made)
    )
    convergence = np.linalg.norm(a - b) / np.linalg.norm(a)
    return float(convergence + np.abs(np.log(a) - np.log(b)).mean())


def multi_resolution_distances(
    real: Recordings, made: Recordings, rate_hz: int, windows_s: tuple[float, ...] = WINDOWS_S
) -> list[float]:
    """stft_distance() of each pair, the mean over windows (eq. 6).

    NaN where the real one, by whose size it is divided, is below SILENT. Raises ValueError for
    pairs of different lengths, and windows below four samples.
    """
    check_rate(rate_hz)
    check_pairs(real, made)
    windows = [samples_in(seconds, rate_hz) for seconds in windows_s]
    require(
        len(windows) > 0 and min(windows) >= 4,
        f"windows must hold four samples at least, got {windows_s} s at {rate_hz} Hz",
    )
    return [
        float(np.mean([stft_distance(a, b, window, window // 4) for window in windows]))
        if np.abs(a).max(initial=0) >= SILENT
        else math.nan
        for a, b in zip(real, made, strict=True)
    ]
