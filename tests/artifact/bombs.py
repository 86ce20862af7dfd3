"""Graphs of a few bytes that take gigabytes to run."""

import numpy as np
import onnx

from tests.artifact.hostile import (
    FLOAT,
    added,
    const,
    node,
)


def whole(name: str, *shape: int) -> onnx.TensorProto:
    return const(name, np.array(shape, np.int64))


def squared(times: int) -> list[onnx.NodeProto]:
    """A column times its row, again and again: 4 ** (2 ** times) numbers."""
    nodes = []
    for k in range(times):
        of = f"flat{k}" if k else "four"
        nodes += [
            node("Reshape", [of, "column"], [f"column{k}"]),
            node("Reshape", [of, "line"], [f"line{k}"]),
            node("MatMul", [f"column{k}", f"line{k}"], [f"square{k}"]),
            node("Reshape", [f"square{k}", "minus"], [f"flat{k + 1}"]),
        ]
    return nodes


SQUARED = (
    const("four", np.ones(4, np.float32)),
    whole("column", -1, 1),
    whole("line", 1, -1),
    whole("minus", -1),
)
GROWING = (
    node("Shape", ["latent"], ["shape"]),
    node("Gather", ["shape", "zero_at"], ["n"]),
    node("Mul", ["n", "n"], ["n2"]),
    node("Mul", ["n2", "n2"], ["n4"]),
    node("Mul", ["n4", "n4"], ["n8"]),
    node("ConstantOfShape", ["n8"], ["made"]),
)
BOMBS = {
    "folded": added([node("ConstantOfShape", ["size"], ["made"])], "made", whole("size", 1 << 30)),
    "tiled": added(
        [node("Tile", ["before", "size"], ["made"])], "made", whole("size", 1, 64, 64, 64)
    ),
    "expanded": added(
        [node("Expand", ["row", "size"], ["made"])], "made", whole("size", 1 << 24, 64)
    ),
    "padded": added(
        [node("Pad", ["before", "size"], ["made"])], "made", whole("size", *[0] * 6, 9999, 9999)
    ),
    "resized": added(
        [node("Resize", ["before", "", "scale"], ["made"], mode="nearest")],
        "made",
        const("scale", np.array([1, 1, 999, 999], np.float32)),
    ),
    "counted": added(
        [node("Range", ["zero", "most", "step"], ["r"]), node("Cast", ["r"], ["made"], to=FLOAT)],
        "made",
        *(const(k, np.int64(v)) for k, v in {"zero": 0, "most": 1 << 32, "step": 1}.items()),
    ),
    "multiplied": added(squared(4), "flat4", *SQUARED),
    "with the batch": added(GROWING, "made"),
    "one-hot": added(
        [node("OneHot", ["rows", "depth", "pair"], ["made"])],
        "made",
        const("rows", np.zeros(1 << 10, np.int64)),
        const("depth", np.int64(1 << 20)),
        const("pair", np.zeros(2, np.float32)),
    ),
}
