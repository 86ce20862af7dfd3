"""Activation checkpointing keeps less and computes the same bits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aigc.training.recomputation import recompute_activations
from tests.training.small_runs import differing, finish, small


@pytest.mark.process
@pytest.mark.parametrize(
    "preset",
    ["dcgan:digits", "dcgan:wgan_gp", "dcgan:article", "audio_vae:spoken_digits"],
)
def test_activation_checkpointing_changes_no_bit(preset: str) -> None:
    """With spectral norm, BatchNorm, gradients of gradients, Dropout, and modules in lists."""
    config = small(preset, batch=4, samples=4 * 6)
    assert differing(finish(config), finish(replace(config, activation_checkpointing=True))) == []


class Block(nn.Module):
    """A residual block whose statistics change with every pass in training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.norm(self.inner(x)).relu()


class Network(nn.Module):
    """One block that is used twice, and two in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.rest = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.first(x), scale=0.5)
        for block in self.rest:
            x = block(x)
        return x


def saved_bytes(network: nn.Module, x: Tensor) -> tuple[int, list[Tensor]]:
    """Size of what a pass keeps for its backward pass, and the gradients."""
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(x).square().sum()
    size = sum(kept.values())
    return size, list(torch.autograd.grad(loss, list(network.parameters())))


def test_recomputed_parts_keep_their_inputs_only() -> None:
    torch.manual_seed(0)
    plain, x = Network(), torch.randn(64, 8)
    again = Network()
    again.load_state_dict(plain.state_dict())
    assert recompute_activations(again) == 2 + 1
    much, expected = saved_bytes(plain, x)
    little, gradients = saved_bytes(again, x)
    assert little < much / 2
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    # The statistics moved once for each pass, and the recomputed ones did not move them again.
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name
    assert again.state_dict().keys() == plain.state_dict().keys()


def test_recomputation_is_off_where_no_gradient_is_wanted() -> None:
    network = Network()
    recompute_activations(network)
    x = torch.randn(4, 8)
    network.eval()
    assert torch.equal(network(x), network(x))
    program = torch.export.export(network, (x,))
    assert not any("checkpoint" in str(node.target) for node in program.graph.nodes)
