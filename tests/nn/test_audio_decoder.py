"""Sounds as they are drawn and heard: energies, pitches, and what Griffin-Lim loses."""

from dataclasses import dataclass, replace

import pytest
import torch

from aigc.nn.audio_decoder import Decoder, HarmonicSynthesizer, VoiceConfig
from tests.nn.voices import voice


@dataclass(frozen=True, kw_only=True)
class Spoken(VoiceConfig):
    """A model of nothing but a sound."""

    shape: tuple[int, ...] = (1, 4096)


SMALL = Spoken(decoder_widths=(16, 16), style=8)


def levels(n: int = 4) -> torch.Tensor:
    """Log-magnitudes (N, bins, frames) of voices from 90 Hz to 200 Hz."""
    pitches = torch.linspace(90, 200, n).tolist()
    sounds = torch.cat([voice(torch.full((4096,), f0_hz)) for f0_hz in pitches])
    return SMALL.stft.log_magnitude(sounds)


def test_energies_weigh_every_bin_once_per_patch_size() -> None:
    drawn, stft = HarmonicSynthesizer(SMALL), SMALL.stft
    level = torch.full((1, stft.bins, stft.frames), 0.6)
    assert drawn.energies(level, level).item() == 0
    low, high = (stft.magnitude(torch.tensor(at)) for at in (0.6, 0.8))
    ratio = (high / low).square().log()
    expected = 2 * stft.bins * stft.frames * ratio.item() ** 2 / (2 * SMALL.energy_std**2)
    assert drawn.energies(level + 0.2, level).item() == pytest.approx(expected, rel=0.02)


def test_mean_of_logarithms_underestimates_energy() -> None:
    """For noise around a level, the best constant by energy is above the mean of the levels."""
    torch.manual_seed(0)
    noisy = 0.2 * torch.randn(8, SMALL.stft.bins, SMALL.stft.frames)
    costs = [
        HarmonicSynthesizer(SMALL).energies(torch.full_like(noisy, at), noisy).mean()
        for at in (0.0, 0.1)
    ]
    assert costs[1] < costs[0]


def test_energies_are_those_of_the_served_sound() -> None:
    torch.manual_seed(0)
    drawn, stft = HarmonicSynthesizer(SMALL), SMALL.stft
    level = levels()
    pitch, _ = drawn.harmonics.pitch(level)
    parameters = 0.3 * torch.randn(4, drawn.size, stft.frames)
    parameters[:, -1] = pitch.clamp(1e-4, 1 - 1e-4).logit()
    served = stft.log_magnitude(drawn(parameters))
    found = drawn.nats(parameters, level)
    assert torch.allclose(found["energy"], drawn.energies(served, level), rtol=1e-3)
    bare = HarmonicSynthesizer(replace(SMALL, iterations=0)).nats(parameters, level)
    assert torch.equal(bare["level"], found["level"])
    assert ((bare["energy"] / found["energy"] - 1).abs() > 0.02).all()


def test_pitch_loss_separates_pitch_and_drawing() -> None:
    """A wrong pitch costs in its own term; the comb is drawn at that of the data all the same."""
    torch.manual_seed(0)
    drawn, level = HarmonicSynthesizer(SMALL), levels()
    pitch, sure = drawn.harmonics.pitch(level)
    parameters = 0.3 * torch.randn(4, drawn.size, SMALL.stft.frames)
    parameters[:, -1] = pitch.logit()
    right = drawn.nats(parameters, level)
    parameters[:, -1] = (pitch + 0.01).logit()
    wrong = drawn.nats(parameters, level)
    assert right["pitch"].max() < 1e-3
    expected = 0.01**2 * sure.sum(1) / (2 * SMALL.pitch_std**2)
    assert torch.allclose(wrong["pitch"], expected, rtol=1e-2)
    assert all(torch.equal(right[name], wrong[name]) for name in ("level", "energy"))


def test_decoder_compensates_griffin_lim_losses() -> None:
    """Optimising unconstrained levels by energy gives a sound nearer to the target than its own
    levels."""
    drawn, stft, level = HarmonicSynthesizer(SMALL), SMALL.stft, levels()
    free = level.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], 0.01)

    def cost(levels: torch.Tensor) -> torch.Tensor:
        return drawn.energies(stft.log_magnitude(drawn.sound(levels)), level).sum()

    for _ in range(20):
        optimizer.zero_grad()
        cost(free).backward()
        optimizer.step()
    with torch.no_grad():
        assert cost(free) < 0.7 * cost(level)


def test_global_latent_reaches_every_frame() -> None:
    torch.manual_seed(0)
    decoder = Decoder(SMALL, 5, 6, 7)
    with torch.no_grad():
        z = torch.randn(2, 5)
        before = decoder(z)
        decoder.style[0].bias += 1.0  # type: ignore[operator]
        changed = (decoder(z) != before).any(1)
    assert before.shape == (2, 7, SMALL.stft.frames)
    assert changed.all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (1, 28, 28)}, "a sound of one channel"),
        ({"decoder_widths": (8,) * 9}, r"64 frames cannot be halved 8 times \(decoder_widths\)"),
        ({"decoder_widths": ()}, "decoder_widths must name at least one layer"),
        ({"decoder_widths": (8, 0)}, "decoder_widths must all be > 0"),
        ({"energy_std": 0.0}, "energy_std must be > 0"),
        ({"iterations": -1}, "iterations must be >= 0"),
        ({"pitch": (0.1, 0.05)}, "pitch must rise"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HarmonicSynthesizer(replace(SMALL, **changes))
