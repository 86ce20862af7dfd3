"""A foreign ONNX upscaler with free height and width, sealed by its signature."""

import base64
from pathlib import Path

import numpy as np
import pytest

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.artifact.axes import Axis
from aigc.artifact.image_files import png, read_png
from aigc.commands import import_onnx
from aigc.sealing import seal
from tests.sealing.foreign import node, write
from tests.serve.client import limited, serving

AXES = {name: Axis(min=4, max=40, multiple=2, default=8) for name in ("h", "w")}


def image(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, kind="image", dtype="float32", shape=shape, range=(0, 1))


def signature(factor: str) -> Signature:
    return Signature(
        graph="enlarge.onnx",
        inputs=(image("lr", 3, "h", "w"),),
        outputs=(image("hr", 3, f"{factor}*h", f"{factor}*w"),),
        axes=AXES,
    )


@pytest.fixture
def upscaler(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write(
        tmp_path / "upscaler.onnx",
        [("lr", "float32", ["N", 3, "height", "width"])],
        [("hr", "float32", ["N", 3, None, None])],  # nobody inferred them
        [
            node("Conv", "lr first", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Resize", "a roi scales", "b", mode="nearest"),
            node("Clip", "b low high", "hr"),
        ],
        {
            "first": rng.normal(size=(3, 3, 3, 3)).astype(np.float32) / 9,
            "roi": np.zeros(0, np.float32),
            "scales": np.float32([1, 1, 2, 2]),
            "low": np.float32(0),
            "high": np.float32(1),
        },
    )


def test_a_graph_with_open_sizes_is_sealed_with_free_axes(upscaler: Path, tmp_path: Path) -> None:
    uri = seal(
        upscaler, name="up", store=tmp_path / "store", signatures={"enlarge": signature("2")}
    )
    artifact = Artifact.open(uri)
    assert len(artifact.reference_sizes("enlarge")) == 4
    lr = np.random.default_rng(1).random((1, 3, 22, 6), np.float32)
    assert artifact.run("enlarge", {"lr": lr})["hr"].shape == (1, 3, 44, 12)
    with pytest.raises(ValueError, match="lr: h must be a multiple of 2"):
        artifact.run("enlarge", {"lr": lr[:, :, :21]})


def test_a_signature_of_other_outputs_than_the_graph_s_is_refused(
    upscaler: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="hr"):
        seal(upscaler, name="up", store=tmp_path / "store", signatures={"enlarge": signature("3")})


def test_import_keeps_sizes_free_that_the_graph_leaves_open(
    upscaler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--name", "up", "--out", str(tmp_path / "store"), "--range", "0..1"]
    axes = ["--axis", "height=4..40:2", "width=4..30:2:6"]
    assert import_onnx.command([str(upscaler), *flags, *axes]) == 0
    uri = capsys.readouterr().out.strip()
    artifact = Artifact.open(uri)
    signature = artifact.signature("transform")
    assert signature.outputs[0].shape == (3, "2*height", "2*width")
    assert signature.axes["width"] == Axis(min=4, max=30, multiple=2, default=6)
    assert len(artifact.reference_sizes("transform")) >= 3
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with serving(limited(metrics), uri) as client:
        levels = np.random.default_rng(0).integers(0, 256, (22, 9, 3), np.uint8)
        given = base64.b64encode(png(levels)).decode()
        body = {"model": "up", "signature": "transform", "inputs": {"lr": given}, "format": "png"}
        answer = client.request("POST", "/v1/samples", json=body)
        found = read_png(answer.content)[0]
    assert found.shape == (44, 16, 3), "the picture's own size, one column cropped"
    lr = levels[:, :8].transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    assert np.array_equal(
        found, artifact.uint8("transform", artifact.run("transform", {"lr": lr}))[0]
    )


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("depth=4..40", "no input has a size of that name; open sizes are: height, width"),
        ("height=4..x", "axis must be NAME=MIN..MAX"),
        ("height=5..40:2", "must be multiples of 2"),
        ("height=4..40", r"leaves sizes open: .* or --axis NAME=MIN..MAX"),
    ],
)
def test_import_refuses_axes_that_do_not_fit(
    upscaler: Path, tmp_path: Path, axis: str, reason: str
) -> None:
    flags = ["--name", "up", "--out", str(tmp_path / "store"), "--range", "0..1"]
    more = ["width=4..30"] if "5" in axis else []
    with pytest.raises(ValueError, match=reason):
        import_onnx.command([str(upscaler), *flags, "--axis", axis, *more])
