"""Export with free axes: one graph for many sizes, proven at several of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.artifact.axes import Axis
from aigc.model import Export
from aigc.sealing.artifact_folder import seal_graphs
from aigc.sealing.example_inputs import example, proved_sizes
from aigc.sealing.onnx_export import run_module, to_onnx, write_graphs
from tests import manifests

AXES = {"h": Axis(min=2, max=10, default=4), "w": Axis(min=2, max=9, default=4)}
BY_8 = {name: Axis(min=8, max=40, multiple=8, default=16) for name in ("h", "w")}
LENGTH = {"t": Axis(min=1, max=30, default=8)}


def spec(name: str, kind: Any, *shape: int | str, **more: Any) -> TensorSpec:
    return TensorSpec(name=name, kind=kind, dtype="float32", shape=shape, **more)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, z: Tensor, style: Tensor) -> Tensor:
        x = torch.relu(self.first(z)) + style.mean((1, 2, 3), keepdim=True)
        return torch.tanh(nn.functional.pixel_shuffle(self.last(x), 2))


class Same(nn.Module):
    """An autoencoder that needs multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 8, stride=8), nn.ConvTranspose2d(4, 1, 8, stride=8)

    def forward(self, image: Tensor) -> Tensor:
        return torch.tanh(self.up(self.down(image)))


class Vocoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(3, 1, 31, stride=16)

    def forward(self, mel: Tensor) -> Tensor:
        return torch.tanh(self.up(mel))


def exports() -> dict[str, Export]:
    torch.manual_seed(0)
    return {
        "sample": Export(
            module=Generator().eval(),
            signature=Signature(
                graph="sample.onnx",
                inputs=(spec("z", "latent", 4, "h", "w"), spec("style", "latent", 4, "h", "w")),
                outputs=(spec("image", "image", 3, "2*h", "2*w", range=(-1, 1)),),
                axes=AXES,
            ),
        ),
        "reconstruct": Export(
            module=Same().eval(),
            signature=Signature(
                graph="same.onnx",
                inputs=(spec("image", "image", 1, "h", "w", range=(-1, 1)),),
                outputs=(spec("again", "image", 1, "h", "w", range=(-1, 1)),),
                axes=BY_8,
            ),
        ),
        "speak": Export(
            module=Vocoder().eval(),
            signature=Signature(
                graph="speak.onnx",
                inputs=(spec("mel", "vector", 3, "t"),),
                outputs=(spec("sound", "audio", 1, "16*t+15", range=(-1, 1), sample_rate_hz=8000),),
                axes=LENGTH,
            ),
        ),
    }


MANIFEST = manifests.manifest({}, name="free", model="tiny", preset="", licence="Apache-2.0")


@pytest.fixture(scope="module")
def sealed_free(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Export]]:
    folder, parts = tmp_path_factory.mktemp("free"), exports()
    write_graphs(parts, folder)
    seal_graphs(
        {name: part.signature for name, part in parts.items()},
        MANIFEST,
        folder,
        {name: partial(run_module, part) for name, part in parts.items()},
    )
    return folder, parts


def test_one_graph_equals_its_module_at_every_allowed_size(
    sealed_free: tuple[Path, dict[str, Export]],
) -> None:
    folder, parts = sealed_free
    artifact = Artifact.open(folder)
    for name, part in parts.items():
        for sizes in proved_sizes(part.signature)[1:]:
            # The middle between two proven sizes: nothing was measured there.
            between = {
                k: max(part.signature.axes[k].min, v - part.signature.axes[k].multiple)
                for k, v in sizes.items()
            }
            inputs = example(part.signature, 3, between)
            expected, found = run_module(part, inputs), artifact.run(name, inputs)
            for output, values in expected.items():
                assert found[output].shape == values.shape
                np.testing.assert_allclose(found[output], values, atol=1e-5)


def test_parity_and_references_are_of_several_sizes(
    sealed_free: tuple[Path, dict[str, Export]],
) -> None:
    folder, parts = sealed_free
    artifact = Artifact.open(folder, verify=False)
    for name, part in parts.items():
        every = proved_sizes(part.signature)
        assert len(every) == 4
        assert artifact.manifest.parity[name].sizes == tuple(every)
        assert sorted(map(repr, artifact.reference_sizes(name))) == sorted(map(repr, every))
    assert artifact.manifest.format_version == 2


def test_an_encoder_of_multiples_of_8_takes_nothing_else(
    sealed_free: tuple[Path, dict[str, Export]],
) -> None:
    artifact = Artifact.open(sealed_free[0], verify=False)
    raw = artifact._sessions["same.onnx"].run(None, {"image": np.zeros((1, 1, 20, 20), np.float32)})
    assert raw[0].shape == (1, 1, 16, 16), "the graph itself drops pixels in silence"
    with pytest.raises(ValueError, match=r"image: h must be a multiple of 8 in \[8, 40\], got 20"):
        artifact.run("reconstruct", {"image": np.zeros((1, 1, 20, 20), np.float32)})


def test_inputs_of_one_kind_and_shape_are_given_different_numbers() -> None:
    signature = exports()["sample"].signature
    inputs = example(signature, 2, {"h": 3, "w": 5})
    assert not np.array_equal(inputs["z"], inputs["style"])


class Fixed(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.reshape(image.shape[0], 1, 16, 16)


class Tied(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + image.transpose(2, 3)


@pytest.mark.parametrize("module", [Fixed, Tied])
def test_a_module_of_fixed_or_tied_sizes_is_refused_in_one_sentence(
    module: Callable[[], nn.Module], tmp_path: Path
) -> None:
    part = exports()["reconstruct"]
    with pytest.raises(ValueError, match=r"graph.onnx cannot be exported with the free axes h, w"):
        to_onnx(Export(module=module().eval(), signature=part.signature), tmp_path / "graph.onnx")


def test_proven_sizes_are_distinct_and_allowed() -> None:
    signature = exports()["reconstruct"].signature
    every = proved_sizes(signature)
    assert [signature.sizes(each) for each in every] == every
    assert every[-1]["h"] != every[-1]["w"]
