"""Fine structure of voices with and without harmonics."""

import numpy as np
import pytest

from aigc.metrics.fine_structure import FineStructure, fine_structure
from aigc.metrics.pitch import pitch
from tests.metrics.recorded import RATE_HZ, low_passed, noise, speech, tone, voice


def correlation(real: np.ndarray, made: np.ndarray) -> float:
    structures = fine_structure(real, RATE_HZ), fine_structure(made, RATE_HZ)
    return FineStructure.of(*structures, pitch(real, RATE_HZ).voiced).correlation


def whispered(wave: np.ndarray) -> np.ndarray:
    """Noise under the same envelope: spectra of 64 ms, smoothed over 500 Hz, with random phases."""
    random = np.random.default_rng(1)
    out = np.zeros(len(wave) + 512)
    window = np.hanning(513)[:-1]
    for start in range(0, len(wave) - 512, 128):
        power = np.abs(np.fft.rfft(wave[start : start + 512] * window)) ** 2
        smooth = np.sqrt(np.convolve(np.pad(power, 16, "edge"), np.ones(33) / 33, "valid"))
        spectrum = smooth * np.fft.rfft(random.normal(size=512))
        out[start : start + 512] += np.fft.irfft(spectrum) * window / 512
    return out[: len(wave)]


def test_equal_recordings_have_correlation_1() -> None:
    assert correlation(voice(180), voice(180)) == pytest.approx(1)


def test_noise_under_the_same_envelope_has_about_none() -> None:
    assert abs(correlation(voice(180), whispered(voice(180)))) < 0.15


def test_level_does_not_matter() -> None:
    assert correlation(voice(180), 0.1 * voice(180)) == pytest.approx(1, abs=1e-6)


def test_filter_that_moves_the_envelope_hardly_matters() -> None:
    real = voice(180)
    emphasised = np.append(real[0], real[1:] - 0.9 * real[:-1])
    assert correlation(real, emphasised) > 0.97


def test_correlation_falls_with_noise() -> None:
    real = voice(180)
    found = [correlation(real, real + level * noise(1.5, seed=1)) for level in (1e-4, 1e-3, 1e-2)]
    assert 0.999 > found[0] > found[1] > found[2]


def test_correlation_falls_with_a_shift_of_pitch() -> None:
    # At 2.4 kHz half of the distance of harmonics is a sixteenth of a tone of 150 Hz.
    found = [correlation(tone(150), tone(150 * factor)) for factor in (1.0, 1.005, 1.01, 1.03)]
    assert found[0] > found[1] > found[2] > found[3]
    assert found[3] < 0.3


def test_low_pass_removes_it_and_what_lies_below_does_not_count() -> None:
    real = voice(180) + 1e-3 * noise(1.5)
    no_highs = low_passed(real, 1000) + 1e-3 * noise(1.5, seed=2)
    assert correlation(real, no_highs) < 0.2
    no_lows = real - low_passed(real, 1000)
    kept = fine_structure(no_lows, RATE_HZ)
    voiced = pitch(real, RATE_HZ).voiced
    assert FineStructure.of(fine_structure(real, RATE_HZ), kept, voiced).correlation > 0.95


def test_only_voiced_frames_count() -> None:
    real = np.concatenate([voice(180), 0.01 * noise()])
    made = np.concatenate([voice(180), 0.01 * noise(seed=1)])
    assert correlation(real, made) > 0.99


def test_sums_add_up() -> None:
    parts = [FineStructure(1.0, 4.0, 1.0), FineStructure(2.0, 5.0, 3.0)]
    assert FineStructure.total(parts).correlation == pytest.approx(3 / np.sqrt(9 * 4))
    assert np.isnan(FineStructure.total([]).correlation)
    assert FineStructure(0.0, 1.0, 0.0).correlation == 0


@pytest.mark.parametrize("level", [0.0, 1e-12])
def test_silence_and_constants_have_none(level: float) -> None:
    assert correlation(voice(180), np.full_like(voice(180), level)) == 0


def test_speech_has_it() -> None:
    real = speech()[0]
    assert abs(correlation(real, whispered(real))) < 0.15
    assert correlation(real, real + 1e-3 * noise(len(real) / RATE_HZ)[: len(real)]) > 0.6


def test_low_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a rate of 3400 Hz, got 3000"):
        fine_structure(noise(), 3000)
