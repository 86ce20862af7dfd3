"""The style-based GAN: truncation, mixing, and the two halves that make the whole."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from aigc import models
from aigc.model import Export
from aigc.models.style_gan import MEAN_DECAY, Model
from aigc.rng import BatchRNG
from tests.small_models import smaller
from tests.training.small_runs import finish, worst

N = 3


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = Model(smaller(models.preset("style_gan:pictures64")).model).double()  # type: ignore[arg-type]
    for layer in model.generator.layers:
        layer.strength.data.fill_(0.3)
    model.generator.mean_w.normal_()
    return model.eval()


def run(export: Export, **changes: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for spec in export.signature.inputs:
        if spec.kind == "setting":
            value = torch.full((N,), spec.default, dtype=torch.float64)
            value = value.long() if spec.dtype == "int64" else value
        else:
            seeded = generator.manual_seed(len(spec.name))
            value = torch.randn(N, *spec.fixed_shape, dtype=torch.float64, generator=seeded)
        inputs.append(changes.get(spec.name, value))
    with torch.no_grad():
        return export.module(*inputs)  # type: ignore[no-any-return]


def test_map_and_synthesize_are_the_halves_of_sample(model: Model) -> None:
    exports = model.exports()
    truncation = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    w = run(exports["map"], truncation=truncation)
    halves = run(exports["synthesize"], w=w)
    assert torch.equal(halves, run(exports["sample"], truncation=truncation))
    assert torch.equal(w[2, 0], model.generator.mean_w)


def test_crossover_chooses_the_latent_of_each_layer(model: Model) -> None:
    exports = model.exports()
    layers = len(model.generator.layers)
    latent = torch.randn(N, model.config.latent, dtype=torch.float64)
    other = torch.randn(N, model.config.latent, dtype=torch.float64)
    given: dict[str, Any] = {"latent": latent, "other": other}
    crossover = torch.tensor([0, layers, 2])
    mixed = run(exports["mix"], crossover=crossover, **given)
    assert torch.equal(mixed[0], run(exports["sample"], latent=other)[0])
    assert torch.equal(mixed[1], run(exports["sample"], latent=latent)[1])
    first, second = run(exports["map"], latent=latent), run(exports["map"], latent=other)
    w = torch.cat([first[:, :2], second[:, 2:]], 1)
    assert torch.equal(mixed[2], run(exports["synthesize"], w=w)[2])


def test_noise_changes_pixels_by_its_strength(model: Model) -> None:
    sample = model.exports()["sample"]
    silent = torch.zeros(N, model.generator.num_noise, dtype=torch.float64)
    assert not torch.equal(run(sample, noise=silent), run(sample))
    for layer in model.generator.layers:
        layer.strength.data.zero_()
    assert torch.equal(run(sample, noise=silent), run(sample))


def test_mean_of_w_is_that_of_the_whole_batch(model: Model) -> None:
    model.generator.mean_w.zero_()
    like = torch.zeros(1, dtype=torch.float64)
    batch = {"image": torch.zeros(4, *model.config.shape, dtype=torch.float64)}
    z = BatchRNG(0, 0, 4, 0, 4, like).normal("latent", model.config.latent)
    expected = model.generator.map(z, None).mean(0) * (1 - MEAN_DECAY)
    parts = []
    for start, stop in ((0, 1), (1, 4)):
        noise = BatchRNG(0, 0, 4, start, stop, like)
        rows = {"image": batch["image"][start:stop]}
        parts.append(model.batch_sums(rows, noise, model.prepare(rows, noise, ())))
    model.update({name: parts[0][name] + parts[1][name] for name in parts[0]})
    torch.testing.assert_close(model.generator.mean_w, expected)


def test_micro_batches_equal_the_whole() -> None:
    config = smaller(models.preset("style_gan:pictures64"))
    data = replace(config.data, source="digits")
    model = replace(config.model, shape=(1, 28, 28), num_classes=10, penalty_every=2)  # type: ignore[call-arg]
    config = replace(
        config, model=model, data=data, batch=16, samples=48, precision="float64", threads=1
    )
    assert worst(finish(config), finish(replace(config, micro_batch=5))) < 1e-9
