"""Foreign ONNX files: what each tensor is taken for, how its ends are converted, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc.artifact.manifest import ArtifactError
from aigc.artifact.runtime import ort
from aigc.sealing import onnx_file
from aigc.sealing.foreign_graph import ForeignGraph, Questions, adapt
from aigc.sealing.hints import Hints
from aigc.sealing.onnx_file import read_onnx
from tests.sealing.foreign import generator, node, upscaler, vocoder, write

pytestmark = pytest.mark.process

Make = Callable[[Path], Path]


def adapted(path: Path, each_alone: bool = False, **facts: Any) -> ForeignGraph:
    hints = Hints.of_facts(facts)
    lines: list[str] = []
    return adapt(read_onnx(path), path.name, hints, each_alone=each_alone, say=lines.append)


def run(graph: ForeignGraph, **inputs: Any) -> dict[str, np.ndarray]:
    """Outputs of the adapted graph, whose inputs have the types of its signature."""
    specs = {spec.name: spec for spec in graph.signature.inputs}
    feeds = {name: np.asarray(value, specs[name].dtype) for name, value in inputs.items()}
    session = ort.InferenceSession(graph.model.SerializeToString())
    names = [spec.name for spec in graph.signature.outputs]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    for spec in graph.signature.outputs:
        assert outputs[spec.name].dtype == spec.dtype
        assert outputs[spec.name].shape[1:] == spec.shape
    return outputs


def same(kind: str, shape: list[Any], name: str = "x") -> Make:
    """A graph that gives what it takes."""
    return lambda path: write(
        path,
        [(name, kind, shape)],
        [("y", kind, shape)],
        [node("Identity", name, "y")],
    )


def facts_of(graph: ForeignGraph) -> list[tuple[Any, ...]]:
    specs = (*graph.signature.inputs, *graph.signature.outputs)
    return [(spec.name, spec.kind, spec.dtype, spec.shape, spec.range) for spec in specs]


def test_generator_is_recognised(tmp_path: Path) -> None:
    graph = adapted(generator(tmp_path / "g.onnx"))
    assert facts_of(graph) == [
        ("z", "latent", "float32", (4,), None),
        ("y", "label", "int64", (), (0, 2)),
        ("image", "image", "float32", (1, 8, 8), (-1, 1)),
    ]
    z = np.random.default_rng(0).normal(size=(5, 4))
    together = run(graph, z=z, y=[0, 1, 2, 0, 1])["image"]
    alone = [run(graph, z=z[i : i + 1], y=[i % 3])["image"][0] for i in range(5)]
    assert np.array_equal(together, np.stack(alone))


def test_channels_last_levels_are_transposed_and_rounded(tmp_path: Path) -> None:
    graph = adapted(same("uint8", ["N", 6, 8, 3])(tmp_path / "x.onnx"))
    assert facts_of(graph)[0] == ("x", "image", "float32", (3, 6, 8), (0, 255))
    image = np.random.default_rng(0).uniform(-20, 280, (2, 3, 6, 8))
    expected = np.rint(image.astype(np.float32)).clip(0, 255)
    assert np.array_equal(run(graph, x=image)["y"], expected)


def test_range_of_an_image_is_asked_for_unless_the_graph_or_a_flag_tells(tmp_path: Path) -> None:
    path = upscaler(tmp_path / "up.onnx")
    with pytest.raises(Questions, match=r"up.onnx does not .*; give --range lr=LOW..HIGH, its bl"):
        adapted(path)
    # The Clip of the output says more than a range for all.
    assert [fact[-1] for fact in facts_of(adapted(path, range="-1..1"))] == [(-1, 1), (0, 1)]


def test_sound_is_given_channels_and_full_scale(tmp_path: Path) -> None:
    path = vocoder(tmp_path / "v.onnx")
    with pytest.raises(Questions, match="give --sample-rate wav=HZ"):
        adapted(path)
    graph = adapted(path, sample_rate=16000)
    assert facts_of(graph)[1] == ("wav", "audio", "float32", (1, 512), (-1, 1))
    assert graph.signature.outputs[0].sample_rate_hz == 16000
    whole = adapted(
        same("int16", ["N", 300], "wav")(tmp_path / "i.onnx"),
        kind={"y": "audio"},
        sample_rate=8000,
    )
    wave = np.float32([[np.linspace(-1, 1, 300)]])
    levels = np.rint(wave * 32768).clip(-32768, 32767)
    assert np.array_equal(run(whole, wav=wave)["y"], levels / 32768)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("float16", "float32"), ("float64", "float32"), ("int32", "int64"), ("bool", "float32")],
)
def test_element_types_are_converted(kind: str, wanted: str, tmp_path: Path) -> None:
    graph = adapted(same(kind, ["N", 4])(tmp_path / "x.onnx"))
    assert [spec.dtype for spec in graph.signature.inputs] == [wanted]
    given = [[0, 1, 1, 0]] if kind == "bool" else [[-3, 0, 1, 2]]
    assert run(graph, x=given)["y"].tolist() == given


def test_one_hot_code_becomes_a_label(tmp_path: Path) -> None:
    path = same("float32", ["N", 3], "label")(tmp_path / "x.onnx")
    with pytest.raises(Questions, match="give --kind label=label or --kind label=vector"):
        adapted(path)
    graph = adapted(path, kind={"label": "label"}, classes=["a", "b", "c"])
    assert graph.signature.inputs[0].classes == ("a", "b", "c")
    assert run(graph, label=[2, 0])["y"].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_setting_becomes_one_number_per_sample(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.onnx",
        [("noise", "float32", ["N", 4]), ("scale", "float32", ["N", 1])],
        [("y", "float32", ["N", 4])],
        [node("Mul", "noise scale", "y")],
    )
    with pytest.raises(Questions, match=r"--range scale=LOW..HIGH and --default scale=NUMBER"):
        adapted(path, kind={"scale": "setting"})
    graph = adapted(path, kind={"scale": "setting"}, range={"scale": "0..2"}, default={"scale": 1})
    assert graph.signature.drawable
    assert run(graph, noise=np.ones((2, 4)), scale=[0, 2])["y"].tolist() == [[0] * 4, [2] * 4]


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    path = same("float32", ["N", 3, "h", "w"])(tmp_path / "x.onnx")
    with pytest.raises(ArtifactError, match=r"'x' leaves sizes open: .*; give --shape x=SIZES"):
        adapted(path, range="0..1")
    assert facts_of(adapted(path, shape={"x": "3x4x5"}, range="0..1"))[1][3] == (3, 4, 5)
    with pytest.raises(ValueError, match=r"--shape x=1x4x5: the graph has \(3, 'h', 'w'\)"):
        adapted(path, shape={"x": "1x4x5"}, range="0..1")


def centred(path: Path, batch: Any, axes: list[int], shape: list[int]) -> Path:
    """Numbers less their mean over axes, (batch, 4, 4) -> (batch, 2, 8)."""
    return write(
        path,
        [("x", "float32", [*batch, 4, 4])],
        [("y", "float32", [*batch, 2, 8])],
        [
            node("ReduceMean", "x axes", "mean", keepdims=1),
            node("Sub", "x mean", "centred"),
            node("Reshape", "centred shape", "y"),
        ],
        {"axes": np.int64(axes), "shape": np.int64(shape)},
    )


@pytest.mark.parametrize(
    ("batch", "axes", "shape", "alone"),
    [
        ([1], [1, 2], [1, 2, 8], False),  # the constant size is made free
        ([1], [0, 1, 2], [1, 2, 8], True),  # rows would be mixed
        ([], [0, 1], [2, 8], True),
    ],
    ids=["freed", "mixing", "without an axis"],
)
def test_graph_of_one_sample_takes_a_batch(
    batch: list[int], axes: list[int], shape: list[int], alone: bool, tmp_path: Path
) -> None:
    path = centred(tmp_path / "x.onnx", batch, axes, shape)
    graph = adapted(path, each_alone=not batch)
    assert any(one.op_type == "Scan" for one in graph.model.graph.node) == alone
    x = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    expected = (x - x.mean((1, 2), keepdims=True)).reshape(5, 2, 8)
    np.testing.assert_allclose(run(graph, x=x)["y"], expected, atol=1e-6)
    if not batch:
        with pytest.raises(ArtifactError, match=r"'x' .* without a batch axis first; .*--each-al"):
            adapted(path)


def test_odd_names_become_plain_ones(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.onnx",
        [("model", "float32", ["N", 4]), ("input.1 é", "float32", ["N", 4])],
        [("model_", "float32", ["N", 4])],
        [
            node("Relu", "model", "input_1"),
            helper.make_node("Add", ["input_1", "input.1 é"], ["model_"]),
        ],
    )
    graph = adapted(path, rename={"input.1 é": "bias"})
    assert [fact[0] for fact in facts_of(graph)] == ["model_", "bias", "model__2"]
    assert run(graph, model_=[[1, -1, 2, 0]], bias=[[1] * 4])["model__2"].tolist() == [[2, 1, 3, 1]]


def test_weights_beside_the_file_are_taken_inside(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.onnx",
        [("z", "float32", ["N", 4])],
        [("y", "float32", ["N", 2])],
        [node("MatMul", "z w", "y")],
        {"w": np.arange(8, dtype=np.float32).reshape(4, 2)},
        save_as_external_data=True,
        location="x.onnx.data",
        size_threshold=0,
    )
    assert run(adapted(path), z=[[1, 0, 0, 1]])["y"].tolist() == [[6, 8]]
    secret = tmp_path / "secret"
    (tmp_path / "x.onnx.data").rename(secret)
    (tmp_path / "x.onnx.data").symlink_to(secret)  # may point to any file of this machine
    with pytest.raises(ArtifactError, match=r"keeps 'w' in .*, which is none of the files b"):
        read_onnx(path)


def unary(*nodes: onnx.NodeProto, kind: str = "float32", **weights: Any) -> Make:
    return lambda path: write(
        path, [("x", kind, ["N", 4])], [("y", kind, ["N", 4])], nodes, weights
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            unary(node("RandomNormalLike", "x", "r"), node("Add", "x r", "y")),
            "draws random numbers by 'RandomNormalLike', which no seed determines; make the noise",
        ),
        (
            unary(node("Dropout", "x p on", "y"), p=np.float32(0.5), on=np.array(True)),
            r"in training mode: it drops values .*; export it after module.eval\(\)",
        ),
        (
            unary(node("ReduceMean", "x axes", "m", keepdims=1), node("Sub", "x m", "y"),
                  axes=np.int64([0])),
            "a sample differs by .* alone and in a batch, so no seed would determine it",
        ),
        (unary(node("Gelu", "x", "y", domain="com.microsoft")), "'Gelu' of 'com.microsoft'"),
        (unary(node("Identity", "x", "y"), kind="string"), "'x' holds string, which no artifact"),
        (
            unary(node("ConstantOfShape", "big", "m"), node("ReduceMax", "m", "c", keepdims=0),
                  node("Add", "x c", "y"), big=np.int64([1 << 20, 1 << 20])),
            "a first run (fails|ended its process|needs more memory)",
        ),
        (unary(node("NonZero", "x", "i"), node("Cast", "i", "y", to=1)), "'NonZero' makes"),
        (lambda path: path.write_text("hello") and path, "it is no ONNX model"),
        (lambda path: path.write_bytes(b"ORTMORTM") and path, "a format of onnxruntime's own"),
        (lambda path: path, "x.onnx cannot be read: No such file"),
        (lambda path: path.mkdir() or path, "x.onnx is no file; give an ONNX file"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_no_artifact_may_be_is_refused(make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message) as error:
        adapted(make(tmp_path / "x.onnx"))
    assert "\n" not in str(error.value)


def test_file_larger_than_a_protobuf_message_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = generator(tmp_path / "g.onnx")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    with pytest.raises(ArtifactError, match=r"an imported graph has at most .* split the model"):
        read_onnx(path)
