"""Correlation of the spectral fine structure: harmonics that are where the real ones are.

Defined here, there is no standard. Log power spectra of 64 ms Hann windows above 1.2 kHz are taken
apart by a discrete cosine transform along frequency. Coefficients of ripples whose period is within
the range of a voice's pitch, 60 to 500 Hz, are the fine structure; broader ripples are the smooth
envelope (formants), narrower ones noise, and both are dropped. Of the frames that are voiced in the
real recording, the correlation is Σ a b / √(Σ a² Σ b²) over all coefficients and frames: 1 for
equal recordings, about 0 for a spectrum of noise under the right envelope.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics.pitch import HOP_S, RANGE_HZ
from aigc.metrics.recordings import Wave, check_rate
from aigc.metrics.short_time import samples_in, spectra

FROM_HZ = 1200.0
TO_HZ = 4000.0
"""Harmonics are looked for up to here, or half the rate."""
WINDOW_S = 0.064
ROUNDING = 1e-12
"""Coefficients below, relative to the largest logarithm, are 0."""
FLOOR_DB = -80.0
"""Power that is added, relative to the strongest bin of a recording."""


def fine_structure(wave: Wave, rate_hz: int) -> NDArray[np.float64]:
    """(samples,) -> (frames, coefficients), a frame every 10 ms. Raises ValueError for a rate
    below 3.4 kHz, of which too little lies above 1.2 kHz."""
    from scipy.fft import dct

    check_rate(rate_hz)
    top_hz = min(TO_HZ, rate_hz / 2)
    require(
        top_hz >= FROM_HZ + RANGE_HZ[1],
        f"fine structure above {FROM_HZ:g} Hz needs a rate of {2 * (FROM_HZ + RANGE_HZ[1]):g} Hz,"
        f" got {rate_hz}",
    )
    window = samples_in(WINDOW_S, rate_hz)
    power = np.square(np.abs(spectra(wave, window, samples_in(HOP_S, rate_hz))))
    power = power + max(float(power.max()) * 10 ** (FLOOR_DB / 10), 1e-20)
    hz = np.fft.rfftfreq(window, 1 / rate_hz)
    band = np.log(power[:, (hz >= FROM_HZ) & (hz <= top_hz)])
    # Coefficient k is a cosine of k half periods over the band.
    width_hz = band.shape[1] * rate_hz / window
    period_hz = 2 * width_hz / np.arange(1, band.shape[1])
    kept = (period_hz >= RANGE_HZ[0]) & (period_hz <= RANGE_HZ[1])
    found = np.asarray(dct(band, axis=1, norm="ortho")[:, 1:][:, kept])
    # Of a flat spectrum, as silence has, rounding would be left.
    return np.where(np.abs(found) > ROUNDING * np.abs(band).max(initial=0), found, 0.0)


@dataclass(frozen=True)
class FineStructure:
    """Sums of products of the fine structures of pairs, of one recording or several added up."""

    cross: float = 0.0
    real: float = 0.0
    made: float = 0.0

    @classmethod
    def of(
        cls, real: NDArray[np.float64], made: NDArray[np.float64], voiced: NDArray[np.bool_]
    ) -> "FineStructure":
        """Sums of two results of fine_structure(), in the frames (frames,) that are voiced."""
        a, b = real[voiced], made[voiced]
        return cls(float((a * b).sum()), float((a * a).sum()), float((b * b).sum()))

    @classmethod
    def total(cls, parts: Iterable["FineStructure"]) -> "FineStructure":
        """Sum over recordings."""
        listed = [(one.cross, one.real, one.made) for one in parts]
        return cls(*(sum(column) for column in zip(*listed, strict=True)))

    @property
    def correlation(self) -> float:
        """In [-1, 1]; 0 of something that has no fine structure, NaN if the real one has none."""
        if not self.real:
            return np.nan
        return self.cross / np.sqrt(self.real * self.made) if self.made else 0.0
