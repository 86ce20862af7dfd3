"""Sounds at another rate: bit for bit those of scipy, in bounded memory."""

import math
import tracemalloc

import numpy as np
import pytest

from aigc.artifact.resampling import polyphase

RATES = [
    (44100, 8000),
    (8000, 16000),
    (16000, 8000),
    (48000, 22050),
    (8000, 44100),
    (192_000, 4000),
    (8001, 8000),
    (24_001, 8000),
    (1, 300),
]


@pytest.mark.parametrize(("rate_hz", "to_hz"), RATES)
def test_polyphase_equals_scipys(rate_hz: int, to_hz: int) -> None:
    signal = pytest.importorskip("scipy.signal", reason="scipy is not installed")
    shared = math.gcd(rate_hz, to_hz)
    for n in (1, 2, 37, 900):
        wave = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
        wanted = signal.resample_poly(
            wave.astype(np.float64), to_hz // shared, rate_hz // shared
        ).astype(np.float32)
        assert polyphase(wave, rate_hz, to_hz).tobytes() == wanted.tobytes()


def test_polyphase_in_blocks_equals_the_whole() -> None:
    signal = pytest.importorskip("scipy.signal", reason="scipy is not installed")
    wave = np.random.default_rng(0).uniform(-1, 1, 30_000).astype(np.float32)
    wanted = signal.resample_poly(wave.astype(np.float64), 3, 2).astype(np.float32)
    assert polyphase(wave, 16_000, 24_000).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("rate_hz", "to_hz"), [(44100, 8000), (8000, 16000)])
def test_polyphase_keeps_tones_below_both_limits(rate_hz: int, to_hz: int) -> None:
    wave = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    wanted = np.sin(2 * np.pi * 440 * np.arange(to_hz) / to_hz)
    inside = slice(to_hz // 10, -to_hz // 10)  # zeros lie around the wave
    assert np.abs(polyphase(wave, rate_hz, to_hz) - wanted)[inside].max() < 2e-3


def test_polyphase_removes_tones_above_the_new_limit() -> None:
    wave = np.sin(2 * np.pi * 6000 * np.arange(44100) / 44100).astype(np.float32)
    assert np.abs(polyphase(wave, 44100, 8000))[800:-800].max() < 1e-2


def test_polyphase_keeps_equal_rates_and_empty_waves() -> None:
    wave = np.array([0.5, -0.5], np.float32)
    assert polyphase(wave, 8000, 8000).tobytes() == wave.tobytes()
    assert polyphase(wave[:0], 44100, 8000).shape == (0,)


def test_polyphase_of_coprime_rates_takes_bounded_memory() -> None:
    tracemalloc.start()
    polyphase(np.ones(100, np.float32), 30_011, 8000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 15_000_000
