"""The autoencoder: configs, codes end to end in an artifact, and the message of a collapse."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aigc import models
from aigc.artifact import Artifact
from aigc.artifact.image_files import png, read_png
from aigc.artifact.input_values import InputError
from aigc.commands.export import write_artifact
from aigc.data import Dataset
from aigc.metrics import reconstruction
from aigc.metrics.similarity import psnr
from aigc.models import autoencoder
from aigc.models.autoencoder import Config, Model
from aigc.nn.image_codec import Moments
from aigc.rng import BatchRNG
from aigc.testing.model_under_test import drawn, model_batch
from aigc.training.state import TrainState
from aigc.training.step import SingleProcess, Step
from tests.manifests import manifest
from tests.serve.client import Client, limited, serving
from tests.small_models import smaller


def built(preset: str, **changes: object) -> Model:
    torch.manual_seed(0)
    run = smaller(autoencoder.PRESETS[preset]())
    return Model(replace(run.model, **changes)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Config(shape=(3, 60, 60)), "divide by 8, so the height must be a multiple of 8"),
        (lambda: Config(patch=3), "patch must be 2, 4"),
        (lambda: Config(bottleneck="fsq"), "a channel per level: set latent 4 .*got 16"),
        (lambda: Config(bottleneck="fsq", latent=1, levels=(1,)), "levels must be 2 to 1,000"),
        (lambda: Config(bottleneck="fsq", latent=1, levels=(1002,)), "levels must be 2 to 1,000"),
        (
            lambda: Config(bottleneck="fsq", latent=8, levels=(8,) * 8),
            "have 16,777,216 combinations",
        ),
        (lambda: Config(bottleneck="vq", codes=1 << 40), "codes must be 2 to 1,048,576"),
        (lambda: Config(bottleneck="vq", codes=1), "codes must be 2 to 1,048,576, got 1"),
        (
            lambda: Config(adversarial_weight=1.0, discriminator_widths=(4,) * 8),
            "too small for 7 halvings",
        ),
        (lambda: Config(adversarial_weight="0:-1"), "adversarial_weight must be >= 0"),
        (lambda: Config(num_classes=3), "set num_classes 0"),
        (lambda: Config(prior_weight="0:-1"), "prior_weight must be >= 0"),
        (lambda: Config(prior_weight=1.0, prior_width=0), "prior_width must be > 0, got 0"),
        (
            lambda: Config(bottleneck="vq", prior_weight="0:0 50%:1"),
            "bottleneck vq makes tokens, .*kl and none; take one of them, or prior_weight 0",
        ),
    ],
)
def test_rejects_configs_that_fit_no_picture(config: Callable[[], Config], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config()


@pytest.mark.parametrize("preset", ["kl8", "kl4", "vq8", "fsq8"])
def test_places_beyond_reach_do_not_matter(preset: str) -> None:
    """No layer sees the whole: a picture far from a place leaves what is made of it as it is."""
    model = autoencoder.Model(autoencoder.PRESETS[preset]().model).eval()
    x = torch.rand(1, 3, 32, 256) * 2 - 1
    other = x.clone()
    other[..., 192:] = -other[..., 192:]
    with torch.no_grad():
        a, b = (model.exports()["encode"].module(one)[..., :8] for one in (x, other))
        assert torch.equal(a, b)
        decode = model.exports()["decode"].module
        tokens = model.exports()["encode"].module(x)
        moved = tokens.clone()
        moved[..., -4:] = 0
        assert torch.equal(decode(tokens)[..., :64], decode(moved)[..., :64])


def test_collapse_names_the_perplexity_and_a_cure() -> None:
    model = built("vq8", codes=200)
    assert model.collapsed({"reconstruction/perplexity": 2.1}) == ""
    said = model.collapsed({"reconstruction/perplexity": 1.9})
    assert "as if 1.9 of 200 codes" in said
    assert "--model.bottleneck fsq" in said
    assert built("kl8").collapsed({"reconstruction/loss": 0.0}) == ""


@pytest.mark.parametrize(
    ("bottleneck", "latent", "expected"),
    [
        ("kl", 4, {"square_error", "kl"}),
        ("none", 4, {"square_error"}),
        ("vq", 4, {"square_error", "commitment", "perplexity", "codes_used"}),
        ("fsq", 2, {"square_error", "perplexity", "codes_used"}),
    ],
)
def test_each_bottleneck_reports_its_own(bottleneck: Any, latent: int, expected: set[str]) -> None:
    torch.manual_seed(0)
    shape, widths = (3, 16, 16), (4, 8)
    config = Config(bottleneck=bottleneck, latent=latent, levels=(4, 3), shape=shape, widths=widths)
    model, x = Model(config), torch.rand(2, *shape) * 2 - 1
    noise = BatchRNG(0, 0, 2, 0, 2, x)
    latents = model.prepare({"image": x}, noise, {"reconstruction"})
    loss, metrics = model.loss("reconstruction", {"image": x}, noise, latents)
    assert metrics.keys() == expected
    if bottleneck == "none":  # the plain mean absolute error of what the decoder makes of the codes
        assert torch.equal(latents.z, model.encode(x)[0])
        assert torch.equal(loss, (model.decoder(latents.z) - x).abs().mean())


@pytest.mark.parametrize(("samples", "judged"), [(0, False), (99, False), (100, True)])
def test_discriminator_begins_where_its_weight_does(samples: int, judged: bool) -> None:
    model = built("kl8_gan", adversarial_weight="0:0 50%:0.5:step").train()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = BatchRNG(0, samples, 2, 0, 2, x, total=200)
    latents = model.prepare({"image": x}, noise, {"discriminator", "reconstruction"})
    loss, metrics = model.loss("discriminator", {"image": x}, noise, latents)
    assert bool(loss.detach() > 0) == judged
    assert ("fake" in metrics) == judged
    _, metrics = model.loss("reconstruction", {"image": x}, noise, latents)
    assert ("balance" in metrics) == judged


@pytest.mark.parametrize(("samples", "begun"), [(0, False), (99, False), (100, True)])
def test_prior_begins_where_its_weight_does_and_leaves_the_encoder_alone(
    samples: int, begun: bool
) -> None:
    model = built("kl8_prior", prior_weight="0:0 50%:0.5:step").train()
    assert model.prior is not None
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = BatchRNG(0, samples, 2, 0, 2, x, total=200)
    latents = model.prepare({"image": x}, noise, {"reconstruction", "prior"})
    loss, metrics = model.loss("prior", {"image": x}, noise, latents)
    assert (bool(loss.detach() > 0), "nats" in metrics) == (begun, begun)
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert gradients.keys() == {f"prior.{name}" for name, _ in model.prior.named_parameters()}
    assert any(gradient.any() for gradient in gradients.values()) == begun


@pytest.mark.parametrize("preset", ["autoencoder:kl8_gan", "autoencoder:kl8_prior"])
def test_added_networks_leave_the_start_of_the_others_as_it_is(preset: str) -> None:
    states = []
    for name in ("autoencoder:kl8", preset):
        torch.manual_seed(0)
        states.append(models.build(smaller(models.preset(name))).state_dict())
    plain, other = states
    assert plain.keys() < other.keys()
    assert all(torch.equal(value, other[name]) for name, value in plain.items())


def test_normalised_latents_of_a_constant_channel_go_back() -> None:
    moments = Moments(2)
    moments.mean.copy_(torch.tensor([3.0, 0.0]))
    moments.square.copy_(torch.tensor([9.0, 1.0]))
    z = torch.stack([torch.full((2, 3), 3.0), torch.randn(2, 3)])[None]
    normal = moments.normalised(z)
    assert normal.isfinite().all()
    again = moments.mean[:, None, None] + moments.deviation()[:, None, None] * normal
    torch.testing.assert_close(again, z)


def random_prior() -> Model:
    """A model whose prior is no identity."""
    model = built("kl8_prior")
    assert model.prior is not None
    assert model.moments is not None
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
        model.moments.mean.normal_()
        model.moments.square.copy_(model.moments.mean.square() + 2)
    return model


def test_a_prior_is_part_of_sample_alone() -> None:
    """Drawn numbers are what the flow makes of the normalised latent that is decoded."""
    model = random_prior()
    assert model.prior is not None
    assert model.moments is not None
    exports, plain = model.exports(), built("kl8_prior", prior_weight=0.0)
    assert {name: part.tile for name, part in exports.items()} == {
        "sample": False,
        "reconstruct": True,
        "encode": False,
        "decode": True,
    }
    assert plain.exports()["sample"].tile
    with torch.no_grad():
        z = torch.randn(2, 4, 3, 5)
        drawn, _ = model.prior(model.moments.normalised(z))
        made = exports["sample"].module(drawn)
        assert torch.allclose(made, exports["decode"].module(z), atol=1e-4)
        weights = plain.state_dict()
    assert all(torch.equal(weights[name], built("kl8").state_dict()[name]) for name in weights)
    assert {name for name in model.state_dict() if name not in weights} == {
        f"prior.{name}" for name in model.prior.state_dict()
    }


def test_sample_by_a_prior_is_exported_at_all_sizes(tmp_path: Path) -> None:
    """Within the parity budget, which sealing proves at several sizes and batch sizes."""
    model = random_prior()
    write_artifact(model, (), manifest({}), tmp_path)
    artifact = Artifact.open(tmp_path)
    drawn = np.random.default_rng(0).standard_normal((3, 4, 9, 32)).astype(np.float32)
    made = artifact.run("sample", {"latent": drawn})["image"]
    with torch.no_grad():
        expected = model.exports()["sample"].module(torch.from_numpy(drawn)).numpy()
    assert made.shape == (3, 3, 72, 256)
    assert np.abs(made - expected).max() <= 1e-4
    with pytest.raises(InputError, match="32"):
        artifact.run("sample", {"latent": drawn.repeat(2, 3)})


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact of the preset fsq8."""
    folder: Path = tmp_path_factory.mktemp("tokens")
    write_artifact(built("fsq8"), (), manifest({}), folder)
    return Artifact.open(folder)


