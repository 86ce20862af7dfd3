"""Graphs of reduced precision: the numbers inside smaller, inputs and outputs as they were.

reduce_graph(data, "float16", [])                       # weights and arithmetic
reduce_graph(data, "int8", [])                          # weights alone, by channel
reduce_graph(data, "int8-conv", [{"image": images}])    # also the inputs of Conv, calibrated

Dynamic quantisation is not offered: its scale is that of a whole batch, so that a sample would
depend on those beside it. onnxruntime's converters are imported where they are used, after
aigc.artifact.runtime and not by an export of float32.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc.artifact.precision import ReducedPrecision
from aigc.artifact.sampling_inputs import Arrays

MIN_VALUES = 512
"""Fewest numbers of a weight that is quantised: smaller ones, such as biases, save nothing."""
MIN_OPSET = 13
"""First version of ONNX's operators whose DequantizeLinear has a scale for each channel."""

_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0, "GRU": 1, "LSTM": 1, "RNN": 1}
"""Axis of the output's channels in the weights, by operator; of MatMul and Gemm see below."""
_REDUCED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)


def reduce_graph(data: bytes, precision: ReducedPrecision, calibration: Sequence[Arrays]) -> bytes:
    """The graph with its numbers in `precision`; names and types of its ends stay.

    `calibration`: inputs of several runs, from which int8-conv takes the ranges of what Conv reads;
    a graph without Conv gets int8 weights alone. A graph without weights stays as it is. Raises
    ValueError for a graph that is reduced already, and for one that cannot be.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_model_from_string(data)
    if any(one.data_type in _REDUCED and one.dims for one in model.graph.initializer):
        raise ValueError("its weights are of reduced precision already; leave out --precision")
    if not any(one.data_type == TensorProto.FLOAT for one in model.graph.initializer):
        return data
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    size = len(model.graph.node)
    if precision == "float16":
        model = convert_float_to_float16(model, keep_io_types=True)
    else:
        _check_opset(model)
        if precision == "int8-conv" and has_conv(model.graph):
            model = _with_static_conv(model, calibration)
        _quantise_weights(model.graph)
    if len(model.graph.node) == size:
        return data
    sorted_model = ONNXModel(model)
    sorted_model.topological_sort()
    reduced: bytes = sorted_model.model.SerializeToString()
    return reduced


def has_conv(graph: onnx.GraphProto) -> bool:
    """True of a graph with a Conv whose weights are constant."""
    weights = {one.name for one in graph.initializer}
    return any(node.op_type == "Conv" and node.input[1] in weights for node in graph.node)


def _check_opset(model: onnx.ModelProto) -> None:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise ValueError(
            f"int8 needs opset {MIN_OPSET} or newer, it has {opset}; export the graph anew, or take"
            " --precision float16"
        )


def _quantise_weights(graph: onnx.GraphProto) -> None:
    """Store float32 weights as int8 with a scale for each channel; arithmetic stays in float32."""
    given = {one.name for one in graph.input}
    axes = _axes(graph)
    nodes = []
    for weight in list(graph.initializer):
        axis = axes.get(weight.name)
        size = int(np.prod(weight.dims))
        if axis is None or weight.name in given or size < MIN_VALUES:
            continue
        if weight.data_type == TensorProto.FLOAT:
            nodes.append(_quantise(graph, weight, axis % len(weight.dims)))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Axis of the channels of each weight of an operator that multiplies by it or looks it up."""
    axes: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            by_row = any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = -2 if by_row else -1
        elif node.op_type == "Gather":
            axes.setdefault(node.input[0], _CHANNELS["Gather"])
        elif node.op_type in _CHANNELS:
            last = 3 if node.op_type in ("GRU", "LSTM", "RNN") else 2
            axes |= dict.fromkeys(node.input[1:last], _CHANNELS[node.op_type])
    return axes


def _quantise(graph: onnx.GraphProto, weight: onnx.TensorProto, axis: int) -> onnx.NodeProto:
    """Replace a weight by its int8 form; the node gives the weight its name back."""
    from onnxruntime.quantization.quant_utils import quantize_data, quantize_onnx_initializer

    channels = np.moveaxis(numpy_helper.to_array(weight), axis, 0)
    found = [quantize_data(row.ravel(), TensorProto.INT8, symmetric=True) for row in channels]
    zero_point = np.array([each[0] for each in found], np.int8)
    scale = np.array([each[1] for each in found], np.float32)
    name = weight.name
    parts = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
    quantised = quantize_onnx_initializer(
        weight, TensorProto.INT8, zero_point, scale, axis, parts[0]
    )
    graph.initializer.remove(weight)
    graph.initializer.extend(
        [
            quantised,
            numpy_helper.from_array(scale, parts[1]),
            numpy_helper.from_array(zero_point, parts[2]),
        ]
    )
    return helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize", axis=axis)


class _Calibration:
    """Inputs of one run after another."""

    def __init__(self, runs: Sequence[Arrays]) -> None:
        self._runs = iter(runs)

    def get_next(self) -> Arrays | None:
        return next(self._runs, None)


def _with_static_conv(model: onnx.ModelProto, calibration: Sequence[Arrays]) -> onnx.ModelProto:
    """Conv in int8, its inputs too, by ranges that calibration has seen.

    Conv alone: other operators lose more than they gain, or have no int8 form.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="aigc-int8-") as temporary, _quiet():
        path = Path(temporary) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            # Without the eighth bit sums of 16 bits do not saturate: processors with and without
            # VNNI give the same.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which advises on the root logger to preprocess models."""
    root = logging.getLogger()
    disabled = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
