"""Chunks of small vocoders: the context is measured, equality proven, and both can be refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aigc.artifact import Artifact, Signature
from aigc.artifact.axes import Axis
from aigc.artifact.tiling import Chunk, Tiling
from aigc.commands import import_onnx
from aigc.commands.export import write_artifact
from aigc.model import Export
from aigc.sealing import seal
from aigc.sealing.chunk_proof import MAX_ABS, proven_chunk
from aigc.sealing.graph_runner import runner
from tests.sealing import vocoders
from tests.sealing.test_free_axes import MANIFEST, spec
from tests.sealing.vocoders import AXES, SOUND, SPEAK, codec, vocoder


def proven(path: Path, signature: Signature = SPEAK) -> Chunk:
    return proven_chunk("speak", signature, runner(path.read_bytes(), signature, None)(1))


def longer(signature: Signature, most: int) -> Signature:
    return replace(signature, axes={"t": replace(AXES["t"], max=most)})


@pytest.mark.parametrize(
    ("between", "context"), [(vocoders.CONVOLUTIONAL, 2), (vocoders.OVERLAP_ADD, 3)]
)
def test_the_context_is_as_far_as_outputs_see_and_chunks_equal_the_whole(
    tmp_path: Path, between: Sequence[onnx.NodeProto], context: int
) -> None:
    path = vocoder(tmp_path / "speak.onnx", between)
    chunk = proven(path)
    assert (chunk.axis, chunk.context) == ("t", context)
    assert chunk.max_abs <= 1e-6
    assert [sizes["t"] > 24 for sizes in chunk.sizes] == [False, True]
    run = runner(path.read_bytes(), SPEAK, None)(1)
    mel = np.random.default_rng(0).normal(size=(2, 4, 150)).astype(np.float32)
    whole = run({"mel": mel})["sound"]

    def off(context: int) -> float:
        tile = replace(chunk, context=context).tile
        made = Tiling(AXES, tile, {"t": 150}).run(run, {"mel": mel}, SPEAK.shapes, batch=3)
        return float(np.abs(made["sound"] - whole).max())

    assert off(context) <= chunk.max_abs + 1e-7
    assert off(context - 1) > 1e-3


def test_a_state_that_fades_needs_the_context_in_which_it_is_forgotten(tmp_path: Path) -> None:
    path = vocoder(tmp_path / "speak.onnx", vocoders.RECURRENT)
    chunk = proven(path, longer(SPEAK, 120))
    assert 5 < chunk.context < 50
    assert 0 < chunk.max_abs <= MAX_ABS
    with pytest.raises(ValueError, match=r"with a context of 11 on either side differ .* raise"):
        proven(path)


@pytest.mark.parametrize(
    ("between", "most", "reason"),
    [
        (vocoders.GLOBAL, 24, "context of 11 on .* averages, norms or attention over all places"),
        (vocoders.GLOBAL, 400, "differ from the whole by 0.* raise the bound of t"),
        (vocoders.PLACED, 24, "see no further than 2, so .* depends on where that is"),
    ],
)
def test_a_graph_of_which_no_context_is_enough_is_refused(
    tmp_path: Path, between: Sequence[onnx.NodeProto], most: int, reason: str
) -> None:
    path = vocoder(tmp_path / "speak.onnx", between)
    with pytest.raises(ValueError, match=f"(?s)'speak' cannot be made of chunks: .*{reason}"):
        proven(path, longer(SPEAK, most))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axes": AXES | {"u": Axis(min=1, max=4, default=2)}}, "along one axis, the only free"),
        ({"axes": {}}, "the axes are: none"),
        ({"outputs": (replace(SOUND, shape=(1, "16*t+15")),)}, "a size with an offset, so chunks"),
        ({"outputs": (replace(SOUND, shape=(1, 64)),)}, "is not free along t, so it cannot be"),
        ({"outputs": (spec("i", "image", 1, "t", 4, range=(0, 1)),)}, "only sounds and vectors"),
    ],
)
def test_what_is_no_sequence_of_one_axis_has_no_chunks(changes: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        proven_chunk("speak", replace(SPEAK, **changes), lambda feeds: feeds)


def test_a_sealed_codec_declares_its_chunks_and_runs_any_length(tmp_path: Path) -> None:
    heard = spec("heard", "audio", 1, "16*t", range=(-1, 1), sample_rate_hz=8000)
    encode = Signature(
        graph="encode.onnx", inputs=(heard,), outputs=(spec("code", "vector", 4, "t"),), axes=AXES
    )
    graphs = {"speak": vocoder(tmp_path / "s.onnx"), "encode": codec(tmp_path / "e.onnx")}
    signatures = {"speak": SPEAK, "encode": encode}
    store = tmp_path / "store"
    uri = seal(graphs, name="codec", store=store, signatures=signatures, chunk=True)
    document = json.loads((Path(uri) / "manifest.json").read_text())
    assert document["format_version"] == 2
    found = document["signatures"]
    assert [found[name]["chunk"]["context"] for name in signatures] == [2, 1]
    assert found["encode"]["chunk"]["max_abs"] == 0
    assert "tile" not in found["speak"]
    artifact = Artifact.open(uri)
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 1, 16 * 331)).astype(np.float32)
    code = artifact.run("encode", {"heard": sound})["code"]
    whole = artifact._sessions["encode.onnx"].run(None, {"heard": sound})[0]
    assert code.tobytes() == whole.tobytes()
    assert artifact.run("speak", {"mel": code})["sound"].shape == sound.shape


def test_import_declares_chunks_and_says_what_they_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = vocoder(tmp_path / "speak.onnx")
    flags = [str(path), "--name", "speak", "--out", str(tmp_path / "store")]
    facts = ["--kind", "mel=vector", "sound=audio", "--sample-rate", "sound=8000"]
    facts += ["--range", "sound=-1..1", "--axis", "t=2..24"]
    assert import_onnx.command([*flags, *facts, "--chunk"]) == 0
    said = capsys.readouterr()
    assert "they need 2 of t on either side" in said.err
    document = json.loads((Path(said.out.strip()) / "manifest.json").read_text())
    (signature,) = document["signatures"].values()
    assert signature["chunk"]["axis"] == "t"
    with pytest.raises(ValueError, match="chunks need a free axis; give --axis"):
        import_onnx.command([*flags, "--shape", "mel=4x8", "--chunk"])


class Stereo(nn.Module):
    """Noise to two channels, by a transposed convolution that adds overlapping frames."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 2, 12, stride=4, padding=4)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.up(torch.tanh(self.first(z))))


