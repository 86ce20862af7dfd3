"""Distance of mel spectra: the loss of Kong et al. 2020 (HiFi-GAN, arXiv:2010.05646, eq. 5)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics.recordings import Recordings, Wave, check_pairs, check_rate
from aigc.metrics.short_time import samples_in, spectra
from aigc.nn.mel_scale import mel_triangles


@dataclass(frozen=True, kw_only=True)
class Mel:
    """A mel spectrum: magnitudes of Hann windows, summed in triangular bands from 0 to rate / 2.

    Mel scale of O'Shaughnessy 1987: 2595 log10(1 + f / 700 Hz). The peak of a band's triangle is 1,
    and a sine of amplitude 1 has magnitude 1 at its bin. Raises ValueError for bands without a bin.
    """

    rate_hz: int
    window_s: float = 0.04
    hop_s: float = 0.01
    bands: int = 40
    floor: float = 1e-5
    """Magnitude below which all is as loud; -100 dB of full scale."""

    def __post_init__(self) -> None:
        check_rate(self.rate_hz)
        require(self.bands >= 1, f"bands must be >= 1, got {self.bands}")
        require(self.floor > 0, f"floor must be > 0, got {self.floor}")
        require(
            self.window >= 2 and self.hop >= 1,
            f"window_s and hop_s must hold samples, got {self.window_s} and {self.hop_s} s at"
            f" {self.rate_hz} Hz",
        )
        empty = np.flatnonzero(self.filters.sum(1) == 0)
        require(
            not len(empty),
            f"of {self.bands} bands {len(empty)} hold no bin of a window of {self.window_s} s;"
            " take fewer bands or a longer window",
        )

    @property
    def window(self) -> int:
        """Samples of a window."""
        return samples_in(self.window_s, self.rate_hz)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return samples_in(self.hop_s, self.rate_hz)

    @property
    def filters(self) -> NDArray[np.float64]:
        """(bands, window // 2 + 1) weights of the bins."""
        return mel_triangles(self.window, self.rate_hz, self.bands)

    def magnitude(self, wave: Wave) -> NDArray[np.float64]:
        """(samples,) -> (frames, bands) >= 0; frames = 1 + samples // hop."""
        linear = np.abs(spectra(wave, self.window, self.hop)) * (4 / self.window)
        return linear @ self.filters.T

    def log(self, wave: Wave) -> NDArray[np.float64]:
        """(samples,) -> (frames, bands): natural log of the magnitudes, not below the floor."""
        return np.log(np.maximum(self.magnitude(wave), self.floor))


def log_mel_differences(real: Wave, made: Wave, mel: Mel) -> NDArray[np.float64]:
    """(frames,) mean over bands of |log mel(real) - log mel(made)|, of waves (samples,)."""
    return np.asarray(np.abs(mel.log(real) - mel.log(made)).mean(1))


def mel_distance(real: Recordings, made: Recordings, mel: Mel) -> float:
    """Mean over all frames and bands of |log mel(real) - log mel(made)|, in nepers; 0 for equal
    ones. Raises ValueError for pairs of different lengths, or none."""
    check_pairs(real, made)
    require(len(real) > 0, "a mel distance needs a recording, got none")
    pairs = zip(real, made, strict=True)
    return float(np.concatenate([log_mel_differences(a, b, mel) for a, b in pairs]).mean())
