"""audio_vae beyond the model contract: terms of the loss, pitch, reconstruction, resume,
collapse."""

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc import models
from aigc.data import Dataset
from aigc.models import audio_vae
from aigc.rng import BatchRNG
from aigc.training import checkpoint
from aigc.training.loop import PeriodicAction, TrainState, train
from tests.nn.voices import voice

SMALL = audio_vae.Config(
    latent=4,
    encoder_widths=(16, 16),
    decoder_widths=(16, 16),
    hidden=16,
    style=8,
    couplings=2,
    prior_width=16,
)


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    pitches = torch.linspace(90, 200, n)
    return {"audio": torch.cat([voice(torch.full((4096,), f0_hz)) for f0_hz in pitches.tolist()])}


def terms(model: audio_vae.Model, sounds: dict[str, torch.Tensor], samples: int = 0) -> dict:
    n = len(sounds["audio"])
    noise = BatchRNG(0, samples, n, 0, n, sounds["audio"])
    loss, found = model.loss("elbo", sounds, noise, model.prepare(sounds, noise, {"elbo"}))
    return {"loss": loss.item()} | {name: value.item() for name, value in found.items()}


def test_kl_term_is_ramped() -> None:
    torch.manual_seed(0)
    model = audio_vae.Model(SMALL)
    first, half = terms(model, batch()), terms(model, batch(), SMALL.kl_ramp // 2)
    parts = ("level", "energy", "pitch")
    assert first["loss"] == pytest.approx(sum(first[name] for name in parts), rel=1e-5)
    expected = sum(half[name] for name in parts) + 0.5 * half["kl"]
    assert half["loss"] == pytest.approx(expected, rel=1e-5)


def test_posterior_has_a_minimal_width() -> None:
    torch.manual_seed(0)
    model, level = audio_vae.Model(SMALL), torch.zeros(4, SMALL.stft.bins, SMALL.stft.frames)
    with torch.no_grad():
        model.encoder.moments.weight *= 1e4
        logvar = model.encoder(level, None)[1]
    assert logvar.min() >= SMALL.narrowest
    assert logvar.max() <= 0


@pytest.mark.process
def test_few_steps_lower_every_term_and_use_the_pitch() -> None:
    torch.manual_seed(0)
    model, sounds = audio_vae.Model(SMALL), batch()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    before = terms(model, sounds)
    for step in range(100):
        noise = BatchRNG(0, step, 4, 0, 4, sounds["audio"])
        optimizer.zero_grad()
        shared = model.prepare(sounds, noise, {"elbo"})
        model.loss("elbo", sounds, noise, shared)[0].backward()
        optimizer.step()
    after = terms(model, sounds)
    for name in ("level", "energy", "pitch"):
        assert after[name] < 0.5 * before[name], name


def test_loss_hears_the_served_sound() -> None:
    torch.manual_seed(0)
    model = audio_vae.Model(SMALL).eval()
    z = torch.randn(4, SMALL.latent)
    with torch.no_grad():
        drawn = model.voice.harmonics(model.decoder(z))
        served = model.exports()["decode"].module(z)
    assert torch.equal(model.voice.sound(drawn), served)


def test_prior_trains_on_after_the_networks_and_resumes_bit_equal(
    tmp_path: Path,
) -> None:
    preset = models.preset("audio_vae:spoken_digits")
    sounds = batch(8)["audio"].numpy()
    labels = np.zeros(8, np.int64)
    source = Dataset(name="voices", samples=sounds, labels=labels, classes=(), sample_rate_hz=8000)
    config = replace(preset, model=replace(SMALL, done=12, decay=8), batch=4, samples=24)
    seen: list[tuple[TrainState, list[float]]] = []

    def note(state: TrainState, values: object) -> None:
        rates = [optimizer.param_groups[0]["lr"] for optimizer in state.optimizers]
        seen.append((copy.deepcopy(state), rates))
        if state.samples == 16:
            checkpoint.save(tmp_path, checkpoint.snapshot(state, {"wall_seconds": 0}), keep=1)

    whole = TrainState(config)
    train(config, whole, source, [PeriodicAction(4, note)])
    full = preset.model.optimizer.learning_rate
    shares = [1, 1, 0.5, 0, 0, 0]
    assert [rates for _, rates in seen] == [[full * share, full] for share in shares]
    for network, moves in (("encoder", 3), ("decoder", 3), ("prior", 6)):
        weights = [
            torch.cat([p.flatten() for p in getattr(state.model, network).parameters()])
            for state, _ in seen
        ]
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
        assert moved == [True] * (moves - 1) + [False] * (6 - moves), network

    again = TrainState(config)
    checkpoint.load(tmp_path / "000000000016", again)
    assert again.samples == 16
    train(config, again, source)
    tensors, expected = checkpoint.tensors(again), checkpoint.tensors(whole)
    assert all(torch.equal(value, expected[name]) for name, value in tensors.items())


def test_reconstruct_decodes_the_posterior_mean() -> None:
    torch.manual_seed(0)
    exports = audio_vae.Model(SMALL).eval().exports()
    sound = batch()["audio"]
    with torch.no_grad():
        mu, _ = exports["encode"].module(sound)
        decoded = exports["decode"].module(mu)
        assert torch.equal(exports["reconstruct"].module(sound), decoded)
        drawn = exports["sample"].module(mu)
    assert torch.allclose(drawn, decoded, atol=1e-5), "an untrained prior is the standard normal"


def test_unused_latent_is_a_collapse() -> None:
    model = audio_vae.Model(SMALL)
    assert "KL 0.01 nats" in model.collapsed({"prior/loss": 0.01})
    assert model.collapsed({"prior/loss": 20.0}) == model.collapsed({}) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (1, 28, 28)}, "a sound of one channel"),
        ({"latent": 5}, "latent must be even"),
        ({"narrowest": 0.0}, "narrowest must be < 0"),
        ({"prior_width": 0}, "prior_width must be > 0"),
        ({"done": 8, "decay": 9}, r"decay must be in \[0, done\], here \[0, 8\], got 9"),
        ({"encoder_widths": (8,) * 8}, r"cannot be halved 8 times \(encoder_widths\)"),
        ({"encoder_widths": (8, 0)}, "encoder_widths must all be > 0"),
    ],
)
def test_impossible_configs_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        audio_vae.Model(replace(SMALL, **changes))


def test_preset_fits_minutes_of_one_core() -> None:
    model = models.build(models.preset("audio_vae:spoken_digits"))
    assert sum(np.prod(p.shape) for p in model.parameters()) < 1.5e6
