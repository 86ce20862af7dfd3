"""Recordings to measure: synthesised voices, noise, and real speech of a Debian package."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from aigc.artifact.audio_files import read_sound

RATE_HZ = 8000
SPEECH = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def tone(f0_hz: float | np.ndarray, seconds: float = 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Harmonics of a pitch, which may be one per sample, up to half the rate; 6 dB an octave."""
    f0 = np.broadcast_to(f0_hz, round(seconds * rate_hz))
    phase = 2 * np.pi * np.cumsum(f0) / rate_hz
    count = int(rate_hz / 2 / f0.max())
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, count))


def voice(f0_hz: float, seconds: float = 1.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Four syllables a second, whose pitch glides by a fifth around `f0_hz`."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = tone(f0_hz * 2 ** (np.sin(2 * np.pi * 0.7 * time) / 3.4), seconds, rate_hz)
    loud = np.sin(np.pi * 4 * time).clip(-1, 1) ** 2
    return wave * loud + 1e-4 * noise(seconds, rate_hz)


def noise(seconds: float = 1.0, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """White, of standard deviation 1."""
    return np.random.default_rng(seed).normal(size=round(seconds * rate_hz))


def low_passed(wave: np.ndarray, to_hz: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Without the frequencies above."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / rate_hz) > to_hz] = 0
    return np.fft.irfft(spectrum, len(wave))


def shifted(wave: np.ndarray, factor: float) -> np.ndarray:
    """Played faster by the factor, and repeated to the same length: pitch and formants rise."""
    at = np.arange(len(wave)) * factor % (len(wave) - 1)
    return np.interp(at, np.arange(len(wave)), wave)


def energy(wave: np.ndarray) -> np.ndarray:
    """Log energy smoothed over 10 ms."""
    return np.log(np.convolve(np.square(wave), np.hanning(82), "same") + 1e-6)


def delay(real: np.ndarray, made: np.ndarray, most: int = 400) -> int:
    """Samples by which the energy of a recording comes later."""
    a, b = (energy(wave) - energy(wave).mean() for wave in (real, made))
    return max(
        range(-most, most),
        key=lambda lag: np.dot(a[most:-most], b[most + lag : len(b) - most + lag]),
    )


@cache
def speech(count: int = 20) -> list[np.ndarray]:
    """Clips of one to four seconds at 8 kHz, chosen by a hash of their names; skips without."""
    files = {file.relative_to(SPEECH).as_posix(): file for file in SPEECH.rglob("*.wav")}
    found = []
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        sound = read_sound(files[name].read_bytes())
        wave = sound.samples[0]
        if sound.rate_hz == RATE_HZ and 1 <= len(wave) / RATE_HZ <= 4 and np.abs(wave).max() > 0.05:
            found.append(wave)
        if len(found) == count:
            return found
    pytest.skip(f"no speech in {SPEECH}; apt-get install asterisk-core-sounds-en-wav")
