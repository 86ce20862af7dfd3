"""Graphs are read before onnxruntime reads them: no file but the artifact's own, no foreign code,
no size that a caller chooses."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from aigc.artifact import Artifact, ArtifactError
from aigc.artifact.graph import MAX_DEPTH, check_graph
from aigc.artifact.manifest import File
from tests.artifact.hostile import (
    FLOAT,
    added,
    by_label,
    const,
    forever,
    model,
    node,
    write,
    zeros_graph,
)

SECRET = b"hunter2!" * 8
FILES = {"graphs/w.bin": File(sha256="0" * 64, bytes=64)}


def check(graph: onnx.ModelProto | bytes) -> dict[str, str]:
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    return check_graph("graphs/sample.onnx", data, FILES).external


def refused(graph: onnx.ModelProto | bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check(graph)


def outside(location: str, offset: object = 0, length: object = 64, size: int = 64) -> Any:
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.UINT8, dims=[1, size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, f"{value}"
    return tensor


def shown(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """The bytes of a tensor as a picture where the label is 1."""
    nodes = [
        node("Cast", ["elsewhere"], ["number"], to=FLOAT),
        node("Div", ["number", "levels"], ["grey"]),
        node("Cast", ["label"], ["hit"], to=FLOAT),
        node("Unsqueeze", ["hit", "one_at"], ["column"]),
        node("Mul", ["column", "grey"], ["flat"]),
        node("Reshape", ["flat", "picture"], ["image"]),
    ]
    return model(nodes, [tensor, const("levels", np.float32(255))])


@pytest.mark.parametrize(
    "location",
    [
        "secret.txt",
        "./secret.txt",
        "../secret.txt",
        "graphs/../secret.txt",
        "/etc/hostname",
        "/proc/self/environ",
        "self/environ",
        "*/_ORT_MEM_ADDR_/*",
        "*/_ORT_MEM_ADDR_W/*",
        "..\\secret.txt",
        "graphs//w.bin",
        "./w.bin",
        "",
        "manifest.json",
        "file:///etc/hostname",
        "w.bin\0",
        "w\ud800.bin".encode(errors="replace").decode(),
    ],
)
def test_unsealed_external_file_is_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that file lies in the working directory, from which onnxruntime would read it."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "artifact", shown(outside(location)))
    with pytest.raises(ArtifactError, match=r"none of the files|outside of the artifact"):
        Artifact.open(folder, verify=False)


def test_external_weights_are_those_that_were_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the same name in the working directory are not read."""
    weights = np.arange(80, dtype=np.uint8).tobytes()
    graph = shown(outside("w.bin", offset=16))
    folder = write(tmp_path / "artifact", graph, extra={"graphs/w.bin": weights})
    for decoy in (tmp_path, tmp_path / "graphs"):
        decoy.mkdir(exist_ok=True)
        (decoy / "w.bin").write_bytes(SECRET * 2)
    monkeypatch.chdir(tmp_path)
    image = Artifact.open(folder).sample(seed=0, n=1, label=1)["image"]
    assert np.array_equal(np.rint(image.ravel() * 255), np.arange(16, 80))


@pytest.mark.parametrize(
    ("offset", "length", "size"),
    [
        (1, 64, 64),
        (0, 65, 65),
        (0, 64, 32),
        (0, 32, 64),
        (-1, 64, 64),
        ("0x0", 64, 64),
        ("", 64, 64),
        (2**63, 64, 64),
        (0, 64, 0),
        (" 0", 64, 64),
        ("٠", 64, 64),
    ],
)
def test_external_weights_beyond_their_file_are_refused(
    offset: object, length: object, size: int
) -> None:
    refused(shown(outside("w.bin", offset, length, size)), r"no offset and length|bytes for")


