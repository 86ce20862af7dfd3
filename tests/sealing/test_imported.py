"""Models of other projects as artifacts: torch modules proven equal, ONNX files as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc.artifact import Artifact, ArtifactError, Signature, Store, TensorSpec
from aigc.artifact.axes import Axis
from aigc.commands.import_onnx import command
from aigc.sealing import seal
from tests.sealing.foreign import generator, upscaler, vocoder

pytestmark = pytest.mark.process


class Codec(nn.Module):
    """(N, 8) vectors and back, with what makes training differ from eval mode."""

    def __init__(self, sizes: tuple[int, int] = (8, 3)) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(sizes[0]), nn.Linear(*sizes), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        coded: Tensor = self.layers(x)
        return coded


def test_torch_module_is_proven_equal_and_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Codec()
    module.layers[0].eval()
    uri = seal(module, name="codec", example_inputs=torch.zeros(1, 8), store=tmp_path)
    assert [part.training for part in module.layers] == [False, True, True]
    artifact = Artifact.open(uri)
    m = artifact.manifest
    assert (m.source, m.training, m.licence) == ("imported:Codec", None, "unstated")
    assert m.parity["run"].samples == 1024
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(artifact.run("run", {"x": x})["output"], expected, atol=1e-5)


def test_torch_modules_take_whole_signatures(tmp_path: Path) -> None:
    def signature(*sizes: int) -> Signature:
        code = [
            TensorSpec(name=name, kind="vector", dtype="float32", shape=(size,))
            for name, size in zip(("given", "made"), sizes, strict=True)
        ]
        return Signature(graph="", inputs=(code[0],), outputs=(code[1],))

    uri = seal(
        {"encode": Codec(), "decode": Codec((3, 8))},
        name="codec",
        version="2.1",
        licence="MIT",
        store=tmp_path,
        signatures={"encode": signature(8, 3), "decode": signature(3, 8)},
    )
    m = Artifact.open(uri).manifest
    assert {name: s.graph for name, s in m.signatures.items()} == {
        "encode": "encode.onnx",
        "decode": "decode.onnx",
    }
    assert m.parity.keys() == m.signatures.keys()
    assert (m.id, m.licence) == ("codec@2.1", "MIT")


class Wrong(nn.Module):
    """A module whose output is wrong in one way or another."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(x)


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (Codec(), None, "Codec needs example_inputs: one tensor for each of x, batch axis first"),
        (Codec(), torch.zeros(2, 7), "Codec does not run on example_inputs: "),
        (Codec().double(), torch.zeros(2, 8), r"holds torch.float64; give module.float\(\)"),
        (Codec().to("meta"), torch.zeros(2, 8), r"is on meta; give module.cpu\(\)"),
        (Wrong(lambda x: {"y": x}), torch.zeros(2, 8), "must return tensors, got dict; wrap it"),
        (Wrong(lambda x: x + torch.rand_like(x)), torch.zeros(2, 8), "draws random numbers by"),
        (Wrong(lambda x: x - x.mean(0)), torch.zeros(2, 8), "differs by .* alone and in a batch"),
        (Wrong(lambda x: x.half()), torch.zeros(2, 8), "'output' is not a tensor of an artifact"),
    ],
)
def test_torch_module_that_cannot_be_sealed_publishes_nothing(
    module: nn.Module, example: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        seal(module, name="codec", example_inputs=example, store=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_command_imports_several_files_as_signatures_of_one_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.txt").write_text("zero\none\ntwo\n")
    files = [
        f"sample={generator(tmp_path / 'g.onnx')}",
        f"upscale={upscaler(tmp_path / 'u.onnx')}",
        f"speak={vocoder(tmp_path / 'v.onnx')}",
    ]
    flags = ["--range", "lr=0..1", "--sample-rate", "16000", "--classes", f"{tmp_path}/digits.txt"]
    flags += ["--name", "mixed", "--out", f"{tmp_path}/store"]
    assert command([*files, *flags]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/store/mixed/1\n"
    assert "the licence of the weights is unstated" in err
    assert "input lr: image float32 (3, 8, 8) 0..1" in err
    artifact = Artifact.open(out.strip())
    m = artifact.manifest
    assert [*m.signatures] == ["sample", "upscale", "speak"]
    assert m.signatures["sample"].inputs[1].classes == ("zero", "one", "two")
    assert (m.format_version, m.parity, m.family) == (2, {}, "imported")
    assert artifact.verify().keys() == m.signatures.keys()
    card = (Path(out.strip()) / "README.md").read_text()
    assert "An imported model (`g.onnx, u.onnx, v.onnx`)" in card
    assert "Licence unstated" in card
    assert "no torch module" in card
    assert (Path(out.strip()) / "samples.png").exists()
    document = json.loads((Path(out.strip()) / "manifest.json").read_text())
    assert "training" not in document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--range", "black..white"), "range must be LOW..HIGH such as -1..1"),
        (("--kind", "z=picture"), "kind must be one of latent, uniform"),
        (("--classes", "absent.txt"), "classes must be a number .* got 'absent.txt'"),
        (("--sample-rate", "0"), "sample-rate must be a rate in Hz"),
        (("--shape", "z=3x-1"), "shape must be sizes such as 3x64x64"),
        (("--licence", "<script>"), "--licence must be an SPDX identifier"),
        (("--name", "X Y"), "artifact name must be"),
        (("--kind", "q=latent"), "kind of 'q': there is no input or output 'q'; did you|there are"),
        (
            ("--classes", "y=5"),
            "y=5: the graph selects from 3 rows, so there are at most",
        ),
    ],
)
def test_command_refuses_facts_in_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = generator(tmp_path / "g.onnx")
    argv = [str(path), "--name", "g", "--out", f"{tmp_path}/store", *arguments]
    with pytest.raises(ValueError, match=message) as error:
        command(argv)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists() or not Store(tmp_path / "store").names()


def test_imported_version_never_changes(tmp_path: Path) -> None:
    path = generator(tmp_path / "g.onnx")
    seal(path, name="g", store=tmp_path / "store")
    with pytest.raises(ArtifactError, match=r"g@1 exists already .* next free one is 2"):
        seal(path, name="g", version="1", store=tmp_path / "store")


def images(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, kind="image", dtype="float32", shape=shape, range=(0, 1))


@pytest.mark.parametrize("factor", [2, 3])
def test_onnx_file_keeps_its_free_sizes_in_a_whole_signature(factor: int, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "u.onnx", size=(None, None))
    side = Axis(min=8, max=32, multiple=4, default=16)
    signature = Signature(
        graph="",
        inputs=(images("lr", 3, "h", "w"),),
        outputs=(images("hr", 3, f"{factor}*h", f"{factor}*w"),),
        axes={"h": side, "w": side},
    )
    store = Store(tmp_path / "store")
    if factor != 2:  # the graph doubles
        with pytest.raises(ValueError, match="hr"):
            seal(path, name="u", store=store.uri, signatures={"upscale": signature})
        assert store.names() == []
        return
    artifact = Artifact.open(
        seal(path, name="u", store=store.uri, signatures={"upscale": signature})
    )
    image = np.random.default_rng(0).random((2, 3, 12, 20), np.float32)
    assert artifact.signature("upscale").inputs[0].preprocessing
    expected = image.repeat(2, 2).repeat(2, 3)
    assert np.array_equal(artifact.run("upscale", {"lr": image})["hr"], expected)
