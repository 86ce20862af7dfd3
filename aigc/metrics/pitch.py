"""Pitch by YIN (de Cheveigné & Kawahara 2002, JASA 111), and its errors."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics.recordings import Wave, check_rate
from aigc.metrics.short_time import framed, samples_in

RANGE_HZ = (60.0, 500.0)
HOP_S = 0.01
INTEGRATED_S = 0.025
"""Time over which a period is compared with the one before, the paper's W."""
THRESHOLD = 0.15
"""Aperiodicity below which the shortest period is taken, before deeper dips of longer ones."""
VOICED = 0.3
"""Aperiodicity below which a frame is voiced, about its share of power that is not periodic."""
LOUD_DB = -40.0
"""Power from which a frame can be voiced, relative to the loudest frame of its recording."""
GROSS = 0.2
"""Deviation of F0 from which an error is gross."""


@dataclass(frozen=True)
class Pitch:
    """Pitch of a recording, a frame every HOP_S from its start on."""

    f0_hz: NDArray[np.float64]
    """(frames,); of unvoiced frames the best guess."""
    voiced: NDArray[np.bool_]
    """(frames,)."""


def pitch(wave: Wave, rate_hz: int, range_hz: tuple[float, float] = RANGE_HZ) -> Pitch:
    """F0 of each frame of a recording (samples,), by steps 1 to 5 of YIN.

    1 + samples // hop frames. Raises ValueError for a range that is empty, or above a quarter of
    the rate, where periods are too few samples.
    """
    check_rate(rate_hz)
    low_hz, high_hz = range_hz
    require(
        0 < low_hz < high_hz <= rate_hz / 4,
        f"a pitch range must rise within (0, {rate_hz / 4:g}] Hz at {rate_hz} Hz, got {range_hz}",
    )
    integrated, hop = samples_in(INTEGRATED_S, rate_hz), max(1, samples_in(HOP_S, rate_hz))
    longest = int(np.ceil(rate_hz / low_hz)) + 1
    shortest = int(rate_hz / high_hz)
    frames = framed(wave, integrated + longest, hop, mirrored=False)
    normal = _normalised_differences(frames, integrated, longest)
    lag = _first_dips(normal, shortest)
    at = np.arange(len(frames))
    before, here, after = normal[at, lag - 1], normal[at, lag], normal[at, lag + 1]
    curve = before - 2 * here + after
    shift = np.divide(before - after, 2 * curve, out=np.zeros_like(curve), where=curve > 0)
    shift = shift.clip(-0.5, 0.5)
    power = np.square(frames).mean(1)
    loud = power > max(float(power.max()) * 10 ** (LOUD_DB / 10), 1e-12)
    aperiodicity = here - (before - after) * shift / 4
    return Pitch(rate_hz / (lag + shift), loud & (aperiodicity < VOICED))


def _normalised_differences(
    frames: NDArray[np.float64], integrated: int, longest: int
) -> NDArray[np.float64]:
    """d'(τ) for τ = 0 to `longest` (eq. 6 and 8): (N, longest + 1) of frames (N, integrated +
    longest). The sum of (x_j - x_(j + τ))² over the first `integrated` j, by Fourier transform."""
    size = 1 << int(np.ceil(np.log2(frames.shape[1] + integrated)))
    head = np.fft.rfft(frames[:, :integrated], size, axis=1)
    product = np.fft.irfft(np.fft.rfft(frames, size, axis=1) * head.conj(), size, axis=1)
    energy = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    energy = energy[:, integrated:] - energy[:, :-integrated]
    difference = energy[:, :1] + energy - 2 * product[:, : longest + 1]
    # Rounding of the transform must not make silence look periodic.
    difference = difference.clip(1e-9 * energy[:, :1] + 1e-12)
    difference[:, 0] = 0
    lags = np.arange(1, longest + 1)
    normal = difference[:, 1:] * lags / np.cumsum(difference[:, 1:], axis=1)
    return np.concatenate([np.ones((len(frames), 1)), normal], axis=1)


def _first_dips(normal: NDArray[np.float64], shortest: int) -> NDArray[np.int64]:
    """(N,) the first local minimum of d' below THRESHOLD from lag `shortest` on, else the lowest
    value."""
    inner = normal[:, shortest:-1]
    falls = (inner <= normal[:, shortest - 1 : -2]) & (inner < normal[:, shortest + 1 :])
    dips = falls & (inner < THRESHOLD)
    found = np.where(dips.any(1), dips.argmax(1), inner.argmin(1))
    return np.asarray(found + shortest, np.int64)


@dataclass(frozen=True)
class PitchErrors:
    """Sums over frames, of one recording or of several added up."""

    frames: int = 0
    both: int = 0
    """Frames voiced in both."""
    voicing: int = 0
    """Frames voiced in one alone."""
    gross: int = 0
    """Frames voiced in both whose F0 differ by more than GROSS of the real one."""
    square_cents: float = 0.0
    """Sum over frames voiced in both; an octave is 1,200 cents."""

    @classmethod
    def of(cls, real: Pitch, made: Pitch) -> "PitchErrors":
        """Errors of a recording. Raises ValueError for another number of frames."""
        require(
            len(real.voiced) == len(made.voiced),
            f"pitches must have equally many frames, got {len(real.voiced)} and {len(made.voiced)}",
        )
        both = real.voiced & made.voiced
        ratio = made.f0_hz[both] / real.f0_hz[both]
        return cls(
            len(both),
            int(both.sum()),
            int((real.voiced ^ made.voiced).sum()),
            int((np.abs(ratio - 1) > GROSS).sum()),
            float(np.square(1200 * np.log2(ratio)).sum()),
        )

    @classmethod
    def total(cls, parts: Iterable["PitchErrors"]) -> "PitchErrors":
        """Sum over recordings."""
        listed = [(e.frames, e.both, e.voicing, e.gross, e.square_cents) for e in parts]
        return cls(*(sum(column) for column in zip(*listed, strict=True)))

    @property
    def rmse_cents(self) -> float:
        """Root of the mean square error of F0 over frames voiced in both; NaN without any."""
        return float(np.sqrt(self.square_cents / self.both)) if self.both else np.nan

    @property
    def gross_share(self) -> float:
        """Gross pitch error: share of frames voiced in both with a gross error (Nakatani et al.
        2008, Speech Communication 50); NaN without any."""
        return self.gross / self.both if self.both else np.nan

    @property
    def voicing_share(self) -> float:
        """Voicing decision error: share of all frames voiced in one alone (Nakatani et al. 2008);
        NaN without frames."""
        return self.voicing / self.frames if self.frames else np.nan
