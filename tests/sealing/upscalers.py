"""Convolutional upscalers by two, made node by node, that see `layers` places on either side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.sealing.foreign import node, write


def upscaler(
    path: Path,
    layers: int = 3,
    after_first: Sequence[onnx.NodeProto] = (),
    taken: tuple[str, int] = ("lr", 1),
) -> Path:
    """(N, channels, height, width) -> (N, 1, 2 height, 2 width) in 0..1.

    `after_first` nodes turn `a` into `b`; `taken`: name and channels of the input.
    """
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Any] = {}
    value, channels = taken
    for i in range(layers):
        more = 4
        name = f"w{i}"
        weights[name] = rng.normal(0, 2 / np.sqrt(9 * channels), (more, channels, 3, 3))
        out = "a" if not i else f"c{i}"
        nodes.append(node("Conv", f"{value} {name}", out, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        if not i:
            nodes += [*after_first] or [node("Identity", "a", "b")]
            out = "b"
        if i < layers - 1:
            nodes.append(node("Tanh", out, f"t{i}"))
            out = f"t{i}"
        value, channels = out, more
    nodes += [node("DepthToSpace", value, "d", blocksize=2), node("Sigmoid", "d", "hr")]
    return write(
        path,
        [(taken[0], "float32", ["N", taken[1], "height", "width"])],
        [("hr", "float32", ["N", 1, None, None])],
        nodes,
        {key: array.astype(np.float32) for key, array in weights.items()}
        | {"one": np.ones(1, np.float32), "axes": np.array([2, 3])},
    )


GLOBAL = {
    "average over all places": [
        node("GlobalAveragePool", "a", "mean"),
        node("Sub", "a mean", "b"),
    ],
    "largest of all places": [
        node("ReduceMax", "a axes", "top", keepdims=1),
        node("Div", "a top", "b"),
    ],
}
"""Nodes by which every place sees all others."""

PLACED = [
    node("Mul", "a zero", "flat"),
    node("Add", "flat one", "ones"),
    node("CumSum", "ones axis", "rows"),
    node("Mul", "rows hundredth", "low"),
    node("Add", "a low", "b"),
]
"""Nodes by which a place's value depends on its row, though it sees no other place."""
