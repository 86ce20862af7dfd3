"""Fields of a model that do nothing at the values of others: preflight names those that are set."""

from dataclasses import is_dataclass, replace
from typing import Any

import pytest
import torch

from aigc import data, models
from aigc.config import ModelConfig
from aigc.config.schedule import values
from aigc.rng import BatchRNG
from aigc.training.loop import TrainState
from aigc.training.preflight import rehearse
from tests.small_models import narrow, smaller
from tests.training.small_runs import small

pytestmark = pytest.mark.process

PRESETS = ("dcgan:digits", "dcgan:pictures64", "conv_vae:digits", "conv_vae:pictures64")
PRESETS += ("autoencoder:kl8", "autoencoder:vq8", "autoencoder:fsq8", "upscaler:x2")
PRESETS += ("text_vae:numbers", "style_gan:pictures64")
SHAPE = (3, 16, 16)


def other(value: Any) -> Any:
    """A value of the kind of `value` that a config allows."""
    if is_dataclass(value):
        return replace(value, learning_rate=3e-4)
    if isinstance(value, tuple):
        return tuple(width + 1 for width in value)
    return value + 1 if isinstance(value, int) else min(values(value)) / 2


def trained(config: ModelConfig, preset: str) -> dict[str, torch.Tensor]:
    """Gradients of every phase on two rows, by phase and parameter."""
    run = small(preset, model=config)
    state = TrainState(run)
    like = next(state.model.parameters())
    drawn = torch.Generator().manual_seed(0)
    batch = {
        "label": torch.zeros(2, dtype=torch.int64),
        "image": torch.rand((2, *config.shape), generator=drawn),
    }
    if config.modality == "text":
        batch = {"text": torch.randint(config.num_tokens or 20, (2, *config.shape))}
    noise = BatchRNG(0, 0, 2, 0, 2, like, run.samples)
    found = {}
    shared = state.model.prepare(batch, noise, {phase.name for phase in state.phases})
    for phase in state.phases:
        loss, _ = state.model.whole_loss(phase.name, batch, noise, shared)
        names, parameters = zip(*phase.module.named_parameters(), strict=True)
        grads = torch.autograd.grad(loss, parameters, retain_graph=True)
        found |= {f"{phase.name}/{k}": g for k, g in zip(names, grads, strict=True)}
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_fields_without_effect_leave_gradients_bit_equal(preset: str) -> None:
    config = narrow(smaller(models.preset(preset))).model
    expected = trained(config, preset)
    assert config.without_effect()
    for name in config.without_effect():
        changed = replace(config, **{name: other(getattr(config, name))})
        assert changed != config
        found = trained(changed, preset)
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_rehearsal_warns_of_fields_without_effect_that_are_set() -> None:
    """Not of those that the preset has all the same."""
    config = small("dcgan:digits")
    source = data.load(config.data, config.model)
    assert {"penalty_every", "augmentation_ramp"} <= set(config.model.without_effect())
    changed = replace(config.model, penalty_every=4)  # type: ignore[call-arg]
    said = rehearse(replace(config, model=changed), source)
    assert said == ["--model.penalty-every has no effect: penalty is none"]
    changed = replace(changed, penalty="r1")
    assert rehearse(replace(config, model=changed), source) == []