def test_external_weights_outside_initializers_are_refused() -> None:
    """onnxruntime would look for those on the disk, and not in what was hashed."""
    tensor = outside("w.bin")
    constant = node("Constant", [], ["elsewhere"], value=tensor)
    refused(model([constant, *zeros_graph()]), "constant 'elsewhere' outside of its file")
    refused(
        by_label(
            [node("Constant", [], ["x"], value=tensor), node("Identity", ["before"], ["then"])]
        ),
        "outside of its file",
    )
    branch = helper.make_graph(
        [node("Identity", ["before"], ["then"])],
        "then",
        [],
        [helper.make_tensor_value_info("then", FLOAT, None)],
        [tensor],
    )
    graph = by_label([node("Identity", ["before"], ["then"])])
    (chosen,) = (one for one in graph.graph.node if one.op_type == "If")
    chosen.attribute[0].g.CopyFrom(branch)
    refused(graph, "outside of its file")
    graph = model(zeros_graph())
    graph.functions.append(function("F0", [constant, node("Identity", ["x"], ["y"])]))
    refused(graph, "outside of its file")


def test_external_location_is_checked_without_its_flag() -> None:
    tensor = outside("/etc/hostname")
    tensor.data_location = TensorProto.DEFAULT
    refused(shown(tensor), "none of the files|outside of the artifact")


def function(name: str, nodes: list[onnx.NodeProto], domain: str = "f") -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, opsets)


def doubling(depth: int) -> onnx.ModelProto:
    """F1 calls F0 twice, F2 calls F1 twice: 2 ** depth operators."""
    graph = model([*zeros_graph("before"), node(f"F{depth}", ["before"], ["image"], domain="f")])
    for level in range(depth + 1):
        called = {
            "op_type": f"F{level - 1}" if level else "Identity",
            "domain": "f" if level else "",
        }
        twice = [node(inputs=["x"], outputs=["m"], **called)]
        twice.append(node(inputs=["m"], outputs=["y"], **called))
        graph.functions.append(function(f"F{level}", twice))
    return graph


def wide(calls: int) -> onnx.ModelProto:
    """doubling() with few levels of many calls each."""
    graph = doubling(3)
    for level, body in enumerate(graph.functions):
        called = body.node[0]
        del body.node[:]
        for at in range(calls):
            names = ["x" if not at else f"m{at}"], ["y" if at == calls - 1 else f"m{at + 1}"]
            body.node.append(node(called.op_type, *names, domain=called.domain))
        assert body.name == f"F{level}"
    return graph


def test_functions_are_inlined_within_a_bound(tmp_path: Path) -> None:
    Artifact.open(write(tmp_path / "small", doubling(4)))
    refused(doubling(30), f"more than {MAX_DEPTH} deep, or in a circle")
    refused(wide(40), "100,000 operators when its functions are written out")
    circle = doubling(1)
    circle.functions[0].node[0].op_type = "F1"
    circle.functions[0].node[0].domain = "f"
    refused(circle, "in a circle")


def test_functions_that_shadow_operators_or_hold_graphs_are_refused() -> None:
    for domain in ("", "ai.onnx"):
        graph = model(zeros_graph())
        graph.functions.append(function("Reshape", [node("Identity", ["x"], ["y"])], domain))
        refused(graph, "two functions 'Reshape', or one of ONNX's own name")
    graph = doubling(0)
    body = by_label([node("Identity", ["before"], ["then"])]).graph
    graph.graph.node[-1].attribute.append(helper.make_attribute("body", body))
    refused(graph, "hands a graph to function 'F0'")


def test_nested_graphs_are_bounded() -> None:
    graph = by_label([node("Identity", ["before"], ["then"])])
    for _ in range(MAX_DEPTH):
        inner = graph.graph.node[-1]
        inner.output[0] = "then"
        graph = by_label([inner])
    refused(graph, "graphs within graphs more than 8 deep|more than 8 deep")


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("Reshape", "evil.ops"),
        ("EPContext", "com.microsoft"),
        ("PyOp", "pyopmulti"),
        ("Gelu", "com.microsoft"),
        ("LabelEncoder", "ai.onnx.ml"),
        ("Adagrad", "ai.onnx.preview.training"),
        ("StringConcat", ""),
        ("ImageDecoder", ""),
        ("SequenceConstruct", ""),
        ("ConcatFromSequence", ""),
        ("SequenceMap", ""),
        ("OptionalGetElement", ""),
        ("TfIdfVectorizer", ""),
        ("reshape", ""),
        ("NoSuchThing", ""),
        ("", ""),
    ],
)
def test_operators_outside_numeric_onnx_are_refused(op: str, domain: str) -> None:
    """Wherever they stand: in the graph, in a branch, in a function."""
    strange = node(op, ["before"], ["strange"], domain=domain)
    message = f"operator '{op}'"
    refused(model([*zeros_graph("before"), strange]), message)
    refused(by_label([strange, node("Identity", ["before"], ["then"])]), message)
    graph = doubling(0)
    graph.functions[0].node.append(node(op, ["x"], ["strange"], domain=domain))
    refused(graph, message)


