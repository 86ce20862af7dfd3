"""Spectrograms against known sounds, and the way back from them."""

import numpy as np
import pytest
import torch

from aigc.nn.spectrogram import STFT, GriffinLim, LogMagnitude

RATE_HZ = 8000
SIZE = STFT(samples=4096, window=256, hop=64, floor=1e-3)


def sine(hz: float, amplitude: float = 0.5) -> torch.Tensor:
    time = torch.arange(SIZE.samples) / RATE_HZ
    return (amplitude * torch.sin(2 * torch.pi * hz * time))[None, None]


def comb(f0_hz: float) -> torch.Tensor:
    return sum((sine(f0_hz * k, 0.3 / k) for k in range(1, 12)), torch.zeros(1, 1, SIZE.samples))


@pytest.mark.parametrize("bin_", [5, 40, 100])
def test_sine_is_a_line_at_its_bin_with_its_amplitude(bin_: int) -> None:
    level = SIZE.log_magnitude(sine(bin_ * RATE_HZ / SIZE.window))
    assert level.shape == (1, SIZE.bins, SIZE.frames) == (1, 128, 64)
    middle = level[0, :, 30]
    assert middle.argmax() == bin_
    assert SIZE.magnitude(middle)[bin_].item() == pytest.approx(0.5, abs=0.005)
    assert (middle[bin_ + 4 :] < -0.9).all()


def test_levels_stay_in_range_and_silence_is_minus_one() -> None:
    assert (SIZE.log_magnitude(torch.zeros(2, 1, 4096)) == -1).all()
    loud = SIZE.log_magnitude(torch.ones(1, 1, 4096).cumsum(2) % 2 * 2 - 1)
    assert loud.min() >= -1
    assert loud.max() <= 1


def test_magnitude_inverts_level() -> None:
    level = SIZE.log_magnitude(comb(130))
    again = 2 * ((SIZE.magnitude(level) + SIZE.floor) / SIZE.floor).log() / SIZE.span - 1
    assert torch.allclose(again, level, atol=1e-5)
    assert SIZE.magnitude(torch.tensor(-1.0)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("iterations", "most_db"), [(0, -8), (2, -13), (16, -18)])
def test_griffin_lim_converges_with_iterations(iterations: int, most_db: float) -> None:
    level = SIZE.log_magnitude(comb(130))
    wave = GriffinLim(SIZE, iterations, 0.5)(level)
    wanted, found = (SIZE.magnitude(x) for x in (level, SIZE.log_magnitude(wave)))
    error_db = 10 * torch.log10((found - wanted).square().sum() / wanted.square().sum())
    assert error_db < most_db


def test_griffin_lim_keeps_the_pitch() -> None:
    wave = GriffinLim(SIZE, 2, 0.5)(SIZE.log_magnitude(comb(160)))[0, 0]
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(4096), 65536))
    assert spectrum.argmax() * RATE_HZ / 65536 == pytest.approx(160, abs=3)


def test_griffin_lim_of_silence_and_full_scale_is_in_range() -> None:
    heard = GriffinLim(SIZE, 2, 0.5)
    assert heard(-torch.ones(1, 128, 64)).abs().max() < 1e-6
    assert heard(torch.ones(1, 128, 64)).abs().max() <= 1


def test_impossible_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="4000 samples must be a multiple of the hop, 64"):
        STFT(samples=4000, window=256, hop=64, floor=1e-3)
    with pytest.raises(ValueError, match="at least four hops, got 256 for hop 100"):
        STFT(samples=4000, window=256, hop=100, floor=1e-3)
    with pytest.raises(ValueError, match="floor must be in"):
        STFT(samples=4096, window=256, hop=64, floor=0)


def test_exported_graph_computes_the_same_spectrogram() -> None:
    sounds = torch.cat([comb(130), sine(700), torch.zeros(1, 1, 4096)])
    assert torch.allclose(LogMagnitude(SIZE)(sounds), SIZE.log_magnitude(sounds), atol=1e-3)
