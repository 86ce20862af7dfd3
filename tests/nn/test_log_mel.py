"""Spectra of sounds of any length, their mel bands, and sounds of spectra."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc.nn.log_mel import (
    Framing,
    InverseSTFT,
    LogMel,
    Magnitude,
    mel_filters,
    most_bands,
)


@pytest.fixture(autouse=True)
def double() -> None:
    torch.manual_seed(0)


def parts(framing: Framing, wave: Tensor) -> tuple[Tensor, Tensor]:
    spectra = framing.frames(wave) @ framing.basis()
    real, imaginary = spectra.transpose(1, 2).chunk(2, 1)
    return real, imaginary


@pytest.mark.parametrize(
    ("window", "hop"), [(320, 80), (256, 64), (320, 160), (64, 16), (600, 100)]
)
@pytest.mark.parametrize("frames", [1, 5, 23])
def test_inverse_gives_back_the_sound(window: int, hop: int, frames: int) -> None:
    framing = Framing(window=window, hop=hop)
    wave = torch.rand(2, 1, hop * frames, dtype=torch.float64) * 2 - 1
    made = InverseSTFT(framing).double()(*parts(framing, wave))
    assert made.shape == wave.shape
    assert torch.allclose(made, wave, atol=1e-6)  # buffers are float32


def test_spectra_are_those_of_torch() -> None:
    framing = Framing(window=320, hop=80)
    wave = torch.rand(2, 1, 80 * 12, dtype=torch.float64) * 2 - 1
    padded = torch.nn.functional.pad(wave[:, 0], (120, 120))
    window = torch.hann_window(320, dtype=torch.float64)
    theirs = torch.stft(padded, 320, 80, window=window, center=False, return_complex=True)
    real, imaginary = parts(framing, wave)
    assert torch.allclose(torch.complex(real, imaginary), theirs * 4 / 320, atol=1e-12)


def test_a_sine_of_full_scale_has_magnitude_one() -> None:
    wave = torch.sin(2 * torch.pi * 1000 / 8000 * torch.arange(8000))[None, None]
    magnitude = Magnitude(Framing(window=320, hop=80))(wave)
    assert magnitude[0, 50].max() == pytest.approx(1, abs=1e-3)
    assert magnitude[0, 50].argmax() == 1000 / 8000 * 320
    mel = LogMel(Framing(window=320, hop=80), 40, 8000)(wave)
    assert mel.shape == (1, 40, 100)
    centres = 700 * (10 ** (np.linspace(0, 2146.06, 42)[1:-1] / 2595) - 1)
    assert abs(centres[int(mel[0, :, 50].argmax())] - 1000) < 60


def test_long_sounds_have_the_frames_of_their_middle() -> None:
    """Frames depend on the samples that they see alone."""
    mel = LogMel(Framing(window=320, hop=80), 40, 8000)
    wave = torch.rand(1, 1, 80 * 40) * 2 - 1
    whole, part = mel(wave), mel(wave[:, :, 80 * 10 : 80 * 30])
    assert torch.allclose(whole[:, :, 12:28], part[:, :, 2:18], atol=1e-5)


def test_silence_has_the_floor_and_a_gradient() -> None:
    wave = torch.zeros(1, 1, 800, requires_grad=True)
    mel = LogMel(Framing(window=320, hop=80), 40, 8000)(wave)
    assert torch.allclose(mel, torch.tensor(1e-5).log())
    Magnitude(Framing(window=320, hop=80))(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_filters_are_means_and_never_empty() -> None:
    assert torch.allclose(mel_filters(161, 40, 8000).sum(0), torch.ones(40, dtype=torch.float64))
    with pytest.raises(ValueError, match="take fewer bands, or a longer window"):
        mel_filters(33, 40, 8000)


@pytest.mark.parametrize(("window", "hop"), [(320, 0), (80, 80), (300, 80), (240, 80)])
def test_framing_refuses_other_windows(window: int, hop: int) -> None:
    with pytest.raises(ValueError, match=f"got {window} for hop {hop}"):
        Framing(window=window, hop=hop)


@pytest.mark.parametrize(("window", "hop"), [(300, 75), (1764, 441), (2, 1)])
def test_framing_refuses_odd_hops_with_one_that_works(window: int, hop: int) -> None:
    with pytest.raises(ValueError, match=rf"got {hop}; take {hop + 1},") as raised:
        Framing(window=window, hop=hop)
    taken = Framing(window=4 * (hop + 1), hop=hop + 1)
    assert taken.frames(torch.zeros(1, 1, 3 * taken.hop)).shape == (1, 3, taken.window)
    assert "multiple of twice" in str(raised.value)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_spectrum(given: torch.dtype) -> None:
    framing = Framing(window=64, hop=16)
    wave = (torch.rand(2, 1, 160) - 0.5).to(given)
    real, imaginary = torch.randn(2, 1, 33, 10).to(given)
    mel, inverse = LogMel(framing, 8, 8000), InverseSTFT(framing)
    expected = mel(wave.float()), inverse(real.float(), imaginary.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = mel(wave), inverse(real, imaginary)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000, 192_000])
@pytest.mark.parametrize("bins", [17, 33, 129, 513])
def test_most_bands_have_a_frequency_each(bins: int, rate_hz: int) -> None:
    bands = most_bands(bins, rate_hz)
    mel_filters(bins, bands, rate_hz)
    if bands < 128:
        with pytest.raises(ValueError, match="take fewer bands"):
            mel_filters(bins, 2 * bands, rate_hz)
