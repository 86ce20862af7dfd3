"""Discriminators of sounds: what they see, and their losses by hand."""

import pytest
import torch

from aigc.nn.sound_discriminators import (
    PeriodDiscriminator,
    ResolutionDiscriminator,
    SoundDiscriminator,
    feature_distance,
    judgement,
    least_squares,
)


def test_a_period_discriminator_sees_samples_of_one_phase_apart() -> None:
    """A change of one sample changes logits of its phase alone."""
    torch.manual_seed(0)
    net = PeriodDiscriminator(3, (4, 4))
    x = torch.rand(1, 1, 300)
    other = x.clone()
    other[0, 0, 100] += 1  # 100 = 33 * 3 + 1
    difference = (net(x)[-1] != net(other)[-1]).any(2)[0, 0]
    assert difference.tolist() == [False, True, False]


@pytest.mark.parametrize("length", [512, 640])
def test_maps_of_any_length_end_with_logits(length: int) -> None:
    torch.manual_seed(0)
    net = SoundDiscriminator((2, 3), (4, 8), (64, 128), 4)
    every = net(torch.rand(2, 1, length))
    assert [len(maps) for maps in every] == [3, 3, 5, 5]
    assert all(maps[-1].shape[:2] == (2, 1) for maps in every)


def test_a_resolution_discriminator_sees_magnitudes_alone() -> None:
    net = ResolutionDiscriminator(64, 4)
    x = torch.rand(1, 1, 512) - 0.5
    for a, b in zip(net(x), net(-x), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_losses_by_hand() -> None:
    real, made = (
        [[torch.full((2, 1), 3.0), torch.tensor([0.5, 1.5])]],
        [[torch.full((2, 1), 1.0), torch.tensor([0.0, 2.0])]],
    )
    assert float(least_squares(made, real)) == pytest.approx(0.25 + 2)
    assert float(judgement(made)) == pytest.approx(1)
    assert float(feature_distance(made, real)) == pytest.approx(2)  # the logits are no features


def test_float64_stays_float64() -> None:
    net = ResolutionDiscriminator(64, 4).double()
    x = torch.rand(1, 1, 512, dtype=torch.float64)
    first, moved = net(x)[0], net(x + 1e-9)[0]
    assert first.dtype == torch.float64
    assert 0 < float((first - moved).abs().max().detach()) < 1e-7
