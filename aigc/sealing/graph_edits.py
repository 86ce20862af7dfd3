"""Edits of a foreign graph's ends: names, layout, element types and the batch axis of a manifest.

edit_inputs(model, guesses)         # the graph takes the tensors of the manifest
free_batch(model)                   # a batch axis of a fixed size of 1 becomes free
model = rows_alone(model, has_axis=True)     # each row by itself
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aigc.sealing.tensor_guess import Edit, Guess

BATCH = "batch"
_TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
    **{
        f"{sign}int{bits}": getattr(TensorProto, f"{sign}INT{bits}".upper())
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
MIN_OPSET = 13
"""Opset since which Squeeze and Unsqueeze take their axes as an input."""


class _Ends:
    """Nodes that are put before or behind a graph, each value named by a number."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.taken: set[str] = set()
        for graph in _graphs(model.graph):
            self.taken.update(
                value.name for value in (*graph.input, *graph.output, *graph.initializer)
            )
            self.taken.update(name for node in graph.node for name in (*node.input, *node.output))
        self._opset = opset(model)

    def name(self, stem: str) -> str:
        """A name that the graph does not use."""
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = self.name(f"{op.lower()}_at_end")
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        name = self.name("constant_at_end")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def axes(self, op: str, value: str, axes: Sequence[int]) -> str:
        """Squeeze or Unsqueeze axes, counted with the batch axis."""
        if self._opset < MIN_OPSET:
            return self.add(op, [value], axes=list(axes))
        return self.add(op, [value, self.constant(np.array(axes, np.int64))])


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the graph is written in."""
    return max(
        (one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1
    )


def edit_inputs(model: onnx.ModelProto, guesses: Sequence[Guess]) -> None:
    """Replace the inputs by those of the manifest, converted as the guesses say."""
    ends = _Ends(model)
    values = []
    for guess in guesses:
        spec, own = guess.spec, guess.value
        plain = not guess.edits and spec.name == own
        name = spec.name if plain or spec.name == own else ends.name(spec.name)
        if spec.name == own and not plain:  # the graph's own value gets another name
            _rename(model, own, own := ends.name(f"{own}_inside"))
        elif name != spec.name:  # a value inside has the name of the input
            _rename(model, spec.name, name)
            name = spec.name
        values.append(helper.make_tensor_value_info(name, _TYPES[spec.dtype], [BATCH, *spec.shape]))
        if plain:
            continue
        value = name
        for edit in guess.edits:
            value = _forward(ends, value, edit, len(spec.shape))
        ends.nodes.append(helper.make_node("Identity", [value], [own]))
    del model.graph.input[:]
    model.graph.input.extend(values)
    model.graph.initializer.extend(ends.constants)
    nodes = [*ends.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def edit_outputs(model: onnx.ModelProto, guesses: Sequence[Guess]) -> None:
    """Replace the outputs by those of the manifest, converted as the guesses say."""
    ends = _Ends(model)
    values = []
    for guess in guesses:
        spec, own = guess.spec, guess.value
        plain = not guess.edits and spec.name == own
        if not plain:
            if spec.name in ends.taken:
                inside = ends.name(f"{spec.name}_inside")
                _rename(model, spec.name, inside)
                own = inside if own == spec.name else own
            value = own
            for edit in reversed(guess.edits):
                value = _backward(ends, value, edit)
            ends.nodes.append(helper.make_node("Identity", [value], [spec.name]))
        values.append(
            helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], [BATCH, *spec.shape])
        )
    del model.graph.output[:]
    model.graph.output.extend(values)
    model.graph.initializer.extend(ends.constants)
    model.graph.node.extend(ends.nodes)


def _forward(ends: _Ends, value: str, edit: Edit, rank: int) -> str:
    """From the manifest's tensor towards the graph's."""
    if edit.op == "transpose":
        return ends.add("Transpose", [value], perm=[0, 2, 3, 1])
    if edit.op == "drop_axes":
        return ends.axes("Squeeze", value, [axis + 1 for axis in edit.value])
    if edit.op == "insert_axis":
        return ends.axes("Unsqueeze", value, list(range(1, edit.value + 1)))
    if edit.op == "scale":
        return ends.add("Mul", [value, ends.constant(np.array(edit.value, np.float32))])
    if edit.op == "one_hot":
        depth = ends.constant(np.array([edit.value], np.int64))
        return ends.add("OneHot", [value, depth, ends.constant(np.array([0, 1], np.float32))])
    target = edit.value[1]
    if edit.op == "round_cast":
        info = np.iinfo(target)
        # The nearest float32 above 2^31 - 1 is 2^31, which would wrap around.
        high = np.nextafter(np.float32(info.max), np.float32(0)) if info.bits >= 32 else info.max
        value = ends.add("Round", [value])
        low, most = (ends.constant(np.array(bound, np.float32)) for bound in (info.min, high))
        value = ends.add("Min", [ends.add("Max", [value, low]), most])
    return ends.add("Cast", [value], to=_TYPES[target])


def _backward(ends: _Ends, value: str, edit: Edit) -> str:
    """From the graph's tensor towards the manifest's."""
    if edit.op == "transpose":
        return ends.add("Transpose", [value], perm=[0, 3, 1, 2])
    if edit.op == "drop_axes":
        return ends.axes("Unsqueeze", value, [axis + 1 for axis in edit.value])
    if edit.op == "scale":
        return ends.add("Mul", [value, ends.constant(np.array(1 / edit.value, np.float32))])
    assert edit.op in ("cast", "round_cast")
    return ends.add("Cast", [value], to=_TYPES[edit.value[0]])


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a value in the whole graph, graphs within nodes included."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            if value.name == old:
                value.name = new


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs within its nodes."""
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in (a for node in graph.node for a in node.attribute):
            waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def free_batch(model: onnx.ModelProto) -> None:
    """Make the batch axis of inputs and outputs free, and forget what was known of other values.

    A Reshape to a constant shape that begins with 1 takes the number of rows of its input. Only a
    run shows that the graph still computes the same.
    """
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for node in model.graph.node:
        if (
            node.op_type == "Constant"
            and node.output[0] in shapes
            and node.attribute[0].HasField("t")
        ):
            _free_first(node.attribute[0].t)
    for tensor in model.graph.initializer:
        if tensor.name in shapes:
            _free_first(tensor)


