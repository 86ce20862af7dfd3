"""Measures of sound: log-mel spectra, harmonicity, diversity, duration. Waves are (N, samples)."""

import numpy as np
from numpy.typing import NDArray

from aigc.metrics import TooFewRows
from aigc.nn.mel_scale import mel_triangles

BANDS = 32
FRAMES = 32
"""Frames of a log-mel picture, whatever the length of the clip."""
LOUD = 0.1
"""Amplitude from which a frame counts as sounding, relative to its clip's loudest frame."""
PITCH_HZ = (60.0, 500.0)

Waves = NDArray[np.float32]


def log_mel(waves: Waves, rate_hz: int) -> NDArray[np.float32]:
    """(N, BANDS, FRAMES) natural log of mel-band energies, 1e-3 added to them.

    Mel scale of O'Shaughnessy 1987: 2595 log10(1 + f / 700 Hz). Windows of 32 ms.
    """
    size = int(0.032 * rate_hz)
    power = np.abs(np.fft.rfft(_frames(waves, size, FRAMES) * np.hanning(size), axis=2)) ** 2
    bands = power @ mel_triangles(size, rate_hz, BANDS).T / size
    return np.asarray(np.log(bands + 1e-3).transpose(0, 2, 1), np.float32)


def pooled(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, bands, frames) -> (N, 8 bands): means over eighths of the time, for Fréchet distances."""
    means = mel.reshape(*mel.shape[:2], 8, mel.shape[2] // 8).mean(3)
    return np.asarray(means.reshape(len(mel), 8 * mel.shape[1]), np.float32)


def harmonicity(waves: Waves, rate_hz: int) -> NDArray[np.float64]:
    """(N,) mean over sounding frames of the strongest normalised autocorrelation at a pitch's lag.

    1 for a periodic sound, low for noise and whispering; after Boersma 1993, "Accurate short-term
    analysis of the fundamental frequency and the harmonics-to-noise ratio": the autocorrelation of
    a windowed frame over that of the window.
    """
    size = int(0.04 * rate_hz)
    window = np.hanning(size)
    frames = _frames(waves, size, 2 * waves.shape[1] // size)
    frames = (frames - frames.mean(2, keepdims=True)) * window
    lags = slice(int(rate_hz / PITCH_HZ[1]), int(rate_hz / PITCH_HZ[0]) + 1)
    own = _autocorrelation(window[None])[0]
    correlation = _autocorrelation(frames)
    level = np.sqrt(correlation[:, :, 0])
    loud = level > LOUD * level.max(1, keepdims=True)
    normal = correlation / np.maximum(correlation[:, :, :1], 1e-9) / (own / own[0])
    # At lags beyond half of the window little of it overlaps, and noise looks like pitch.
    lags = slice(lags.start, min(lags.stop, size // 2))
    strongest = normal[:, :, lags].max(2).clip(0, 1)
    weight = loud / np.maximum(loud.sum(1, keepdims=True), 1)
    return np.asarray((strongest * weight).sum(1))


def _autocorrelation(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    size = frames.shape[-1]
    power = np.abs(np.fft.rfft(frames, 2 * size, axis=-1)) ** 2
    return np.asarray(np.fft.irfft(power, axis=-1)[..., :size])


def duration_s(waves: Waves, rate_hz: int) -> NDArray[np.float64]:
    """(N,) seconds from the first to the last sample above 2 % of the clip's peak."""
    loud = np.abs(waves) > 0.02 * np.maximum(np.abs(waves).max(1, keepdims=True), 1e-9)
    first, behind = loud.argmax(1), loud.shape[1] - loud[:, ::-1].argmax(1)
    return np.where(loud.any(1), behind - first, 0) / rate_hz


def diversity(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean over classes of the root mean square distance of features (N, ...) from their mean.

    Raises TooFewRows unless some class has two rows.
    """
    if len(np.unique(labels)) == len(labels):
        raise TooFewRows(f"no class has two rows to differ, of {len(labels)}")
    flat = features.reshape(len(features), -1)
    spreads = [
        np.sqrt(((own - own.mean(0)) ** 2).sum(1).mean())
        for own in (flat[labels == label] for label in np.unique(labels))
    ]
    return float(np.mean(spreads))


def spectrograms(waves: Waves, rate_hz: int) -> NDArray[np.uint8]:
    """(N, height, width) pictures: time to the right, frequency up to rate / 2, a pixel per bin.

    Windows of 48 ms, long enough that the harmonics of a voice are lines; white is the loudest of
    a clip, black 54 dB below. Few shades, so that a PNG of them is small.
    """
    size = int(0.048 * rate_hz) // 2 * 2
    frames = _frames(waves, size, 64) * np.hanning(size)
    magnitude = np.abs(np.fft.rfft(frames, axis=2))[:, :, : size // 2]
    loudest = np.maximum(magnitude.max((1, 2), keepdims=True), 1e-9)
    level = 1 + np.log10(np.maximum(magnitude / loudest, 1e-9)) * (20 / 54)
    shades = np.rint(level.clip(0, 1) * 15) * 17
    return np.ascontiguousarray(shades.transpose(0, 2, 1)[:, ::-1], np.uint8)


def _frames(waves: Waves, size: int, count: int) -> NDArray[np.float64]:
    """(N, count, size): `count` stretches of `size` samples, evenly spread."""
    padded = np.pad(waves, ((0, 0), (size // 2, size // 2))).astype(np.float64)
    starts = np.linspace(0, padded.shape[1] - size, count).astype(int)
    return padded[:, starts[:, None] + np.arange(size)]