def test_operators_that_draw_random_numbers_are_refused() -> None:
    drawn = node("RandomNormal", [], ["drawn"], shape=[1])
    message = "draws random numbers by 'RandomNormal', which no seed determines"
    refused(model([*zeros_graph("before"), drawn]), message)


SIZED = {
    "Reshape": (["big", "size"], {}),
    "Expand": (["big", "size"], {}),
    "Tile": (["big", "size"], {}),
    "ConstantOfShape": (["size"], {}),
    "Range": (["zero", "count", "step"], {}),
    "Resize": (["before", "", "size_f"], {}),
    "Upsample": (["before", "size_f"], {}),
    "Pad": (["before", "size"], {}),
    "Slice": (["before", "size", "size"], {}),
    "OneHot": (["big", "count", "pair"], {}),
    "TopK": (["big", "size"], {}),
    "Split": (["big", "size"], {}),
    "HannWindow": (["count"], {}),
    "ReduceMax": (["before", "size"], {}),
    "CenterCropPad": (["before", "size"], {}),
    "MelWeightMatrix": (["count", "count", "count", "nothing", "nothing"], {}),
}


@pytest.mark.parametrize("op", SIZED)
def test_output_sizes_must_not_depend_on_input_values(op: str) -> None:
    """However they come there: through arithmetic, a choice, an index or the shape of a choice."""
    ways = {
        "arithmetic": [node("ReduceMax", ["label"], ["count"], keepdims=0)],
        "choice": [
            node("Shape", ["label"], ["rows"]),
            node("Equal", ["label", "one_at"], ["is_one"]),
            node("Where", ["is_one", "rows", "one_at"], ["picked"]),
            node("ReduceMax", ["picked"], ["count"], keepdims=0),
        ],
        "index": [node("Gather", ["sizes", "label"], ["count"])],
    }
    for nodes in ways.values():
        sized = [*nodes, *from_count(op)]
        refused(added(sized, "made", *CONSTANTS), f"how much '{op}' makes depends on the values")
    counted = [node("NonZero", ["label"], ["found"]), node("Shape", ["found"], ["count"])]
    refused(added([*counted, *from_count(op)], "made", *CONSTANTS), "'NonZero' makes depends")


CONSTANTS = (
    const("sizes", np.array([1, 1 << 40], np.int64)),
    const("zero", np.int64(0)),
    const("step", np.int64(1)),
    const("pair", np.zeros(2, np.float32)),
    const("big", np.ones((4, 4), np.float32)),
)


def from_count(op: str) -> list[onnx.NodeProto]:
    inputs, attributes = SIZED[op]
    return [
        node("Reshape", ["count", "one_at"], ["size"]),
        node("Cast", ["size"], ["size_f"], to=FLOAT),
        node(op, inputs, ["made"], **attributes),
    ]


def test_output_sizes_may_depend_on_input_sizes() -> None:
    """Exports do this: a shape is split, computed with and joined."""
    nodes = [
        node("Shape", ["latent"], ["shape"]),
        node("Gather", ["shape", "zero_at"], ["rows"]),
        node("Mul", ["rows", "one_at"], ["more"]),
        node("Equal", ["more", "one_at"], ["single"]),
        node("Where", ["single", "one_at", "more"], ["size"]),
        node("ConstantOfShape", ["size"], ["made"]),
    ]
    assert check(added(nodes, "made")) == {}
    check(added([*nodes[:-1], node("Reshape", ["label", "size"], ["x"])], "x"))


