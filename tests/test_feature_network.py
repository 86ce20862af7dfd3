"""Feature networks: each kind of reference, pictures as they take them, refusals, gradients."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aigc import models
from aigc.artifact import Artifact, Store
from aigc.commands.export import export
from aigc.feature_network import load, load_module
from aigc.models import classifier
from aigc.training.run import Run
from tests.feature_networks import NETWORK, graph, own_network
from tests.fixtures.make import write_run


def pictures(n: int = 5, shape: tuple[int, ...] = (3, 8, 8)) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = models.preset("classifier:labels")
    model = classifier.Config(shape=(1, 8, 8), num_classes=10, widths=(4, 8), latent=6)
    small = replace(config, model=model, samples=64, batch=16, report_interval=0)
    return write_run(tmp_path_factory.mktemp("runs") / "judge", small)


def test_onnx_gets_pictures_of_its_size_and_range(tmp_path: Path) -> None:
    network = load(str(graph(tmp_path / "net.onnx", metadata={"range": "0..255"})))
    x = pictures()
    means = (x.mean((2, 3)) + 1) * 127.5
    assert network.features(x) == pytest.approx(2 * means, rel=0.05)  # bicubic keeps the mean
    same = pictures(shape=(3, 4, 4))
    assert network.features(same) == pytest.approx(2 * (same.mean((2, 3)) + 1) * 127.5, rel=1e-5)
    (only, scaled) = network.feature_maps(same)
    assert only.shape == (5, 3, 1, 1)
    assert scaled == pytest.approx((same + 1) * 127.5, rel=1e-5)
    options = f"{tmp_path / 'net.onnx'},range=0..1,mean=0.5/0.5/0.5,std=0.25,output=map"
    other = load(options)
    assert other.features(same) == pytest.approx(2 * same.mean((2, 3)), abs=1e-5)
    assert other.name.startswith("net@")
    assert other.name != network.name  # what it computes is another
    free = load(f"{graph(tmp_path / 'free.onnx', ('N', 3, 'h', 'w'))},size=6x5")
    assert free.feature_maps(x)[1].shape == (5, 3, 6, 5)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    network = load(str(graph(tmp_path / "net.onnx")))
    x = pictures(100, (3, 4, 4))
    x[70, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="is given pictures that are NaN or infinite"):
        network.features(x)
    broken = replace(network, run=lambda x: x.reshape(len(x), -1) * np.float32(np.nan))
    with pytest.raises(ValueError, match="gives features that are NaN or infinite"):
        broken.features(pictures())


def test_grey_pictures_are_repeated_and_other_channels_refused(tmp_path: Path) -> None:
    network = load(str(graph(tmp_path / "net.onnx")))
    grey = pictures(shape=(1, 4, 4))
    assert np.array_equal(network.features(grey), network.features(grey.repeat(3, 1)))
    with pytest.raises(ValueError, match=r"takes pictures of 3 channels, these have 4"):
        network.features(pictures(shape=(4, 4, 4)))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3, 4, 4), "", "takes batches of 2 alone; export it with a free batch axis"),
        (("N", 3, 4), "", r"must have one input \(N, C, H, W\) of float32"),
        (("N", 3, 4, 4), ",output=x", "has no output 'x'; it has features, map"),
        (("N", 3, 4, 4), ",sizes=3", "unknown option 'sizes=3'.*did you mean 'size'"),
        (("N", 3, 4, 4), ",size=big", "size must be height and width, such as .*; got 'big'"),
        (("N", 3, 4, 4), ",range=1..0", r"range must be LOW\.\.HIGH, got 1\.\.0"),
        (("N", 3, 4, 4), ",size=8", "takes pictures of 4x4 alone; leave out size=8"),
        (("N", 3, 4, "w"), "", "takes pictures of 4 x w, of which one side is free"),
        (("N", 3, "h", "w"), ",size=0", "size must be height and width, such as .*, got 0"),
        (("N", 3, "h", "w"), ",size=4.5", "size must be height and width, such as .*, got 4.5"),
        (("N", 3, "h", "w"), ",std=nan", "std must be standard deviation per .*; got 'nan'"),
    ],
)
def test_graphs_and_options_that_cannot_be_taken(
    shape: tuple[object, ...], options: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    graph(path, shape)
    with pytest.raises(ValueError, match=message):
        load(f"{path}{options}")


def test_onnx_is_refused_for_losses_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no gradients: for a loss define .* FILE\.py"):
        load_module(str(graph(tmp_path / "net.onnx")))
    with pytest.raises(ValueError, match="there is no file"):
        load(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no ONNX file that onnxruntime loads"):
        load(str(tmp_path / "bad.onnx"))


def test_own_network_has_gradients_and_stays_as_it_is(tmp_path: Path) -> None:
    path = own_network(tmp_path)
    state = torch.get_rng_state()
    network = load_module(str(path))
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.from_numpy(pictures()).requires_grad_()
    first = network.feature_maps(x)
    network.train()  # as loops do
    network.zero_grad()
    again = network.feature_maps(x)
    assert [one.shape for one in first] == [(5, 4, 8, 8), (5, 5, 4, 4)]
    assert all(map(torch.equal, first, again))
    again[-1].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not list(network.parameters())
    assert not network.state_dict()
    moved = copy.deepcopy(network).double().feature_maps(x.double())
    assert torch.allclose(moved[-1].float(), first[-1], atol=1e-5)
    measured = load(str(path))
    assert measured.name == network.name == f"small@{network.sha256[:8]}"
    assert np.allclose(measured.features(pictures()), first[-1].mean((2, 3)).detach().numpy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no weights", r"there is no .*small\.safetensors with the weights of small\.py"),
        ("no class", r"small\.py defines no Network; add a class Network"),
        ("no maps", r"Network has no feature_maps; add feature_maps\(x\)"),
        ("other weights", r"small\.safetensors does not fit Network of small\.py"),
        ("pickle", r"small\.safetensors does not fit Network of small\.py"),
        ("arguments", r"Network\(\) must be made without arguments: .* 'depth'"),
        ("output", r"output is an option of ONNX files"),
    ],
)
def test_own_networks_that_cannot_be_taken(damage: str, message: str, tmp_path: Path) -> None:
    path, weights = own_network(tmp_path), tmp_path / "small.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "no class":
        path.write_text(NETWORK.replace("class Network", "class Net"))
    elif damage == "no maps":
        path.write_text(NETWORK.replace("feature_maps", "maps"))
    elif damage == "other weights":
        save_file({"weight": torch.ones(2)}, weights)
    elif damage == "arguments":
        path.write_text(NETWORK.replace("(self):", "(self, depth):"))
    elif damage == "pickle":
        torch.save({"weight": torch.ones(2)}, weights)
    with pytest.raises(ValueError, match=message):
        load_module(f"{path},output=maps" if damage == "output" else str(path))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("first", r"must return a list of tensors \(N, D, h, w\), got a tensor of \(5, 4, 8, 8\)"),
        ("[first.mean((2, 3))]", r"must return a list of tensors \(N, D, h, w\), got \[tensor"),
        ("[first[:, :2, :1] @ first]", r"fails for pictures \(5, 3, 8, 8\): The size of"),
    ],
)
def test_maps_of_another_form_are_refused(returned: str, message: str, tmp_path: Path) -> None:
    """A tensor would pass for a list of its rows."""
    path = own_network(tmp_path)
    path.write_text(NETWORK.replace("[first, self.second(first)]", returned))
    network = load_module(str(path))
    for method in (network.feature_maps, network.features):
        with pytest.raises(ValueError, match=message):
            method(torch.from_numpy(pictures()))


@pytest.mark.process
def test_run_and_artifact_give_the_same_features(run: Run, tmp_path: Path) -> None:
    whole = export(run, name="judge", store=Store(tmp_path / "store"), weights=True)
    x = pictures(100, (1, 8, 8))
    features = load(str(run.folder)).features(x)
    assert features.shape == (100, 6)
    assert load(whole).features(x) == pytest.approx(features, abs=1e-5)
    from_run, from_artifact = load_module(str(run.folder)), load_module(whole)
    assert from_run.sha256 == from_artifact.sha256
    assert from_run.features(torch.from_numpy(x)).numpy() == pytest.approx(features, abs=1e-6)
    assert [one.shape[1] for one in from_run.feature_maps(torch.from_numpy(x))] == [4, 8]
    assert Artifact.open(whole).run("classify", {"image": x})["probabilities"].sum(
        1
    ) == pytest.approx(np.ones(100), abs=1e-5)
    bare = export(run, name="bare", store=Store(tmp_path / "store"))
    with pytest.raises(ValueError, match="bare@1 carries no weights; export it with --weights"):
        load_module(bare)
    assert load(bare).features(x) == pytest.approx(features, abs=1e-5)
    with pytest.raises(ValueError, match="leave out range"):
        load(f"{bare},range=0..1")


def test_models_without_features_are_refused(sealed: Path) -> None:
    with pytest.raises(ValueError, match="has no signature 'features', only sample"):
        load(str(sealed))
