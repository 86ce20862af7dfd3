"""What the contract does not ask: where pitch and reconstruction come from, and collapse."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aigc import models
from aigc.models import audio_vae
from aigc.noise import Noise
from aigc.posterior import NARROWEST
from tests.test_harmonics import voice

SMALL = audio_vae.Config(
    latent=4, encoder_widths=(16, 16), decoder_widths=(16, 16), hidden=16, style=8, couplings=2
)


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    pitches = torch.linspace(90, 200, n)
    return {"audio": torch.cat([voice(torch.full((4096,), f0_hz)) for f0_hz in pitches.tolist()])}


def terms(model: audio_vae.Model, sounds: dict[str, torch.Tensor], samples: int = 0) -> dict:
    n = len(sounds["audio"])
    loss, found = model.loss("elbo", sounds, Noise(0, samples, n, 0, n, sounds["audio"]), None)
    return {"loss": loss.item()} | {name: value.item() for name, value in found.items()}


def test_the_kl_term_is_ramped() -> None:
    torch.manual_seed(0)
    model = audio_vae.Model(SMALL)
    first, half = terms(model, batch()), terms(model, batch(), SMALL.kl_ramp // 2)
    parts = ("level", "energy", "pitch")
    assert first["loss"] == pytest.approx(sum(first[name] for name in parts), rel=1e-5)
    expected = sum(half[name] for name in parts) + 0.5 * half["kl"]
    assert half["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_posterior_is_never_narrower_than_what_the_prior_can_follow() -> None:
    torch.manual_seed(0)
    model, level = audio_vae.Model(SMALL), torch.zeros(4, SMALL.stft.bins, SMALL.stft.frames)
    with torch.no_grad():
        model.encoder.moments.weight *= 1e4
        logvar = model.encoder(level, None)[1]
    assert logvar.min() >= NARROWEST
    assert logvar.max() <= 0


def test_a_few_steps_bring_every_term_down_and_the_pitch_into_the_decoder() -> None:
    torch.manual_seed(0)
    model, sounds = audio_vae.Model(SMALL), batch()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    before = terms(model, sounds)
    for step in range(100):
        noise = Noise(0, step, 4, 0, 4, sounds["audio"])
        optimizer.zero_grad()
        model.loss("elbo", sounds, noise, None)[0].backward()
        optimizer.step()
    after = terms(model, sounds)
    for name in ("level", "energy", "pitch"):
        assert after[name] < 0.5 * before[name], name


def test_a_sound_that_is_served_is_what_the_loss_hears() -> None:
    torch.manual_seed(0)
    model = audio_vae.Model(SMALL).eval()
    z = torch.randn(4, SMALL.latent)
    with torch.no_grad():
        drawn = model.voice.harmonics(model.decoder(z))
        served = model.exports()["decode"].module(z)
    assert torch.equal(model.voice.sound(drawn), served)


def test_a_reconstruction_is_the_sound_of_what_the_posterior_mean_decodes_to() -> None:
    torch.manual_seed(0)
    exports = audio_vae.Model(SMALL).eval().exports()
    sound = batch()["audio"]
    with torch.no_grad():
        mu, _ = exports["encode"].module(sound)
        decoded = exports["decode"].module(mu)
        assert torch.equal(exports["reconstruct"].module(sound), decoded)
        drawn = exports["sample"].module(mu)
    assert torch.allclose(drawn, decoded, atol=1e-5), "an untrained prior is the standard normal"


def test_a_latent_that_says_nothing_is_a_collapse() -> None:
    model = audio_vae.Model(SMALL)
    assert "KL 0.01 nats" in model.collapsed({"elbo/kl": 0.01})
    assert model.collapsed({"elbo/kl": 20.0}) == model.collapsed({}) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (1, 28, 28)}, "a sound of one channel"),
        ({"latent": 5}, "latent must be even"),
        ({"encoder_widths": (8,) * 8}, r"cannot be halved 8 times \(encoder_widths\)"),
        ({"encoder_widths": (8, 0)}, "encoder_widths must all be > 0"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        audio_vae.Model(replace(SMALL, **changes))


def test_the_preset_is_small_enough_for_minutes_of_one_core() -> None:
    model = models.build(models.preset("audio_vae:spoken_digits"))
    assert sum(np.prod(p.shape) for p in model.parameters()) < 1.5e6
