"""Facts that a graph tells of its inputs and outputs: type, axes, last activation, classes.

for fact in input_facts(model): print(fact.name, fact.dims)     # x uint8 (1, 3, 8, 8)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aigc.artifact.manifest import ArtifactError

DTYPES: tuple[str, ...] = ("float32", "float64", "float16", "bool")
DTYPES += tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
"""Element types that can be converted to float32 or int64; uint64 only below 2^63."""

_SAME_VALUES = {
    *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"),
    *("Slice", "DepthToSpace", "Round"),
}
"""Operators that move values and do not change them, but for rounding."""
_ACTIVATIONS = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
MAX_STEPS = 64
"""Most operators between an activation, or an index, and the end of the graph."""


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or output of a graph."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None
    """Sizes, the batch axis first; a name or None where one is open; None if nothing is known."""
    span: tuple[float, float] | None = None
    """Values that it can have, from the graph's last operators."""
    because: str = ""
    """Operator that says so."""
    classes: int = 0
    """Rows of the table that it selects from, or size of its one-hot code; 0 if there is none."""


def input_facts(model: onnx.ModelProto) -> list[TensorFacts]:
    """The inputs that a caller gives. Raises ArtifactError for what is no tensor of numbers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    if not values:
        raise ArtifactError("the graph has no input: nothing could be drawn or given")
    return [
        replace(_typed(value, "input"), classes=_num_classes(model, value.name)) for value in values
    ]


def output_facts(model: onnx.ModelProto) -> list[TensorFacts]:
    """The outputs. Raises ArtifactError as input_facts() does."""
    found = []
    for value in model.graph.output:
        span, because = _last_activation(model, value.name)
        found.append(replace(_typed(value, "output"), span=span, because=because))
    return found


def _typed(value: onnx.ValueInfoProto, what: str) -> TensorFacts:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ArtifactError(
            f"{what} {value.name!r} is a {(kind or 'value without a type').replace('_type', '')};"
            " an artifact's inputs and outputs are tensors of numbers"
        )
    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    if dtype not in DTYPES:
        raise ArtifactError(
            f"{what} {value.name!r} holds {dtype}, which no artifact has; convert it to float32"
            " before the export"
        )
    dims: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        dims = tuple(
            dim.dim_value
            if dim.HasField("dim_value") and dim.dim_value > 0
            else dim.dim_param or None
            for dim in tensor.shape.dim
        )
    return TensorFacts(name=value.name, dtype=dtype, dims=dims)


def _last_activation(model: onnx.ModelProto, name: str) -> tuple[tuple[float, float] | None, str]:
    """Range of an output by the activation that it ends in, and the operator's name."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = _constants(model)
    for _ in range(MAX_STEPS):
        node = makers.get(name)
        if node is None:
            return None, ""
        if node.op_type in _ACTIVATIONS:
            return _ACTIVATIONS[node.op_type], node.op_type
        if node.op_type == "Clip":
            span = _clip(node, constants)
            return span, "Clip" if span else ""
        if node.op_type not in _SAME_VALUES or not node.input:
            return None, ""
        name = node.input[0]
    return None, ""


def _clip(
    node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]
) -> tuple[float, float] | None:
    """Constant bounds of a Clip, which opsets below 11 have as attributes; None if one is open."""
    given = {a.name: np.array(a.f) for a in node.attribute}
    bounds = [given.get("min"), given.get("max")]
    if len(node.input) == 3:
        bounds = [constants.get(name) for name in node.input[1:]]
    low, high = (np.nan if b is None or b.size != 1 else float(b.reshape(())) for b in bounds)
    return (low, high) if -np.inf < low < high < np.inf else None


def _num_classes(model: onnx.ModelProto, name: str) -> int:
    """Rows of the one table that an input selects from, or depth of its one-hot code; else 0."""
    constants = _constants(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in _readers(model, name):
        if node.op_type == "Gather" and shapes.get(node.input[0]):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return int(shapes[node.input[0]][axis])
        if node.op_type == "OneHot" and (depth := constants.get(node.input[1])) is not None:
            return int(depth.reshape(-1)[0])
    return 0


def _readers(model: onnx.ModelProto, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes that read an input's values, by way of nodes that only move them."""
    names = {name}
    for node in model.graph.node:  # sorted: a value is made before it is read
        if not names & set(node.input):
            continue
        if node.op_type in _SAME_VALUES and len(names) < MAX_STEPS:
            names |= set(node.output)
        else:
            yield node


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Small constants by name."""
    small = [t for t in model.graph.initializer if len(t.dims) == 0 or np.prod(t.dims) <= 8]
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small}
    for node in model.graph.node:
        if (
            node.op_type == "Constant"
            and len(node.attribute) == 1
            and node.attribute[0].HasField("t")
        ):
            tensor = node.attribute[0].t
            if np.prod(tensor.dims) <= 8:
                found[node.output[0]] = onnx.numpy_helper.to_array(tensor)
    return found
