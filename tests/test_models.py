"""One contract over every model × preset, what breaks it, and the configs that are refused."""

import copy
import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aigc import data, models
from aigc.artifact import TensorSpec, autoregressive
from aigc.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from aigc.data import Dataset
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.models import (
    audio_vae,
    conv_vae,
    dcgan,
    fc_gan,
    fc_vae,
    multimodal_vae,
    spectrogram_gan,
)
from aigc.nn.autoregressive import AutoregressiveModule
from aigc.rng import BatchRNG
from aigc.sealing.example_inputs import example
from aigc.sealing.parity import budget
from aigc.training.dataloader import as_batch
from aigc.training.dry_run import describe

PRESETS = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]
ROWS = 4
"""Size of a batch here: more than one, so that rows can influence each other."""
SMALLER: dict[str, dict[str, Any]] = {"wavegan": {"widths": (16, 8), "latent": 16}}
"""Configs of models for GPUs: the same networks, of a size for a core."""


@cache
def dataset(config: DataConfig, model: ModelConfig) -> Dataset:
    return data.load(config, model)


def contract(preset: str) -> None:
    """Everything that the loop and the exporter take for granted, asserted of one preset."""
    config = models.preset(preset)
    if config.data.source == "spoken_digits":
        pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
    assert config.preset == preset, f"{preset} calls itself {config.preset}"
    smaller = SMALLER.get(config.model_name, {})
    config = replace(config, model=replace(config.model, **smaller))
    torch.manual_seed(0)
    model = models.build(config)
    phases = model.phases()
    check_phases(model, phases)
    check_config(config)
    source = dataset(config.data, config.model)
    batch: Batch = as_batch(source.samples[:ROWS], source.labels[:ROWS], config.model.modality)
    every = {phase.name for phase in phases}
    check_losses(model, phases, batch, every)
    for phase in phases:
        check_losses(model, (phase,), batch, {phase.name})
    check_exports(model)
    check_copies(config, model)


def check_phases(model: GenerativeModel, phases: tuple[Phase, ...]) -> None:
    names = [phase.name for phase in phases]
    assert len(set(names)) == len(names) > 0, f"names of phases are not unique: {names}"
    owned = [id(p) for phase in phases for p in phase.module.parameters()]
    assert len(set(owned)) == len(owned), "two phases own the same parameter"
    orphans = {id(p): n for n, p in model.named_parameters()}.items() - {
        id(p): n for n, p in model.named_parameters() if id(p) in owned
    }.items()
    assert not orphans, f"no phase owns {orphans}"
    assert all(phase.every >= 1 for phase in phases)
    assert {id(p) for p in model.averaged().parameters()} <= {id(p) for p in model.parameters()}


def check_config(config: TrainConfig) -> None:
    document = json.loads(json.dumps(config.to_json()))
    again = TrainConfig.from_json(document, models.load(config.model_name).Config)
    assert again == config, "config is not what it was after a round trip over JSON"


def check_losses(
    model: GenerativeModel, phases: tuple[Phase, ...], batch: Batch, due: set[str]
) -> None:
    """The phases of one batch, as the loop takes them, but without a step."""
    once = losses(copy.deepcopy(model), phases, batch, due, seed=1)
    # Dropout alone may draw from the global generator; all else is given by `noise`.
    drops = any(isinstance(module, nn.Dropout) for module in model.modules())
    again = losses(copy.deepcopy(model), phases, batch, due, seed=1 if drops else 2)
    assert once == again, f"not a function of model, batch and noise: {once} != {again}"


def losses(
    model: GenerativeModel, phases: tuple[Phase, ...], batch: Batch, due: set[str], seed: int
) -> dict[str, float]:
    model.train()
    given = {name: value.clone() for name, value in batch.items()}
    like = next(model.parameters())
    noise = BatchRNG(3, 0, ROWS, 0, ROWS, like)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(seed)
    shared = model.prepare(batch, noise, due)
    found: dict[str, float] = {}
    modules = {phase.name: phase.module for phase in model.phases()}
    for phase in phases:
        torch.manual_seed(seed)
        loss, metrics = model.loss(phase.name, batch, noise, shared)
        assert loss.shape == (), f"loss of {phase.name} is no scalar: {loss.shape}"
        assert loss.isfinite(), f"loss of {phase.name} is {loss}"
        named = dict(modules[phase.name].named_parameters())
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            assert gradient is not None, f"{phase.name} gives {name} no gradient"
            assert gradient.isfinite().all(), f"{phase.name} gives {name} an infinite gradient"
        assert any(g.abs().sum() > 0 for g in gradients if g is not None), "all gradients are zero"
        for name, value in metrics.items():
            assert value.shape == (), f"metric {name} is no scalar"
            assert value.isfinite(), f"metric {name} is {value}"
            assert not value.requires_grad, f"metric {name} is not detached"
        found |= {f"{phase.name}/loss": loss.item()}
        found |= {f"{phase.name}/{name}": value.item() for name, value in metrics.items()}
    assert all(p.grad is None for p in model.parameters()), "a loss went backward itself"
    assert all(p.requires_grad for p in model.parameters()), "a loss froze parameters"
    statistics = buffers_that_training_updates(model)
    for name, value in model.state_dict().items():
        assert name in statistics or torch.equal(value, before[name]), f"a loss changed {name}"
    assert all(torch.equal(batch[name], value) for name, value in given.items())
    return found


