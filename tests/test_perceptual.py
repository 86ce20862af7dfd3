"""The perceptual loss: its formula, a network read late, and none in the state of a model."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc import feature_network
from aigc.models import upscaler
from aigc.models.autoencoder import Config, Model
from aigc.perceptual import PerceptualLoss, perceptual_distance
from aigc.rng import BatchRNG
from aigc.training.run import Run
from cluster.train import command
from tests import small_network


@pytest.fixture
def network(tmp_path: Path) -> str:
    return small_network.write(tmp_path)


def test_distance_by_hand() -> None:
    a, b = torch.tensor([[[[3.0]], [[4.0]]]]), torch.tensor([[[[0.0]], [[2.0]]]])
    assert float(perceptual_distance([a], [b])) == pytest.approx(0.6**2 + 0.2**2)
    assert float(perceptual_distance([a, a], [a, b])) == pytest.approx((0.6**2 + 0.2**2) / 2)
    assert float(perceptual_distance([a], [5 * a])) == pytest.approx(0, abs=1e-12)


def test_equal_pictures_have_no_distance_and_others_a_gradient(network: str) -> None:
    loss = PerceptualLoss(network)
    x = torch.rand(2, 3, 8, 8)
    assert float(loss(x, x)) == 0
    made = torch.rand(2, 3, 8, 8, requires_grad=True)
    loss(made, x).backward()
    assert made.grad is not None
    assert made.grad.any()


def test_the_network_is_no_part_of_the_model(network: str) -> None:
    config = Config(shape=(3, 16, 16), widths=(4, 8), latent=4, perceptual=network)
    model, plain = Model(config), Model(Config(shape=(3, 16, 16), widths=(4, 8), latent=4))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = BatchRNG(0, 0, 2, 0, 2, x)
    _, metrics = model.loss(
        "reconstruction", {"image": x}, noise, model.prepare({"image": x}, noise, ())
    )
    assert float(metrics["perceptual"]) > 0
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    assert copy.deepcopy(model).perceptual is not None


def test_a_run_goes_on_with_no_other_network(
    network: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither where its reference is given again nor where its own config is taken."""
    pictures = tmp_path / "pictures.npz"
    np.savez(pictures, images=np.random.default_rng(0).uniform(-1, 1, (16, 3, 16, 16)))
    begin = ["upscaler:x2", "--model.perceptual", network, "--data.source", "npz"]
    begin += ["--data.path", str(pictures), "--model.shape", "3", "16", "16", "--model.crop", "16"]
    begin += ["--storage", str(tmp_path), "--name", "run", "--threads", "1", "--samples", "16"]
    assert command(begin) == 0
    config = Run(tmp_path / "run").config().model
    assert isinstance(config, upscaler.Config)
    kept = config.perceptual
    assert re.fullmatch(re.escape(network) + ",sha256=[0-9a-f]{8}", kept)
    assert config.settled() == config
    more = ["--samples", "32", "--resume"]
    assert command([*begin, *more]) == 0

    weights = Path(network).with_suffix(".safetensors")
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    more = ["--samples", "48", "--resume"]
    with pytest.raises(
        ValueError, match=r"model\.perceptual: .*sha256=\w+' -> .*sha256="
    ) as raised:
        command([*begin, *more])
    assert kept in str(raised.value)
    with pytest.raises(ValueError, match="not the network that is wanted"):
        command(["--resume", "run", "--storage", str(tmp_path), "--samples", "48"])
    capfd.readouterr()


def test_a_pinned_network_is_that_one(network: str) -> None:
    """For losses and for metrics."""
    name = feature_network.load_module(network).name
    right = feature_network.pinned(network)
    assert feature_network.pinned(right) == right
    assert feature_network.load(right).name == feature_network.load_module(right).name == name
    for load in (feature_network.load, feature_network.load_module):
        with pytest.raises(ValueError, match="sha256=00000000 is asked for"):
            load(f"{network},sha256=00000000")


def test_a_missing_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.py"):
        PerceptualLoss("nowhere.py")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
