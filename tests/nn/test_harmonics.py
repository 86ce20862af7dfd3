"""Pitches of known sounds, and spectra that have the harmonics they are given."""

import pytest
import torch

from aigc.nn.harmonics import STRENGTH, Harmonics
from aigc.nn.spectrogram import STFT
from tests.nn.voices import RATE_HZ, voice

SIZE = STFT(samples=4096, window=384, hop=64, floor=1e-3)
PITCH = (60 / RATE_HZ, 400 / RATE_HZ)


def harmonics(**changes: int) -> Harmonics:
    given = {"bands": 64, "ripple_bands": 16, "ripples": 3} | changes
    return Harmonics(SIZE, pitch=PITCH, **given)


def hz(pitch: torch.Tensor) -> torch.Tensor:
    return 60 * (400 / 60) ** pitch


@pytest.mark.parametrize("f0_hz", [85, 130, 250, 340])
def test_pitch_of_a_voice_is_found_without_octave_errors(f0_hz: float) -> None:
    level = SIZE.log_magnitude(voice(torch.full((4096,), f0_hz)))
    found, sure = harmonics().pitch(level)
    assert hz(found)[0, 8:56].numpy() == pytest.approx(f0_hz, rel=0.03)
    assert sure[0, 8:56].min() > 0.05


def test_gliding_pitch_is_followed() -> None:
    found, _ = harmonics().pitch(SIZE.log_magnitude(voice(torch.linspace(110, 170, 4096))))
    track = hz(found)[0, 8:56]
    assert (track.diff() > -0.5).all()
    assert track[[0, -1]].tolist() == pytest.approx([117, 162], rel=0.05)


def test_silence_takes_the_pitch_of_its_neighbours() -> None:
    wave = voice(torch.full((4096,), 130.0))
    wave[..., 2048:] = 0
    found, sure = harmonics().pitch(SIZE.log_magnitude(wave))
    assert sure[0, 40:].max() < 1e-4
    assert hz(found)[0].numpy() == pytest.approx(130, rel=0.05)
    assert torch.isfinite(harmonics().pitch(-torch.ones(1, SIZE.bins, SIZE.frames))[0]).all()


def test_comb_peaks_at_multiples_of_the_pitch() -> None:
    made = harmonics(ripples=1)
    parameters = torch.zeros(1, made.size, SIZE.frames)
    parameters[:, made.bands : -1] = 2
    pitch = torch.full((1, SIZE.frames), 0.3)
    level = made(parameters, pitch)[0, :, 0]
    turns = made.cycles[:, 0] * RATE_HZ / hz(torch.tensor(0.3))
    assert torch.allclose(level, 2 * STRENGTH * torch.cos(2 * torch.pi * turns), atol=1e-4)


def test_further_ripples_are_cosines_of_multiples() -> None:
    pitch = torch.full((1, SIZE.frames), 0.4)
    made, times = harmonics(), None
    for j in range(3):
        parameters = torch.zeros(1, made.size, SIZE.frames)
        first = made.bands + j * made.ripple_bands
        parameters[:, first : first + made.ripple_bands] = 1
        level = made(parameters, pitch)[0, :, 0]
        times = made.cycles[:, 0] * RATE_HZ / hz(torch.tensor(0.4)) * (j + 1)
        assert torch.allclose(level, STRENGTH * torch.cos(2 * torch.pi * times), atol=1e-4)


def test_envelope_follows_bands_and_pitch_is_a_parameter() -> None:
    made = harmonics()
    parameters = torch.zeros(1, made.size, SIZE.frames)
    parameters[:, : made.bands] = 0.25
    assert torch.allclose(made(parameters), torch.tensor(0.25))
    parameters[:, made.bands : -1] = 1
    parameters[:, -1] = 0.7
    own = torch.full((1, SIZE.frames), 0.7).sigmoid()
    assert torch.equal(made(parameters), made(parameters, own))
    assert not torch.allclose(made(parameters), made(parameters, own + 0.1), atol=0.01)


def test_pitch_range_must_rise() -> None:
    with pytest.raises(ValueError, match=r"pitch must rise within \(0, 0.5\)"):
        Harmonics(SIZE, 8, 4, 1, (0.05, 0.01))
