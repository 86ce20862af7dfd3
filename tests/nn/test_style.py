"""Layers of style-based generators, against their definition with weights of each row."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc.nn.style import Mapping, ModulatedConv2d


def by_rows(layer: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """Karras et al. 2020, eq. 1 and 3: each row convolved with weights of its own."""
    outputs = []
    for row, style in zip(x, layer.style(w), strict=True):
        weight = layer.weight * layer.scale * style[None, :, None, None]
        if layer.demodulate:
            weight = weight * (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        row = row.repeat_interleave(2, 1).repeat_interleave(2, 2) if layer.up else row
        outputs.append(F.conv2d(row[None], weight, padding=weight.shape[2] // 2))
    return torch.cat(outputs)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(("kernel", "demodulate"), [(3, True), (1, False)])
def test_modulation_of_activations_equals_that_of_weights(
    up: bool, kernel: int, demodulate: bool
) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 4, kernel, 6, up=up, demodulate=demodulate).double()
    x = torch.randn(3, 5, 4, 2, dtype=torch.float64)
    w = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, w), by_rows(layer, x, w), rtol=0, atol=1e-12)


def test_mapping_ignores_the_length_of_a_latent() -> None:
    torch.manual_seed(0)
    mapping, z = Mapping(6, 0, 2).double(), torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(mapping(3 * z, None), mapping(z, None))
