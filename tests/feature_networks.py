"""Small feature networks for tests, as files."""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    channels = 3

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)

    def feature_maps(self, x):
        first = self.first(x)
        return [first, self.second(first)]
"""


def own_network(folder: Path) -> Path:
    path = folder / "small.py"
    path.write_text(NETWORK)
    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(1)
    network = namespace["Network"]()  # type: ignore[operator]
    network.first[1].running_mean += 0.3
    save_file(network.state_dict(), folder / "small.safetensors")
    return path


def graph(
    path: Path, shape: tuple[object, ...] = ("N", 3, 4, 4), metadata: dict[str, str] | None = None
) -> Path:
    """Sum of each channel, doubled, and the input as a map."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Add", ["mean", "mean"], ["features"]),
        helper.make_node("Identity", ["x"], ["map"]),
    ]
    out = [
        helper.make_tensor_value_info(
            "features", TensorProto.FLOAT, [shape[0], 3, *[1] * (len(shape) - 2)]
        ),
        helper.make_tensor_value_info("map", TensorProto.FLOAT, list(shape)),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], out),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path
