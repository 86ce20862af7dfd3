"""Small ONNX files as other projects have them, made node by node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
Tensor = tuple[str, str, Sequence[Any]]
"""Name, element type and shape with the batch axis; None where a size is open."""


def write(
    path: Path,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    opset: int = 18,
    **model: Any,
) -> Path:
    """Write a graph; `weights` are arrays by name."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, TYPES[t], shape) for n, t, shape in inputs],
        [helper.make_tensor_value_info(n, TYPES[t], shape) for n, t, shape in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path, **model)
    return path


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are names between blanks."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def upscaler(
    path: Path,
    batch: Any = "N",
    names: tuple[str, str] = ("lr", "hr"),
    size: tuple[Any, Any] = (8, 16),
) -> Path:
    """Twice the size by repetition, (N, 3, 8, 8) -> (N, 3, 16, 16), then a clip to 0..1."""
    small, large = names
    return write(
        path,
        [(small, "float32", [batch, 3, size[0], size[0]])],
        [(large, "float32", [batch, 3, size[1], size[1]])],
        [
            node("Resize", f"{small} roi scales", "up", mode="nearest"),
            node("Clip", "up low high", large),
        ],
        {
            "roi": np.zeros(0, np.float32),
            "scales": np.float32([1, 1, 2, 2]),
            "low": np.float32(0),
            "high": np.float32(1),
        },
    )


def generator(path: Path) -> Path:
    """(N, 4) noise and (N,) int32 classes of 3 -> (N, 1, 8, 8) in -1..1."""
    rng = np.random.default_rng(0)
    return write(
        path,
        [("z", "float32", ["N", 4]), ("y", "int32", ["N"])],
        [("image", "float32", ["N", 1, 8, 8])],
        [
            node("Gather", "table y", "code"),
            node("Add", "z code", "sum"),
            node("MatMul", "sum w", "flat"),
            node("Tanh", "flat", "squashed"),
            node("Reshape", "squashed shape", "image"),
        ],
        {
            "table": rng.normal(size=(3, 4)).astype(np.float32),
            "w": rng.normal(size=(4, 64)).astype(np.float32),
            "shape": np.int64([-1, 1, 8, 8]),
        },
    )


def vocoder(path: Path) -> Path:
    """(N, 4, 8) mel -> (N, 512) samples."""
    rng = np.random.default_rng(0)
    return write(
        path,
        [("mel", "float32", ["N", 4, 8])],
        [("wav", "float32", ["N", 512])],
        [
            node("Reshape", "mel shape", "flat"),
            node("MatMul", "flat w", "raw"),
            node("Tanh", "raw", "wav"),
        ],
        {"shape": np.int64([-1, 32]), "w": rng.normal(size=(32, 512)).astype(np.float32) / 8},
    )