def test_decoded_tokens_are_the_reconstruction(artifact: Artifact) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 24, 40)).astype(np.float32)
    tokens = artifact.run("encode", {"image": x})["tokens"]
    assert tokens.shape == (3, 3, 5)
    assert tokens.dtype == np.int64
    assert len(np.unique(tokens)) > 10
    made = artifact.run("reconstruct", {"image": x})
    assert np.array_equal(made["tokens"], tokens)
    decoded = artifact.run("decode", {"tokens": tokens})["image"]
    assert np.allclose(decoded, made["reconstruction"], atol=1e-5)


def test_tokens_of_tiles_are_those_of_the_whole(artifact: Artifact) -> None:
    signature = artifact.manifest.signatures["encode"]
    assert signature.tile
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 16, 320)).astype(np.float32)
    found = artifact.run("encode", {"image": x})["tokens"]
    with torch.no_grad():
        expected = built("fsq8").exports()["encode"].module(torch.from_numpy(x)).numpy()
    assert (found != expected).mean() <= 1e-3


def test_sizes_between_multiples_are_refused_with_the_nearest(artifact: Artifact) -> None:
    x = np.zeros((1, 3, 60, 60), np.float32)
    with pytest.raises(
        InputError,
        match=r"pad or resize it to \(N, 3, 56, 56\) or \(N, 3, 64, 64\)",
    ):
        artifact.run("encode", {"image": x})