def _free_first(tensor: onnx.TensorProto) -> None:
    shape = numpy_helper.to_array(tensor).copy()
    if shape.ndim == 1 and len(shape) > 1 and shape[0] == 1 and (shape[1:] != 0).all():
        if -1 in shape[1:]:
            # Of two unknown sizes one is that of the input: 0 copies it.
            shape[0] = 0
        else:
            shape[0] = -1
        tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def rows_alone(model: onnx.ModelProto, *, has_axis: bool) -> onnx.ModelProto:
    """A graph of one sample as one that runs on each row of a batch by itself, in a Scan.

    `has_axis`: the graph's tensors have a batch axis of 1; else they have none. Its inputs and
    outputs get other names: a value within may not have the name of one without.
    """
    inner, ends = model.graph, _Ends(model)
    body_inputs, inputs, before = _row_inputs(inner.input, ends, has_axis)
    body_outputs, outputs, behind = _row_outputs(inner.output, ends, has_axis)
    body = helper.make_graph([*before, *inner.node, *behind], "row", body_inputs, body_outputs)
    scan = helper.make_node(
        "Scan",
        [value.name for value in inputs],
        [value.name for value in outputs],
        body=body,
        num_scan_inputs=len(inputs),
    )
    weights = [*inner.initializer, *ends.constants]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(helper.make_graph([scan], "rows", inputs, outputs, initializer=weights))
    return made


_Values = list[onnx.ValueInfoProto]


def _row_inputs(
    values: Iterable[onnx.ValueInfoProto], ends: _Ends, has_axis: bool
) -> tuple[_Values, _Values, list[onnx.NodeProto]]:
    """Inputs of the body, inputs of the whole, and the nodes that give a row its batch axis."""
    rows, wholes = [], []
    for value in values:
        tensor = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim][1 if has_axis else 0 :]
        row, whole = ends.name(f"{value.name}_row"), ends.name(f"{value.name}_all")
        rows.append(helper.make_tensor_value_info(row, tensor.elem_type, dims))
        wholes.append(helper.make_tensor_value_info(whole, tensor.elem_type, [BATCH, *dims]))
        made = ends.axes("Unsqueeze", row, [0]) if has_axis else row
        ends.nodes.append(helper.make_node("Identity", [made], [value.name]))
    nodes, ends.nodes = ends.nodes, []
    return rows, wholes, nodes


def _row_outputs(
    values: Iterable[onnx.ValueInfoProto], ends: _Ends, has_axis: bool
) -> tuple[_Values, _Values, list[onnx.NodeProto]]:
    """As _row_inputs(), for outputs."""
    rows, wholes = [], []
    for value in values:
        kind = value.type.tensor_type.elem_type
        row, whole = ends.name(f"{value.name}_row"), ends.name(f"{value.name}_all")
        rows.append(helper.make_tensor_value_info(row, kind, None))
        wholes.append(helper.make_tensor_value_info(whole, kind, None))
        last = ends.axes("Squeeze", value.name, [0]) if has_axis else value.name
        ends.nodes.append(helper.make_node("Identity", [last], [row]))
    nodes, ends.nodes = ends.nodes, []
    return rows, wholes, nodes


def strip(model: onnx.ModelProto) -> None:
    """Remove notes on the origin, which may hold paths of the machine that exported the graph, and
    weights from the inputs, where old files list them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        for item in (*part.node, *part.value_info):
            del item.metadata_props[:]
            item.doc_string = ""