def test_a_model_of_ones_own_exports_chunks_and_draws_noise_by_its_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    signature = Signature(
        graph="sample.onnx",
        inputs=(spec("z", "latent", 3, "t"),),
        outputs=(spec("sound", "audio", 2, "4*t", range=(-1, 1), sample_rate_hz=8000),),
        axes={"t": Axis(min=8, max=64, multiple=8, default=16)},
    )
    part = Export(module=Stereo().eval(), signature=signature, chunk=True)
    model: Any = SimpleNamespace(exports=lambda: {"sample": part})
    write_artifact(model, (), MANIFEST, tmp_path)
    artifact = Artifact.open(tmp_path)
    chunk = artifact.signature("sample").chunk
    assert chunk
    assert chunk.context == 8, "a multiple of the axis"
    sounds = artifact.sample(seed=5, n=2, sizes={"t": 400})["sound"]
    assert sounds.shape == (2, 2, 1600)
    alone = artifact.sample(seed=5, first_index=1, sizes={"t": 400})["sound"]
    assert alone.tobytes() == sounds[1:].tobytes()
    inputs = artifact.draw("sample", 5, [1], sizes={"t": 400})
    whole = artifact._sessions["sample.onnx"].run(None, inputs)[0]
    assert np.abs(alone - whole).max() <= chunk.max_abs + 1e-7
    small = artifact.sample(seed=5, n=2, sizes={"t": 64})["sound"]
    assert np.abs(sounds[..., :240] - small[..., :240]).max() <= 1e-6, "but for its end"