def test_tokens_outside_of_the_codebook_are_refused(artifact: Artifact) -> None:
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 1000\), got 1000"):
        artifact.run("decode", {"tokens": np.full((1, 4, 4), 1000)})


def test_evaluation_compares_reconstructions_with_a_baseline(artifact: Artifact) -> None:
    random = np.random.default_rng(2)
    samples = random.uniform(-1, 1, (20, 3, 16, 16)).astype(np.float32)
    rows = Dataset(name="", samples=samples, labels=np.zeros(20, np.int64), classes=())
    assert reconstruction.reconstructs(artifact)
    found = {one.name: one.value for one in reconstruction.evaluate(artifact, rows, rows, 18)}
    made = artifact.run("reconstruct", {"image": samples[:18]})
    assert found["reconstruction/psnr"] == pytest.approx(psnr(made["reconstruction"], samples[:18]))
    baseline = psnr(reconstruction.mean_colours(samples[:18], 8), samples[:18])
    assert found["reconstruction/psnr/mean_colours"] == pytest.approx(baseline)
    assert found["codes_used"] == len(np.unique(made["tokens"])) / 1000
    assert 1 <= found["perplexity"] <= 18 * 4


JUDGED = {"adversarial_weight": 0.5, "discriminator_widths": (4, 8)}


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("autoencoder:vq8", {}),
        ("autoencoder:kl8_gan", {}),
        ("autoencoder:kl8_prior", {}),
        ("upscaler:x2_gan", {}),
        ("inpainter:holes", JUDGED),
        ("denoiser:gaussian", JUDGED),
    ],
)
def test_a_batch_in_parts_keeps_the_same_codes_and_balance(
    preset: str, changes: dict[str, Any]
) -> None:
    """Steps on parts of 2 and 3 rows, as of several workers, lead to the state of the whole."""
    states = []
    for micro_batch in (0, 3):
        run = smaller(models.preset(preset))
        run = replace(run, model=replace(run.model, **changes))
        config = replace(run, precision="float64", batch=5, micro_batch=micro_batch, samples=60)
        state = TrainState(config)
        rows = drawn(config.model, 60)
        step = Step(config, state, SingleProcess())
        for at in range(0, 60, 5):
            taken = rows.samples[at : at + 5], rows.labels[at : at + 5]
            step(model_batch(config, *taken, state.model), {})
            state.samples, state.batches = at + 5, state.batches + 1
        states.append(dict(state.model.state_dict()))
    whole, parts = states
    assert whole.keys() == parts.keys()
    assert whole.get("judge.balance", 1) > 0
    for name, value in whole.items():
        assert torch.allclose(parts[name].double(), value.double(), rtol=1e-6, atol=1e-8), name


