"""Networks at unusual sizes, penalties, the dry run, and the configs that are refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc import data, models
from aigc.config import DataConfig, OptimizerConfig, TrainConfig
from aigc.models import (
    audio_vae,
    conv_vae,
    dcgan,
    fc_gan,
    fc_vae,
    multimodal_vae,
    resnet_gan,
    spectrogram_gan,
    style_gan,
)
from aigc.rng import BatchRNG
from aigc.training.dry_run import describe

PRESETS = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]


def small(**changes: Any) -> dcgan.Config:
    return dcgan.Config(
        **{"latent": 4, "generator_widths": (8, 4), "discriminator_widths": (4, 8)} | changes
    )


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kernel", "strides"), [(4, (2, 2)), (5, (2, 2)), (5, (1, 4)), (3, (2,))])
def test_dcgan_makes_images_of_the_requested_size(
    size: int, channels: int, kernel: int, strides: tuple[int, ...]
) -> None:
    shape = (channels, size, size)
    widths = (8, 4)[: len(strides)]
    config = small(
        shape=shape, generator_kernel=kernel, generator_strides=strides, generator_widths=widths
    )
    model = dcgan.Model(config)
    fake = model.generator(torch.zeros(2, 4), None)
    assert fake.shape == (2, *shape)
    logits, classes = model.discriminator(fake, None)
    assert logits.shape == (2,)
    assert classes is None


@pytest.mark.parametrize(("height", "width"), [(8, 16), (12, 4)])
def test_images_need_not_be_square(height: int, width: int) -> None:
    shape = (1, height, width)
    assert dcgan.Model(small(shape=shape)).generator(torch.zeros(2, 4), None).shape[1:] == shape
    vae = conv_vae.Model(conv_vae.Config(shape=shape, latent=4, widths=(4, 8), hidden=8))
    assert vae.decode(vae.encode(torch.zeros(2, *shape))[0]).shape[1:] == shape


@pytest.mark.parametrize("side", [28, 32, 64, 128])
@pytest.mark.parametrize("preset", ["dcgan:digits", "dcgan:pictures64", "conv_vae:digits"])
def test_layers_fit_pictures_of_other_sizes(preset: str, side: int) -> None:
    config, shape = models.preset(preset).model, (3, side, side)
    sizes = config.sizes_for(shape)
    assert bool(sizes) == (side not in ((32, 64) if preset.endswith("64") else (28,)))
    fitted: Any = replace(config, shape=shape, **sizes)
    widths = fitted.widths if preset.startswith("conv_vae") else fitted.generator_widths
    assert side // 2 ** len(widths) in ((2, 4, 7) if not sizes else (4, 7))
    model = models.build(replace(models.preset(preset), model=fitted))
    assert max(p.numel() for p in model.parameters()) < 1_200_000


def test_layers_that_fit_and_sides_that_no_layers_fit_are_left() -> None:
    config = models.preset("dcgan:digits").model
    assert not any(config.sizes_for((3, side, side)) for side in (8, 16, 28, 30, 50))
    assert config.sizes_for((2,)) == {}


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: small(shape=(784,)), r"shape must be \(C, H, W\).*rank 2.*take for example"),
    (lambda: conv_vae.Config(shape=(2,)), r"shape must be|likelihood bernoulli"),
    (lambda: small(shape=(1, 30, 30)), r"shape \(1, 30, 30\) is not reached.*multiples of 4; take"),
    (lambda: conv_vae.Config(shape=(1, 28, 30)), "is not reached.*multiples of 4; take 28"),
    (lambda: small(generator_strides=(2,)), "one entry per transposed convolution, got 2 widths"),
    (lambda: small(upsampling="resize"), "kernel 4 of a resize convolution .*take kernel 3"),
    (lambda: conv_vae.Config(couplings=-1), "couplings must be >= 0, got -1"),
    (lambda: conv_vae.Config(flow_width=0), "flow_width must be > 0, got 0"),
    (lambda: conv_vae.Config(hidden=-1), "hidden must be >= 0, got -1"),
    (lambda: small(feature_matching=-1.0), "feature_matching must be >= 0, got -1"),
    (lambda: style_gan.Config(mixing=2.0), r"mixing must be in \[0, 1\), got 2"),
    (lambda: style_gan.Config(mapping_layers=0), "mapping_layers must be > 0, got 0"),
    (lambda: style_gan.Config(shape=(3, 7, 7)), r"shape \(3, 7, 7\) is not halved.*larger sides"),
    (lambda: resnet_gan.Config(blocks=0), "blocks must be > 0, got 0"),
    (lambda: resnet_gan.Config(shape=(3, 50, 50)), "halved to 25 x 25 only"),
    (lambda: small(generator_kernel=1), "kernel 1 with stride 2 .*take kernel 4"),
    (
        lambda: small(generator_kernel=4, generator_strides=(1, 2)),
        "kernel 4 with stride 1 .*take kernel 3",
    ),
    (lambda: small(objective="wasserstein"), "objective wasserstein .*take penalty gradient"),
    (lambda: small(auxiliary=1.0), "auxiliary 1.0 needs labels: set --model.auxiliary 0"),
    (lambda: small(auxiliary=-1.0), "auxiliary must be >= 0, got -1"),
    (lambda: small(dropout=1.0), r"dropout must be in \[0, 1\), got 1"),
    (lambda: small(discriminator_steps=0), "discriminator_steps must be > 0, got 0"),
    (lambda: small(latent=0), "latent must be > 0, got 0"),
    (lambda: small(num_classes=-1), "num_classes must be >= 0, got -1"),
    (lambda: fc_gan.Config(shape=(2, 2, 2, 2)), r"shape must be \(C, H, W\), .* or \(features,\)"),
    (lambda: fc_gan.Config(shape=(0,)), r"sizes > 0, got \(0,\)"),
    (lambda: fc_vae.Config(shape=(2,)), "likelihood bernoulli .*take gaussian"),
    (
        lambda: dcgan.Config(shape=(1, 8, 8), discriminator_widths=(4, 8, 16, 32, 64)),
        r"shape \(1, 8, 8\) is too small for 5 halvings, widths \(4, 8, 16, 32, 64\).*take fewer",
    ),
    (lambda: dcgan.Config(generator_strides=(0, 2)), r"strides must all be > 0, got \(0, 2\)"),
    (lambda: dcgan.Config(generator_widths=(0, 4)), r"widths must all be > 0, got \(0, 4\)"),
    (lambda: dcgan.Config(discriminator_kernel=0), "kernel must be > 0, got 0"),
    (lambda: dcgan.Config(discriminator_hidden=-1), "discriminator_hidden must be >= 0, got -1"),
    (lambda: dcgan.Config(penalty_weight=-1.0), "penalty_weight must be >= 0, got -1"),
    (lambda: replace(models.preset("fc_gan"), micro_batch=-1), "micro_batch must be >= 0, got -1"),
    (lambda: DataConfig(loaders=-1), r"loaders must be in \[0, 1024\], got -1"),
    (lambda: fc_vae.Config(beta=-1.0), "beta must be >= 0, got -1"),
    (lambda: fc_vae.Config(gaussian_std=0.0), "gaussian_std must be > 0, got 0"),
    (lambda: OptimizerConfig(learning_rate=0.0), "learning_rate must be > 0, got 0"),
    (lambda: OptimizerConfig(betas=(0.5, 1.0)), r"betas must be in \[0, 1\)"),
    (lambda: replace(models.preset("fc_gan"), batch=1), "batch must be > 1, got 1"),
    (lambda: replace(models.preset("fc_gan"), seed=-1), r"seed must be in \[0, 2\^63\), got -1"),
    (lambda: replace(models.preset("fc_gan"), samples=0), "samples must be > 0, got 0"),
    (lambda: replace(models.preset("fc_gan"), grid_interval=-1), "grid_interval must be >= 0"),
    (lambda: models.preset("dcgna"), "unknown model 'dcgna'; did you mean 'dcgan'"),
    (lambda: models.preset("transformer"), "unknown model 'transformer'; there are: .*conv_vae, "),
    (lambda: models.preset("dcgan:digit"), "has no preset 'digit'; did you mean 'digits'"),
    (lambda: data.load(DataConfig(source="digts"), fc_gan.Config()), "did you mean 'digits'"),
    (
        lambda: data.load(DataConfig(), fc_gan.Config(num_classes=7)),
        "num_classes is 7, data 'digits' has 10 classes; set --model.num-classes 10 or 0",
    ),
    (
        lambda: data.load(DataConfig(), fc_gan.Config(shape=(3, 28, 28))),
        "gives grey images.*set --model.shape 1 8 8",
    ),
    (
        lambda: data.load(DataConfig(source="ring"), fc_gan.Config()),
        r"points of shape \(2,\).*take fc_gan:ring",
    ),
    *(
        (partial(model.Config, momentum=1.0), r"momentum must be in \[0, 1\), got 1")
        for model in (audio_vae, multimodal_vae, spectrogram_gan)
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_impossible_choice_is_refused_with_the_fix(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modell": {}}, "modell"),
        ({"model": {"latent": "many"}}, "latent"),
        ({"data": {"source": 3}}, "source"),
        ({"samples": "all"}, "config.json does not fit"),
        ({"batch": 16.5}, "batch"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_impossible_config_is_refused_by_field_name(change: dict[str, Any], message: str) -> None:
    document = models.preset("fc_gan").to_json() | change
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_json(document, fc_gan.Config)


@pytest.mark.parametrize(
    ("penalty", "of_norm"),
    [("r1", lambda norm: 0.5 * norm**2), ("gradient", lambda norm: (norm - 1) ** 2)],
)
def test_penalty_enters_the_discriminator_loss_with_its_weight(
    penalty: Any, of_norm: Callable[[Tensor], Tensor]
) -> None:
    """The discriminator of preset `seed` is linear, so its slope is its weight."""

    def loss(**changes: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        torch.manual_seed(0)
        config = replace(models.preset("fc_gan:seed").model, **changes)
        model = fc_gan.Model(config).double()
        x = torch.randn(4, 1, 28, 28, dtype=torch.float64)
        noise = BatchRNG(0, 0, 4, 0, 4, x)
        shared = model.prepare({"image": x}, noise, {"discriminator"})
        value, metrics = model.loss("discriminator", {"image": x}, noise, shared)
        return value, metrics, model.discriminator.verdict.logit.weight.norm()

    plain, metrics, slope = loss()
    assert "penalty" not in metrics
    penalised, metrics, _ = loss(penalty=penalty, penalty_weight=3.0)
    assert torch.allclose(metrics["penalty"], of_norm(slope))
    assert torch.allclose(penalised - plain, 3 * of_norm(slope))


@pytest.mark.parametrize("preset", ["dcgan:digits", "conv_vae:digits", "fc_gan:ring"])
def test_dry_run_shows_networks_with_shapes_and_parameter_counts(preset: str) -> None:
    config = models.preset(preset)
    text = describe(config)
    assert json.loads(text[: text.index("\n}") + 2]) == config.to_json()
    torch.manual_seed(0)
    for name, network in models.build(config).named_children():
        count = sum(p.numel() for p in network.parameters())
        assert f"{name}: {count:,} parameters" in text
        layers = re.findall(rf"^  {name}\.\S+ +\w+ +\(N, [\d, ]*\) +([\d,]+)$", text, re.M)
        assert sum(int(n.replace(",", "")) for n in layers) == count, "layers do not add up"
    assert "MiB" in text


def test_dry_run_shows_output_shapes() -> None:
    text = describe(models.preset("dcgan:digits"))
    assert re.search(r"generator\.\S+ +ConvTranspose2d +\(N, 1, 28, 28\)", text)
    assert re.search(r"discriminator\.\S+ +Conv2d +\(N, 32, 14, 14\)", text)


@pytest.mark.parametrize("preset", PRESETS)
def test_suggested_flags_suffice_for_unlabelled_pictures(preset: str, tmp_path: Path) -> None:
    model = models.preset(preset).model
    if not model.num_classes or model.modality != "image":
        return
    np.savez(tmp_path / "data.npz", images=np.full((30, *model.shape), -0.5, np.float32))
    config = DataConfig(source="npz", path=str(tmp_path / "data.npz"))
    with pytest.raises(ValueError, match=r"has no labels; set --model\.num-classes 0") as raised:
        data.load(config, model)
    advised = re.findall(r"--model\.([a-z-]+) (\d+)", str(raised.value))
    followed = replace(model, **{flag.replace("-", "_"): int(value) for flag, value in advised})
    assert len(data.load(config, followed)) > 0
