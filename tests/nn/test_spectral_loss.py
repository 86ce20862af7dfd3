"""Distances of sounds by their spectra: by hand, and in the order that ears have."""

import pytest
import torch
from torch import Tensor

from aigc.nn.spectral_loss import FAINT, MelLoss, STFTLoss

LOSSES = {"mel": MelLoss(8000, (64, 256)), "stft": STFTLoss((64, 256))}


def voice(hz: float = 150, loudness: float = 0.1) -> Tensor:
    """(1, 1, 4096): a tone with harmonics."""
    t = torch.arange(4096) / 8000
    return loudness * sum(torch.sin(2 * torch.pi * k * hz * t) / k for k in range(1, 9))[None, None]


@pytest.mark.parametrize("name", LOSSES)
def test_a_sound_has_no_distance_to_itself_and_more_to_others(name: str) -> None:
    loss, real = LOSSES[name], voice()
    torch.manual_seed(0)
    noise = torch.randn_like(real)
    assert float(loss(real, real)) == 0
    for others in (
        [real + 0.001 * noise, real + 0.01 * noise, real + 0.1 * noise],
        [voice(152), voice(165), voice(220)],
        [0.9 * real, 0.5 * real, 0 * real],
    ):
        found = [float(loss(other, real)) for other in others]
        assert 0 < found[0] < found[1] < found[2], found


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_for_silence(name: str) -> None:
    torch.manual_seed(0)
    made = torch.zeros(2, 1, 4096)
    made[0] = 1e-3 * torch.randn(1, 4096)
    made.requires_grad_()
    LOSSES[name](made, torch.cat([voice(), torch.zeros(1, 1, 4096)])).backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert made.grad[0].any()


def test_loudness_is_a_difference_of_logarithms() -> None:
    """Far above what is faint, twice as loud is log 2 apart, and 1 in spectral convergence."""
    real = torch.rand(1, 1, 4096) - 0.5
    assert float(LOSSES["mel"](2 * real, real)) == pytest.approx(0.693, abs=0.01)
    assert float(LOSSES["stft"](2 * real, real)) == pytest.approx(1.69, abs=0.02)
    assert float(LOSSES["mel"](FAINT * 1e-2 * real, 0 * real)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_mean_of_its_rows(name: str) -> None:
    loss = LOSSES[name]
    real, made = torch.cat([voice(), voice(220, 0.5)]), torch.rand(2, 1, 4096) - 0.5
    rows = [float(loss(made[i : i + 1], real[i : i + 1])) for i in range(2)]
    assert float(loss(made, real)) == pytest.approx(sum(rows) / 2, rel=1e-5)


@pytest.mark.parametrize("rate_hz", [4_000, 16_000, 44_100, 48_000])
def test_mel_losses_are_of_any_rate(rate_hz: int) -> None:
    loss = MelLoss(rate_hz, (64, 256, 1024))
    assert float(loss(voice(), voice(220))) > 0


def test_silence_weighs_no_more_than_speech() -> None:
    """A faint error on silence counts less than a loud one on speech."""
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 4096)
    silence = 1e-5 * noise
    on_silence = float(LOSSES["stft"](silence + 1e-4 * noise, silence))
    assert on_silence < 2 < float(LOSSES["stft"](10 * voice(), voice()))
