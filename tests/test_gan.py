"""The GAN family's recipes: lazy penalties, pairing, augmentation, and their identities."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aigc import models
from aigc.config import OptimizerConfig, TrainConfig
from aigc.gan import GAN, WATCH_EVERY, GANConfig
from aigc.nn.layers import frozen_power_iteration
from aigc.rng import BatchRNG
from tests.training.small_runs import differing, finish, resumed, small, worst

ROWS = 8
REAL = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))


class Linear(nn.Module):
    """Logits with a slope of (3, -4), whose R1 penalty is 25 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([3.0, -4.0]))

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, None]:
        return x @ self.slope, None


class Scale(nn.Module):
    """z to a point."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return z[:, :2] * self.scale


def gan(**changes: Any) -> GAN:
    return GAN(GANConfig(shape=(2,), latent=2, **changes), Scale(), Linear())


def loss(model: GAN, phase: str, samples: int) -> tuple[float, dict[str, float]]:
    noise = BatchRNG(0, samples, ROWS, 0, ROWS, REAL, total=1000)
    batch = {"vector": REAL}
    shared = model.prepare(batch, noise, {phase})
    value, metrics = model.loss(phase, batch, noise, shared)
    return value.item(), {name: metric.item() for name, metric in metrics.items()}


@pytest.mark.parametrize(("penalty", "expected"), [("none", 0), ("r1", 12.5), ("r1_r2", 25)])
def test_zero_centred_penalties_are_those_of_the_slope(penalty: Any, expected: float) -> None:
    weighted, metrics = loss(gan(penalty=penalty, penalty_weight=2.0), "discriminator", 0)
    plain, _ = loss(gan(), "discriminator", 0)
    assert weighted - plain == pytest.approx(2 * expected)
    assert metrics.get("penalty", 0) == pytest.approx(expected)


def test_a_lazy_penalty_is_due_on_every_nth_batch_with_n_times_the_weight() -> None:
    lazy = gan(penalty="r1", penalty_weight=2.0, penalty_every=3)
    for batch in range(7):
        weighted, metrics = loss(lazy, "discriminator", batch * ROWS)
        plain, _ = loss(gan(), "discriminator", batch * ROWS)
        due = batch % 3 == 0
        assert weighted - plain == pytest.approx(3 * 2 * 12.5 if due else 0)
        assert ("penalty" in metrics) == due


def test_a_scheduled_weight_is_that_of_the_batch() -> None:
    model = gan(penalty="r1", penalty_weight="0:0 80%:4")
    for samples, weight in ((0, 0.0), (400, 2.0), (800, 4.0), (960, 4.0)):
        plain, _ = loss(gan(), "discriminator", samples)
        assert loss(model, "discriminator", samples)[0] - plain == pytest.approx(weight * 12.5)


def test_relativistic_losses_depend_on_differences_of_pairs_alone() -> None:
    # softplus(a) - softplus(-a) = a: the two losses differ by the mean difference of the logits.
    model = gan(objective="relativistic")
    first, metrics = loss(model, "discriminator", 0)
    second, _ = loss(model, "generator", 0)
    assert first - second == pytest.approx(metrics["fake"] - metrics["real"], abs=1e-5)


def watched(model: GAN, samples: int) -> dict[str, Tensor]:
    noise = BatchRNG(0, samples, ROWS, 0, ROWS, REAL, total=1000)
    batch = {"vector": REAL}
    return model.batch_sums(batch, noise, model.prepare(batch, noise, {"discriminator"}))


def test_running_means_of_logits_move_on_every_fourth_batch() -> None:
    model = gan(lecam=0.5)
    for batch in range(WATCH_EVERY + 1):
        model.update(watched(model, batch * ROWS))
    on_real = (REAL @ torch.tensor([3.0, -4.0])).mean().item()
    assert model.mean_logits[0].item() == pytest.approx(on_real * (1 - 0.99**2), rel=1e-5)


def test_lecam_is_the_distance_to_the_other_side() -> None:
    model = gan(lecam=0.5)
    model.mean_logits.copy_(torch.tensor([2.0, -1.0]))
    value, metrics = loss(model, "discriminator", 0)
    noise = BatchRNG(0, 0, ROWS, 0, ROWS, REAL)
    fake, _ = model.prepare({"vector": REAL}, noise, ())
    on_real, on_fake = (model.discriminator(x, None)[0] for x in (REAL, fake))
    expected = (on_real + 1).square().mean() + (on_fake - 2).square().mean()
    assert metrics["lecam"] == pytest.approx(expected.item())
    assert value - loss(gan(), "discriminator", 0)[0] == pytest.approx(expected.item() / 2)


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 1), (-100.0, -1)])
def test_probability_rises_while_real_logits_are_positive_and_falls_else(
    bias: float, expected: int
) -> None:
    config = models.preset("dcgan:digits").model
    model = models.load("dcgan").Model(
        replace(
            config,
            augmentation=("flip",),
            augmentation_target=0.6,
            augmentation_ramp=ROWS * 1000,
        )
    )
    model.probability.fill_(0.5)
    sums = torch.tensor([bias * ROWS, 0.0, expected * ROWS, ROWS])
    for _ in range(3):
        model.update({"logits": sums})
    assert model.probability.item() == pytest.approx(0.5 + expected * 3 * WATCH_EVERY / 1000)
    model.update({"logits": torch.zeros(4)})
    assert model.probability.item() == pytest.approx(0.5 + expected * 3 * WATCH_EVERY / 1000)


def test_feature_matching_is_the_distance_of_mean_features() -> None:
    config = small("dcgan:digits").model
    model = models.load("dcgan").Model(replace(config, feature_matching=2.0)).double()
    plain = models.load("dcgan").Model(config).double()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(ROWS, *config.shape, dtype=torch.float64).clamp(-1, 1)
    batch = {"image": x, "label": torch.arange(ROWS) % config.num_classes}
    noise = BatchRNG(0, 0, ROWS, 0, ROWS, x)
    with frozen_power_iteration(model, True), frozen_power_iteration(plain, True):
        shared = model.prepare(batch, noise, {"generator"})
        value, metrics = model.whole_loss("generator", batch, noise, shared)
        without, _ = plain.whole_loss("generator", batch, noise, shared)
        real, fake = (model.discriminator.layers(rows).mean(0) for rows in (x, shared[0]))
    expected = (real - fake).square().mean()
    assert metrics["feature_matching"].item() == pytest.approx(expected.item())
    assert (value - without).item() == pytest.approx(2 * expected.item())
    assert model.has_loss_sums
    assert not plain.has_loss_sums


def test_feature_matching_needs_a_head() -> None:
    with pytest.raises(ValueError, match="this one has none; set feature_matching 0"):
        gan(feature_matching=1.0)


def test_models_that_watch_nothing_have_no_more_state() -> None:
    assert not [name for name, _ in gan(penalty="r1").named_buffers()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lecam": 0.1, "objective": "relativistic"}, "determines differences only"),
        ({"augmentation_target": 0.6}, "which has no kinds"),
        ({"lecam": -1.0}, "lecam must be >= 0, got -1"),
        ({"augmentation_ramp": 0}, "augmentation_ramp must be > 0 samples, got 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gan(**changes)


def test_augmentation_is_for_pictures() -> None:
    with pytest.raises(ValueError, match="augmentation changes pictures; leave it out for a model"):
        gan(augmentation=("flip",))


def recipe(**changes: Any) -> TrainConfig:
    """Everything at once."""
    config = small("dcgan:digits", **changes)
    options = OptimizerConfig(
        name="adamw",
        learning_rate="0:0 20%:2e-3 100%:0:cosine",
        betas=(0.0, "0:0.9 100%:0.99"),
        weight_decay=0.01,
        clip_norm=1.0,
    )
    model = replace(
        config.model,
        batch_norm=False,
        spectral_norm=False,
        objective="relativistic",
        penalty="r1_r2",
        penalty_weight="0:0.5 100%:0.05:exponential",
        penalty_every=2,
        augmentation=("flip", "colour", "translation", "cutout"),
        augmentation_probability="0:0 50%:0.8",
        generator_optimizer=options,
        discriminator_optimizer=options,
    )
    return replace(config, model=model)


def adapted(**changes: Any) -> TrainConfig:
    """A recipe for little data."""
    config = recipe(**changes)
    model = replace(
        config.model,
        objective="hinge",
        spectral_norm=True,
        augmentation_target=0.6,
        augmentation_ramp=200,
        lecam="0:0 50%:0.3",
    )
    return replace(config, model=model)


def matched(**changes: Any) -> TrainConfig:
    """Feature matching with everything else."""
    config = adapted(**changes)
    model = replace(
        config.model, feature_matching="0:0 50%:2", augmentation_target=0.0, fresh_noise=True
    )
    return replace(config, model=model)


@pytest.mark.parametrize("make", [recipe, adapted, matched])
def test_resumed_recipe_equals_uninterrupted(make: Any, tmp_path: Any) -> None:
    assert differing(finish(make()), resumed(make(), tmp_path, at=3)) == []


@pytest.mark.parametrize("make", [recipe, adapted, matched])
def test_micro_batches_of_a_recipe_equal_the_whole(make: Any) -> None:
    config = make(precision="float64")
    assert worst(finish(config), finish(replace(config, micro_batch=5))) < 1e-9


def test_a_recipe_survives_json_and_yaml(tmp_path: Any) -> None:
    from aigc import recipe as files

    config = recipe()
    assert TrainConfig.from_json(config.to_json(), type(config.model)) == config
    files.write(tmp_path / "run.yaml", config)
    assert files.read(tmp_path / "run.yaml") == config


def test_old_configs_mean_what_they_did() -> None:
    config = models.preset("dcgan:digits")
    document = config.to_json()
    for name in ("penalty_every", "augmentation", "augmentation_probability"):
        del document["model"][name]
    for side in ("generator_optimizer", "discriminator_optimizer"):
        document["model"][side] = {"learning_rate": 1e-3, "betas": [0.5, 0.99]}
    assert TrainConfig.from_json(document, type(config.model)) == config
