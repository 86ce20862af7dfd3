"""Evaluation of sound on sounds whose figures are known."""

import numpy as np
import pytest

from aigc.metrics.sound import (
    BANDS,
    FRAMES,
    diversity,
    duration_s,
    harmonicity,
    log_mel,
    spectrograms,
)

RATE_HZ = 8000


def voice(f0_hz: float, n: int = 4096) -> np.ndarray:
    time = np.arange(n) / RATE_HZ
    return sum(np.sin(2 * np.pi * f0_hz * k * time) / k for k in range(1, 12))[None] * 0.3


def noise(n: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (4, n))


@pytest.mark.parametrize("f0_hz", [90, 130, 250])
def test_harmonicity_separates_voice_and_whisper(f0_hz: float) -> None:
    assert harmonicity(voice(f0_hz), RATE_HZ)[0] > 0.9
    assert harmonicity(noise(), RATE_HZ).max() < 0.4


def test_harmonicity_falls_with_noise() -> None:
    figures = [harmonicity(voice(130) + level * noise()[:1], RATE_HZ)[0] for level in (0, 2, 8)]
    assert figures[0] > figures[1] + 0.1 > figures[2] + 0.2


def test_silence_does_not_count() -> None:
    padded = np.concatenate([voice(130), np.zeros((1, 4096))], 1)
    assert harmonicity(padded, RATE_HZ)[0] > 0.85
    assert harmonicity(np.zeros((2, 4096)), RATE_HZ).tolist() == [0, 0]


def test_duration_is_measured_between_silences() -> None:
    wave = np.zeros((2, 8000))
    wave[0, 1000:3000] = 0.5
    assert duration_s(wave, RATE_HZ).tolist() == [0.25, 0]


def test_log_mel_has_fixed_size_and_locates_tones() -> None:
    tones = np.stack([np.sin(2 * np.pi * hz * np.arange(4096) / RATE_HZ) for hz in (300, 2500)])
    mel = log_mel(tones, RATE_HZ)
    assert mel.shape == (2, BANDS, FRAMES)
    low, high = mel[:, :, 16].argmax(1)
    assert low < 8 < 20 < high
    assert np.allclose(log_mel(np.zeros((1, 4096)), RATE_HZ), np.log(1e-3))


def test_diversity_is_the_spread_within_classes() -> None:
    features = np.array([[0.0], [2.0], [100.0], [102.0]], np.float32)
    assert diversity(features, np.array([0, 0, 1, 1])) == pytest.approx(1)
    assert diversity(features, np.array([0, 1, 0, 1])) == pytest.approx(50)


def test_spectrogram_locates_a_tone_and_blackens_silence() -> None:
    wave = np.zeros((2, 4096), np.float32)
    wave[0, :2048] = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(2048) / RATE_HZ)
    pictures = spectrograms(wave, RATE_HZ)
    assert pictures.shape == (2, 192, 64)
    assert pictures.dtype == np.uint8
    assert pictures[0, :, 10].argmax() == 191 - 1000 * 384 // RATE_HZ
    assert pictures[0].max() == 255
    assert pictures[0, :, 40:].max() == pictures[1].max() == 0