def buffers_that_training_updates(model: nn.Module) -> set[str]:
    """Running statistics of BatchNorm, and the power iteration of spectral normalisation."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) or ".parametrizations." in f".{path}."
        for name, _ in module.named_buffers(recurse=False)
    }


def check_exports(model: GenerativeModel) -> None:
    model = copy.deepcopy(model).eval()
    exports = model.exports()
    assert "sample" in exports, f"sample is not among the exports {list(exports)}"
    assert exports["sample"].signature.drawable, "sample needs more than a seed and a label"
    graphs: dict[str, list[Tensor]] = {}
    for name, part in exports.items():
        inputs = [torch.from_numpy(a) for a in example(part.signature, ROWS).values()]
        outputs = call(part, inputs)
        # Rounding in another batch is bounded as rounding in another runtime is.
        atol = budget(part.signature)[1]
        for spec, value in zip(part.signature.outputs, outputs, strict=True):
            check_output(name, spec, value)
        for row in range(ROWS):
            alone = call(part, [value[row : row + 1] for value in inputs])
            for together, single in zip(outputs, alone, strict=True):
                close = torch.allclose(together[row : row + 1], single, atol=atol, rtol=1e-5)
                assert close, f"{name} of a row depends on the rest of its batch"
        assert any((o[0] != o[1]).any() for o in outputs), f"{name} ignores its input"
        # Weights ten times as large: a range has to hold by construction, not by luck.
        loud = copy.deepcopy(part.module)
        with torch.no_grad():
            for parameter in loud.parameters():
                parameter *= 10
            big = call(Export(module=loud, signature=part.signature), inputs)
        for spec, value in zip(part.signature.outputs, big, strict=True):
            check_output(name, spec, value)
        if part.signature.step:
            check_steps(name, part, exports)
            continue
        latent = [torch.ones_like(i) for i in inputs]
        same = call(part, latent)
        first = graphs.setdefault(part.signature.graph, same)
        assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True)), (
            f"{part.signature.graph} is named by exports that compute different things"
        )


def check_steps(name: str, part: Export, exports: dict[str, Export]) -> None:
    """It runs the module whose graph it names, and can be run at all."""
    step = exports[part.signature.step]
    assert part.signature.graph == step.signature.graph, f"{name} has a graph of its own"
    assert isinstance(part.module, AutoregressiveModule), f"{name} does not run its step"
    autoregressive.check(name, part.signature, step.signature)


def call(part: Export, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        outputs = part.module(*inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def check_output(name: str, spec: TensorSpec, value: Tensor) -> None:
    what = f"{name}/{spec.name}"
    assert value.dtype == getattr(torch, spec.dtype), f"dtype of {what} is {value.dtype}"
    assert value.shape == (ROWS, *spec.shape), f"shape of {what} is {tuple(value.shape)}"
    if spec.range is not None:
        low, high = value.min().item(), value.max().item()
        assert spec.range[0] <= low <= high <= spec.range[1], (
            f"range of {what} is [{low}, {high}], promised {spec.range}"
        )


def check_copies(config: TrainConfig, model: GenerativeModel) -> None:
    """A deep copy and a fresh model with the same state compute the same bits."""
    torch.manual_seed(99)
    fresh = models.build(config)
    fresh.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    outputs = []
    for m in (model, copied, fresh):
        part = copy.deepcopy(m).eval().exports()["sample"]
        inputs = [torch.from_numpy(a) for a in example(part.signature, ROWS).values()]
        outputs.append(call(part, inputs)[0])
    assert torch.equal(outputs[0], outputs[1]), "a deep copy computes something else"
    assert torch.equal(outputs[0], outputs[2]), "the state of a model is not all in state_dict()"
    ours, theirs = {id(p) for p in model.parameters()}, {id(p) for p in copied.parameters()}
    assert not ours & theirs, "a deep copy shares parameters"


@pytest.mark.process
@pytest.mark.parametrize("preset", PRESETS)
def test_model_keeps_the_contract(preset: str) -> None:
    contract(preset)


GAN, VAE = "aigc.gan", "aigc.vae"
FC_GAN, DCGAN, FC_VAE = (f"aigc.models.{name}" for name in ("fc_gan", "dcgan", "fc_vae"))


@dataclass(frozen=True)
class Break:
    """A model file broken on purpose: text -> other text, and what the contract says to it."""

    what: str
    file: str
    edits: dict[str, str]
    says: str
    preset: str = "fc_gan:mlp"


_DENSE = "condition(z, label, self.config.num_classes)"
BREAKS = [
    Break("range", FC_GAN, {"2 * raw.sigmoid() - 1": "2 * raw.sigmoid()"}, "range of"),
    Break("not squashed", DCGAN, {").tanh()": ")"}, "range of", "dcgan:digits"),
    Break("dtype", FC_GAN, {"config.shape)  #": "config.shape).double()  #"}, "dtype"),
    Break(
        "sees its batch",
        FC_GAN,
        {"raw = self.layers": "raw = (lambda h: h - h.mean(0))", _DENSE: f"self.layers({_DENSE})"},
        "depends on the rest of its batch",
    ),
    Break("ignores its input", FC_GAN, {_DENSE: f"0 * {_DENSE}"}, "ignores its input"),
    Break(
        "layers without a gradient",
        FC_GAN,
        {"self.verdict(self.layers(x), label)": "self.verdict(self.layers(x).detach(), label)"},
        "gives .* no gradient",
    ),
    Break("fakes have no graph", GAN, {'"generator" in due': "False"}, "gives .* no gradient"),
    Break(
        "latents from the global generator",
        GAN,
        {'noise.normal("latent", self.config.latent)': "torch.randn(4, self.config.latent)"},
        "not a function of model, batch and noise",
    ),
    Break(
        "a loss that steps",
        GAN,
        {"fake, label = shared": "fake, label = shared; next(self.parameters()).data.mul_(0.9)"},
        "a loss changed",
    ),
    Break("a loss per sample", GAN, {"label), {}": "label) * logits, {}"}, "is no scalar"),
    Break("metrics with a graph", GAN, {"on_real.mean().detach()": "on_real.mean()"}, "detached"),
    Break(
        "two phases of one module",
        GAN,
        {"module=self.generator,": "module=self.discriminator,"},
        "own the same parameter",
    ),
    Break(
        "parameters of no phase",
        GAN,
        {"module=self.generator,": "module=self.generator.layers[-1],"},
        "no phase owns",
    ),
    Break("one name twice", GAN, {'name="generator"': 'name="discriminator"'}, "not unique"),
    Break("no sample", GAN, {'{"sample": Export': '{"draw": Export'}, "not among the exports"),
    Break(
        "state outside state_dict",
        FC_GAN,
        {
            "self.config = config\n": "self.config = config; self.gain = float(torch.rand(()))\n",
            "2 * raw.sigmoid()": "2 * (self.gain * raw).sigmoid()",
            "import math\n": "import math\nimport torch\n",
        },
        "not all in state_dict",
    ),
    Break(
        "one graph of two computations",
        VAE,
        {
            '"decode": Export(module=decode': '"decode": Export(module=_Negative(self)',
            "class _Encode": "class _Negative(_Decode):\n"
            "    def forward(self, *inputs):\n"
            "        return -super().forward(*inputs)\n\n\n"
            "class _Encode",
        },
        "compute different things",
        "fc_vae:digits",
    ),
    Break("JSON", FC_GAN, {"generator_widths=(),": "generator_widths=[],"}, "JSON", "fc_gan:seed"),
    Break("preset's name", FC_GAN, {'"fc_gan:mlp"': '"fc_gan:seed"'}, "calls itself fc_gan:seed"),
]


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, edits: dict[str, str]) -> None:
    """Put a changed copy in the place of a module, until the test ends."""
    source = inspect.getsource(import_module(name))
    for old, new in edits.items():
        assert source.count(old) >= 1, f"{name} no longer says {old!r}: nothing would break"
        source = source.replace(old, new)
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, f"<changed {name}>", "exec"), module.__dict__)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.what)
def test_contract_fails_for_mutants(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_module(monkeypatch, broken.file, broken.edits)
    model = f"aigc.models.{broken.preset.partition(':')[0]}"
    if broken.file != model:
        replace_module(monkeypatch, model, {})  # built anew on its broken base
    with pytest.raises((AssertionError, RuntimeError), match=broken.says):
        contract(broken.preset)


def test_replacing_a_module_by_its_copy_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GAN, FC_GAN):
        replace_module(monkeypatch, name, {})
    contract("fc_gan:mlp")


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


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: small(shape=(784,)), r"shape must be \(C, H, W\).*rank 2.*take for example"),
    (lambda: conv_vae.Config(shape=(2,)), r"shape must be|likelihood bernoulli"),
    (lambda: small(shape=(1, 30, 30)), r"shape \(1, 30, 30\) is not reached.*multiples of 4; take"),
    (lambda: conv_vae.Config(shape=(1, 28, 30)), "is not reached.*multiples of 4; take 28"),
    (lambda: small(generator_strides=(2,)), "one entry per transposed convolution, got 2 widths"),
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
        x = torch.randn(ROWS, 1, 28, 28, dtype=torch.float64)
        noise = BatchRNG(0, 0, ROWS, 0, ROWS, x)
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
