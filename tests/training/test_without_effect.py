"""Fields of a model that do nothing at the values of others: preflight names those that are set."""

from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from aigc import data, models
from aigc.config import ModelConfig
from aigc.config.schedule import values
from aigc.data import Dataset
from aigc.training import checkpoint
from aigc.training.loop import TrainState, train
from aigc.training.preflight import rehearse
from tests.small_models import narrow, smaller
from tests.training.small_runs import differing, small

pytestmark = pytest.mark.process

PRESETS = ("dcgan:digits", "dcgan:pictures64", "conv_vae:digits", "conv_vae:pictures64")
PRESETS += ("autoencoder:kl8", "autoencoder:vq8", "autoencoder:fsq8", "upscaler:x2")
PRESETS += ("vocoder:speech8k",)
PRESETS += ("text_vae:numbers", "text_vae:names", "style_gan:pictures64")


def other(value: Any) -> Any:
    """A value of the kind of `value` that a config allows."""
    if is_dataclass(value):
        return replace(value, learning_rate=3e-4)
    if isinstance(value, tuple):
        return tuple(width + 1 for width in value)
    return value + 1 if isinstance(value, int) else min(values(value)) / 2


def trained(config: ModelConfig, preset: str) -> tuple[dict[str, torch.Tensor], str]:
    """State after some batches of noise, by name, and the signatures of what is exported."""
    run = small(preset, model=config, batch=4, samples=20)
    rng = np.random.default_rng(0)
    if config.modality == "text":
        samples = rng.integers(0, config.num_tokens, (8, *config.shape))
    else:
        samples = rng.uniform(-1, 1, (8, *config.shape)).astype(np.float32)
    source = Dataset(name="noise", samples=samples, labels=np.zeros(8, np.int64), classes=("one",))
    torch.manual_seed(0)
    state = TrainState(run)
    assert train(run, state, source) == "done"
    exports = {name: export.signature for name, export in state.model.exports().items()}
    return checkpoint.tensors(state), repr(exports)


@pytest.mark.parametrize("preset", PRESETS)
def test_fields_without_effect_leave_run_and_signatures_equal(preset: str) -> None:
    config = narrow(smaller(models.preset(preset))).model
    expected, signatures = trained(config, preset)
    assert config.without_effect()
    for name in config.without_effect():
        changed = replace(config, **{name: other(getattr(config, name))})
        assert changed != config
        found, others = trained(changed, preset)
        assert differing(found, expected) == [], name
        assert others == signatures, name


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
