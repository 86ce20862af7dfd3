"""A batch in parts is the whole batch; steps are gated on the device; networks may be compiled."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from aigc import data, models
from aigc.config import TrainConfig
from aigc.model import GenerativeModel
from aigc.training import checkpoint
from aigc.training.divergence import NonFiniteLoss
from aigc.training.loop import TrainState, train
from tests.training.small_runs import differing, finish, float64, resumed, small, worst

pytestmark = pytest.mark.process


def without_batch_norm(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, batch_norm=False))


@pytest.mark.parametrize(
    "config",
    [
        float64("fc_gan:mlp", samples=16 * 20),
        float64("conv_vae:digits"),
        without_batch_norm(float64("dcgan:digits")),  # spectral norm iterates once per batch
        without_batch_norm(float64("dcgan:wgan_gp")),
    ],
    ids=lambda config: config.preset,
)
def test_micro_batches_equal_the_whole_batch(config: TrainConfig) -> None:
    whole = finish(config)
    for size in (5, 8):  # parts of 5, 5, 5, 1 and of 8, 8
        parts = finish(replace(config, micro_batch=size))
        assert 0 < worst(whole, parts) < 1e-9


def spectral(**changes: Any) -> TrainConfig:
    """Spectral norms in both networks, that of the discriminator applied several times a batch."""
    config = float64("fc_gan:mlp", samples=16 * 6)
    return replace(config, model=replace(config.model, **changes))


@pytest.fixture
def spectral_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.utils.parametrizations import spectral_norm

    from aigc.models import fc_gan

    class Model(fc_gan.Model):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for module in self.modules():
                if isinstance(module, torch.nn.Linear):
                    spectral_norm(module)

    monkeypatch.setattr(fc_gan, "Model", Model)


@pytest.mark.usefixtures("spectral_generator")
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "hinge"},
        {"objective": "relativistic", "penalty": "r1_r2"},
        {"objective": "wasserstein", "penalty": "gradient", "discriminator_steps": 2},
    ],
    ids=lambda changes: changes["objective"],
)
def test_spans_iterate_spectral_norms_as_the_whole_batch_does(
    changes: Any, checkpointed: bool
) -> None:
    whole = finish(spectral(**changes))
    parts = replace(spectral(**changes), micro_batch=5, activation_checkpointing=checkpointed)
    assert 0 < worst(whole, finish(parts)) < 1e-9


@pytest.mark.usefixtures("spectral_generator")
@pytest.mark.parametrize("kept", ["spectral_vectors", "restore_buffers"])
def test_without_it_they_would_differ(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc.training import step

    config = spectral(objective="relativistic")
    whole = finish(config)
    monkeypatch.setattr(step, kept, lambda *_: [])
    assert worst(whole, finish(replace(config, micro_batch=5))) > 1e-9


def test_micro_batches_resume_bit_equal(tmp_path: Any) -> None:
    config = small("dcgan:article", micro_batch=6)  # BatchNorm and Dropout as well
    assert differing(finish(config), resumed(config, tmp_path, at=3)) == []


def test_an_infinite_gradient_of_a_finite_loss_takes_no_step() -> None:
    config = small("fc_gan:mlp")
    state = TrainState(config)
    first = next(state.model.generator.parameters())
    before = checkpoint.snapshot(state, {}).tensors

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")

    first.register_hook(spoil)
    with pytest.raises(NonFiniteLoss, match=r"phase 'generator'.*gradient_norm"):
        train(config, state, data.load(config.data, config.model))
    after = checkpoint.snapshot(state, {}).tensors
    moved = {name.split("/")[1].split(".")[0] for name in differing_of_both(before, after)}
    assert moved == {"discriminator"}  # whose step came before, and was good


def differing_of_both(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [n for n in a if n.startswith("model/") and not torch.equal(a[n], b[n])]


def test_without_half_life_the_ema_equals_the_weights() -> None:
    config = small("dcgan:digits", ema_half_life=0)
    state = TrainState(config)
    train(config, state, data.load(config.data, config.model))
    served = state.ema_model().generator.state_dict()
    trained = state.model.generator.state_dict()
    assert all(torch.equal(served[name], trained[name]) for name in trained)


def test_fresh_noise_draws_new_latents_for_the_generator() -> None:
    reused = small("fc_gan:mlp", samples=16)
    fresh = replace(reused, model=replace(reused.model, fresh_noise=True))
    a, b = finish(reused), finish(fresh)
    changed = {name.split(".")[0] for name in differing_of_both(a, b)}
    assert changed == {"model/generator"}  # the discriminator's step saw the same fakes


@pytest.mark.parametrize("preset", ["conv_vae:digits", "dcgan:digits"])
def test_bfloat16_keeps_float32_weights_and_learns(preset: str) -> None:
    config = small(preset, samples=16 * 10)
    whole = finish(config)
    half = finish(replace(config, precision="bfloat16"))
    assert {v.dtype for v in half.values()} == {v.dtype for v in whole.values()}
    moved = worst(whole, finish(replace(config, samples=16)))
    assert 0 < worst(whole, half) < moved  # near what float32 learned


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("preset", ["dcgan:digits", "dcgan:wgan_gp", "conv_vae:digits"])
def test_compiled_networks_give_the_same_gradients(preset: str) -> None:
    config = float64(preset, samples=16)
    assert worst(finish(config), finish(replace(config, compile=True))) < 1e-9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_gpu_stops_late_but_without_a_step(precision: str, compiled: bool) -> None:
    config = small("dcgan:digits", precision=precision, compile=compiled, samples=16 * 40)
    state = TrainState(config, "cuda")
    assert train(config, state, data.load(config.data, config.model)) == "done"
    dataset = data.load(config.data, config.model)
    before = checkpoint.snapshot(state, {}).tensors
    broken = replace(dataset, samples=dataset.samples * float("nan"))
    with pytest.raises(NonFiniteLoss, match="after 640 samples"):
        train(replace(config, samples=16 * 80), state, broken)
    after = checkpoint.snapshot(state, {}).tensors
    weights = [n for n in differing_of_both(before, after) if n.endswith(("weight", "bias"))]
    assert weights == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_batches_do_not_synchronise() -> None:
    config = small("dcgan:digits", samples=16 * 4)
    state, dataset = TrainState(config, "cuda"), data.load(config.data, config.model)
    train(config, state, dataset)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(replace(config, samples=16 * 8), state, dataset)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_reseed_equals_torch_manual_seed() -> None:
    from aigc.rng import derive_seed, reseed

    reseed("key", torch.device("cpu"))
    ours = torch.rand(3)
    torch.manual_seed(derive_seed("key"))
    assert torch.equal(ours, torch.rand(3))


def test_collapsed_names_the_reason() -> None:
    config = models.preset("fc_gan:mlp")
    model: GenerativeModel = models.build(config)
    assert model.collapsed({"discriminator/real": 1.0, "discriminator/fake": -1.0}) == ""
    assert "certain" in model.collapsed({"discriminator/real": 9.0, "discriminator/fake": -9.0})
    hinge = models.build(replace(config, model=replace(config.model, objective="hinge")))
    assert hinge.collapsed({"discriminator/real": 9.0, "discriminator/fake": -9.0}) == ""