def test_branches_and_loops_may_depend_on_inputs(tmp_path: Path) -> None:
    """Serving bounds the time and memory of every run."""
    rounds = const("always", np.array(True))
    nodes = [node("ReduceMax", ["label"], ["rounds"], keepdims=0), forever()]
    folder = write(tmp_path / "a", model([*zeros_graph("before"), *nodes], [rounds]))
    artifact = Artifact.open(folder)
    assert artifact.sample(seed=0, n=2, label=1)["image"].shape == (2, 1, 8, 8)
    assert not artifact.is_bounded("sample")
    assert Artifact.open(write(tmp_path / "b", model(zeros_graph()))).is_bounded("sample")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no graph"),
        (b"no graph", "is no ONNX model"),
        (b"\x08", "cut off"),
        (b"\x08" + b"\xff" * 12, "more than 64 bits"),
        (b"\x3a\xff\xff\xff\xff\x0f", "cut off"),
        (b"\x3b\x3c", "field 7 of wire type 3"),
        (b"\xa2\x01\x00", "field 20 of wire type 2"),
        (b"\x7a\x00", "field 15 of wire type 2"),
    ],
)
def test_malformed_model_is_refused(data: bytes, message: str) -> None:
    refused(data, message)


def test_repeated_protobuf_field_is_refused() -> None:
    """Protobuf would merge or replace it, and another reader might not."""
    data = model(zeros_graph()).SerializeToString()
    refused(data + data, "stands twice")
    graph = model(zeros_graph())
    twice = graph.graph.node[0].SerializeToString() + b"\x22\x05Slice"
    graph.graph.node[0].ParseFromString(b"")
    data = graph.SerializeToString()
    assert check_graph("g", model(zeros_graph()).SerializeToString(), {}).external == {}
    field = b"\x0a" + bytes([len(twice)]) + twice
    body = b"\x3a" + bytes([len(field)]) + field
    refused(b"\x08\x09" + body, "field 4 stands twice")


def test_text_training_and_sparse_tensors_are_refused() -> None:
    texts = helper.make_tensor("texts", TensorProto.STRING, [1], [b"text"])
    refused(model(zeros_graph(), [texts]), "field 6")
    sparse = model(zeros_graph())
    values, indices = const("v", np.ones(1, np.float32)), const("i", np.zeros(1, np.int64))
    sparse.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20])
    )
    refused(sparse, "field 15")
    trained = model(zeros_graph())
    trained.training_info.add()
    refused(trained, "field 20")
    many = const("many", np.zeros(1, np.float32))
    many.dims[:] = [2**62] * 1000
    refused(model(zeros_graph(), [many]), "more than 64 axes")


def test_ort_format_is_refused() -> None:
    """Also one that is an ONNX model, too: a text in front, and in it the other format."""
    data = model(zeros_graph(), producer_name="").SerializeToString()
    hidden = b"\x12\x20\0\0ORTM" + bytes(28) + data
    assert hidden[4:8] == b"ORTM"
    refused(hidden, "format of onnxruntime's own")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_check_answers_any_bytes_with_its_own_error(data: st.DataObject) -> None:
    """An accepted graph names no file outside of the artifact, for onnx either."""
    whole = bytearray(shown(outside("w.bin")).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if what == "flip":
            whole[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del whole[at : at + data.draw(st.integers(1, 8))]
        elif what == "insert":
            whole[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            whole[at:at] = whole[at : at + data.draw(st.integers(1, 64))]
    try:
        check(bytes(whole))
    except ArtifactError:
        return
    try:
        read = onnx.ModelProto.FromString(bytes(whole))
    except DecodeError:
        return  # in a part that nothing of ours needs: then onnxruntime does not load it either
    for tensor in read.graph.initializer:
        said = {entry.key: entry.value for entry in tensor.external_data}
        assert said.get("location", "w.bin") == "w.bin"


@pytest.mark.process
def test_checking_hostile_graphs_takes_bounded_time() -> None:
    """Many parts of nothing: the reader stops, before onnxruntime would read them all."""
    refused(b"\x72\x00" * 3_000_000, "too many parts")
