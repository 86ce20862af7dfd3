"""A foreign ONNX upscaler with free height and width, sealed by its signature."""

from pathlib import Path

import numpy as np
import pytest

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.artifact.axes import Axis
from aigc.sealing import seal
from tests.sealing.foreign import node, write

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
