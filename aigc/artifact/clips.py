"""Clips: recordings in the form in which models take them, of one rate, loudness and length."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import audio_files
from aigc.artifact.axes import NO_AXES, Axis, Shape, bounds, nearest, solved
from aigc.artifact.preprocessing import AUDIO, AudioPreprocessing
from aigc.artifact.resampling import polyphase

PEAK = AUDIO.peak
"""Largest absolute value of a clip; the same for all, so that loudness does not reveal a class."""
SILENCE = AUDIO.silence
"""Fraction of the peak below which sound is cut off at both ends."""
MARGIN_S = AUDIO.margin_s
"""Seconds of it that remain on both sides."""
FAINT = 1e-7
"""Peak below which a clip is silence: one level of 24 bits; dividing by less overflows floats."""
LEAD_S = 0.5
"""Seconds of a long recording kept on both sides of the part that a clip can come from."""


def row(
    data: bytes,
    shape: Shape,
    to_hz: int,
    reading: AudioPreprocessing = AUDIO,
    max_samples: int = audio_files.MAX_SAMPLES,
    axes: Mapping[str, Axis] = NO_AXES,
) -> NDArray[np.float32]:
    """A WAV, AIFF or FLAC -> (channels, length) float32 in [-1, 1], the input of a model.

    Each channel is converted by clip(). A length that is an expression of `axes` is that of the
    clip, as far as it is allowed. Raises ValueError for a file that cannot be read or has
    other channels than the model, and for more than `max_samples` samples at either rate.
    """
    found = audio_files.read_sound(data, max_samples, reading.overload)
    channels, most = bounds(axes, shape)[1]
    num_channels, n = found.samples.shape
    if not n and reading.empty == "refused":
        raise ValueError("it holds no samples")
    if channels not in (1, num_channels):
        raise ValueError(f"it has {num_channels} channels, {channels} are wanted")
    waves = found.samples.mean(0)[None] if channels == 1 else found.samples
    if reading.resampling == "polyphase" or most > max_samples:  # of the whole, or nearly so
        audio_files.check_count(waves.size * to_hz // found.rate_hz, max_samples, f" at {to_hz} Hz")
    clips = [clip(wave, found.rate_hz, to_hz, most, reading, pad=not axes) for wave in waves]
    if not axes:
        return np.stack(clips)
    heard_for = max(map(len, clips))
    length = nearest(axes, shape[1:], (heard_for,), up=True)[0]
    if reading.sizing != "nearest" and length != heard_for:
        solved(axes, shape[1:], (heard_for,))  # raises
    return np.stack([_padded(one, length) for one in clips])


def clip(
    wave: NDArray[np.float32],
    rate_hz: int,
    to_hz: int,
    length: int,
    reading: AudioPreprocessing = AUDIO,
    *,
    pad: bool = True,
) -> NDArray[np.float32]:
    """Resample and fit: (n,) float32 at one rate -> (length,) in [-1, 1] at another.

    Without `pad` a short clip keeps its length.
    """
    if reading.resampling == "polyphase":
        wave = polyphase(wave, rate_hz, to_hz)
    else:
        kept = reading.level == "kept"
        wave = resampled(heard(wave, rate_hz, to_hz, length, at_once=kept), rate_hz, to_hz)
    wave = trimmed(wave, to_hz, length, reading)
    return _padded(wave, length) if pad else wave


def fitted(
    wave: NDArray[np.float32], rate_hz: int, length: int, reading: AudioPreprocessing = AUDIO
) -> NDArray[np.float32]:
    """(n,) float32 -> (length,) in [-1, 1], the form in which models take a clip.

    Silence at both ends is cut off, the rest is cut or zero-padded at its end, and its peak is
    scaled to that of the preprocessing, unless that keeps the level.
    """
    return _padded(trimmed(wave, rate_hz, length, reading), length)


def trimmed(
    wave: NDArray[np.float32], rate_hz: int, length: int, reading: AudioPreprocessing
) -> NDArray[np.float32]:
    """fitted() without the zeros at its end: at most `length` samples, none of silence.

    Where the preprocessing keeps the level, the first `length` samples as they are, clipped at 1.
    """
    if reading.level == "kept":
        return wave[:length].clip(-1, 1)
    level = np.abs(wave)
    peak = float(level.max(initial=0))
    if peak < FAINT:
        return np.zeros(0, np.float32)
    loud = np.flatnonzero(level > reading.silence * peak)
    margin = int(reading.margin_s * rate_hz)
    wave = wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin][:length]
    return wave * np.float32(reading.peak / np.abs(wave).max())


def _padded(wave: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """(n,) with n <= length -> (length,) with zeros at its end."""
    out = np.zeros(length, np.float32)
    out[: len(wave)] = wave
    return out


def heard(
    wave: NDArray[np.float32], rate_hz: int, to_hz: int, length: int, *, at_once: bool = False
) -> NDArray[np.float32]:
    """(n,) float32 -> the part of a recording that determines its clip of `length` samples at
    `to_hz`.

    It begins LEAD_S before the first sound, or a little earlier; with `at_once` where the recording
    begins. A long recording then costs no more than the clip, whatever its rate.
    """
    level = np.abs(wave)
    first = 0
    if wave.size and not at_once:
        first = int(np.argmax(level > SILENCE * level.max(initial=0)))
    lead = math.ceil(LEAD_S * rate_hz)
    # Whole samples at the other rate, too: else what is cut out would be a fraction of one late.
    step = rate_hz // math.gcd(rate_hz, to_hz)
    start = max(0, first - lead) // step * step
    stop = -(-(first + math.ceil(length * rate_hz / to_hz) + lead) // step) * step
    return wave[start:stop]


def resampled(wave: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """(n,) float32 at one rate -> at another, without frequencies above half of either rate.

    By Fourier transform: the method of artifacts without preprocessing.
    """
    if rate_hz == to_hz or not wave.size:
        return wave
    n = max(1, round(wave.size * to_hz / rate_hz))
    spectrum = np.fft.rfft(wave.astype(np.float64))[: n // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, n) * (n / wave.size), np.float32)
