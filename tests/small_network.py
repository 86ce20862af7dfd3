"""A small network for perceptual losses: a user's file with its weights beside it."""

from pathlib import Path

import torch
from safetensors.torch import save_file

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def feature_maps(self, x):
        return [self.first(x), self.first(x).relu()]
"""


def write(folder: Path) -> str:
    """Write net.py and net.safetensors; the path of the former."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3)
    (folder / "net.py").write_text(NETWORK)
    state = {f"first.{name}": value for name, value in layer.state_dict().items()}
    save_file(state, folder / "net.safetensors")
    return str(folder / "net.py")