def test_tokens_go_round_over_a_server(artifact: Artifact, tmp_path: Path) -> None:
    """Encoded, decoded and reconstructed by tensors over HTTP, and reconstructed as a file."""
    x = np.random.default_rng(3).uniform(-1, 1, (2, 3, 16, 24)).astype(np.float32)
    made = artifact.run("reconstruct", {"image": x})
    levels = np.random.default_rng(4).integers(0, 256, (16, 24, 3), np.uint8)

    def tensors(client: Client, signature: str, given: str, array: NDArray[Any]) -> dict[str, Any]:
        kind = "INT64" if array.dtype == np.int64 else "FP32"
        tensor = {"name": given, "datatype": kind, "shape": array.shape, "data": array.tolist()}
        path = f"/v2/models/tiny:{signature}/infer"
        answer = client.request("POST", path, json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        return {one["name"]: one for one in answer.json()["outputs"]}

    with serving(limited(tmp_path), artifact.uri) as client:
        tokens = tensors(client, "encode", "image", x)["tokens"]
        assert tokens["datatype"] == "INT64"
        assert np.array_equal(np.reshape(tokens["data"], (2, 2, 3)), made["tokens"])
        decoded = tensors(client, "decode", "tokens", made["tokens"])["image"]
        assert np.allclose(np.reshape(decoded["data"], x.shape), made["reconstruction"], atol=1e-5)
        file = base64.b64encode(png(levels)).decode()
        body = {"model": "tiny", "signature": "reconstruct", "inputs": {"image": [file]}}
        answer = client.request("POST", "/v1/samples", json=body)
        assert answer.status_code == 200, answer.text
        (sample,) = answer.json()["samples"]
        assert read_png(base64.b64decode(sample["image"]))[0].shape == levels.shape
