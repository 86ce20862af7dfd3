"""Artifacts as a stranger would make them: sealed with the project's own code, of any graph."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc.artifact.folder import Contents, SealedFolder
from aigc.artifact.manifest import (
    Manifest,
    Parity,
    Reproducibility,
    Signature,
    TensorSpec,
    Training,
    seal,
)

SHAPE = (1, 8, 8)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def const(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


WEIGHTS = (
    const("zero_at", np.array([0], np.int64)),
    const("one_at", np.array([1], np.int64)),
    const("nothing", np.float32(0)),
    const("row", np.zeros((1, 64), np.float32)),
    const("picture", np.array([-1, *SHAPE], np.int64)),
)


def zeros_graph(image: str = "image") -> list[onnx.NodeProto]:
    """image = 0 for whatever latent: (N, 1, 8, 8)."""
    return [
        node("Slice", ["latent", "zero_at", "one_at", "one_at"], ["first"]),
        node("Mul", ["first", "nothing"], ["none"]),
        node("Add", ["none", "row"], ["flat"]),
        node("Reshape", ["flat", "picture"], [image]),
    ]


def model(
    nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto] = (), **more: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [
            helper.make_tensor_value_info("latent", FLOAT, ["N", 4]),
            helper.make_tensor_value_info("label", INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("image", FLOAT, ["N", *SHAPE])],
        [*WEIGHTS, *weights],
    )
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", "f")]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def added(
    nodes: Sequence[onnx.NodeProto], value: str, *weights: onnx.TensorProto
) -> onnx.ModelProto:
    """The picture of zeros, for which `value` has to be there, all of it."""
    return model(
        [
            *zeros_graph("before"),
            *nodes,
            node("ReduceSum", [value], ["sum"], keepdims=0),
            node("Mul", ["sum", "nothing"], ["no_sum"]),
            node("Add", ["before", "no_sum"], ["image"]),
        ],
        weights,
    )


def by_label(branch: Sequence[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.ModelProto:
    """Output `then` of a branch for label 1, a value that no reference has, else `before`."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(list(branch), "then", [], [value("then", FLOAT, None)])
    same = node("Identity", ["before"], ["same"])
    other = helper.make_graph([same], "else", [], [value("same", FLOAT, None)])
    nodes = [
        *zeros_graph("before"),
        node("ReduceMax", ["label"], ["top"], keepdims=0),
        node("Equal", ["top", "one"], ["hit"]),
        node("If", ["hit"], ["image"], then_branch=then, else_branch=other),
    ]
    return model(nodes, [const("one", np.int64(1)), *weights])


def forever(image: str = "image", of: str = "before") -> onnx.NodeProto:
    """A Loop of `rounds` rounds, which `always` goes on."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["goes"]), node("Add", ["sum_in", "sum_in"], ["sum_out"])],
        "body",
        [value("round", INT64, []), value("go", BOOL, []), value("sum_in", FLOAT, None)],
        [value("goes", BOOL, []), value("sum_out", FLOAT, None)],
    )
    return node("Loop", ["rounds", "always", of], [image], body=body)


ROUNDS = (const("rounds", np.int64(2**62)), const("always", np.array(True)))


def references(n: int = 4) -> bytes:
    latent = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    buffer = io.BytesIO()
    arrays = {"in/latent": latent, "in/label": np.zeros(n, np.int64)}
    np.savez(buffer, **arrays, **{"out/image": np.zeros((n, *SHAPE), np.float32)})
    return buffer.getvalue()


def write(
    folder: Path,
    graph: onnx.ModelProto | bytes,
    *,
    name: str = "stranger",
    version: str = "1",
    npz: bytes | None = None,
    extra: dict[str, bytes] | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    """A sealed artifact of a graph that gives zeros for its references."""
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    files = {"graphs/sample.onnx": data, "references/sample.npz": npz or references()}
    for path, content in (files | (extra or {})).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    specs = (
        TensorSpec(name="latent", kind="latent", dtype="float32", shape=(4,)),
        TensorSpec(
            name="label", kind="label", dtype="int64", shape=(), range=(0, 1), classes=("a", "b")
        ),
    )
    image = TensorSpec(name="image", kind="image", dtype="float32", shape=SHAPE, range=(-1, 1))
    signature = Signature(graph="graphs/sample.onnx", inputs=specs, outputs=(image,))
    manifest = Manifest(
        name=name,
        version=version,
        family="gan",
        model="dcgan",
        preset="none",
        created="2026-01-01T00:00:00Z",
        licence="none",
        signatures={"sample": signature},
        reproducibility={"sample": Reproducibility(level="bit", max_abs=0)},
        parity={"sample": Parity(max_abs=0, uint8_mismatch=0, samples=1, batch_sizes=(1,))},
        training=Training(config={}, samples=1, data={}, wall_seconds=1, workers=1),
    )
    seal(folder, change(manifest))
    return folder


def contents(folder: Path) -> tuple[bytes, Contents]:
    """Arguments of try_out()."""
    sealed = SealedFolder.open(str(folder))
    return sealed.manifest_bytes, sealed.contents(*sealed.graphs())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
